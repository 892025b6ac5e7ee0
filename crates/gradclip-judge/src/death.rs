//! Whether and how a run was lost.

use crate::record::{Run, StepRecord};
use crate::statistics::{median, quantile};

/// A gradient of more than this many times the usual norm before it is an explosion, if it reached
/// the optimizer.
const EXPLODED_ABOVE_TIMES: f64 = 100.0;
/// The median of fewer norms may belong to the explosion itself; then the least is the usual norm.
const FEWEST_NORMS: usize = 10;
/// The first gradient of a run has none before it to compare with; this is the usual threshold.
const USUAL_AT_FIRST: f64 = 1.0;
/// An explosion may have caused the end of a run if it lies within this many steps of it.
const CAUSE_WITHIN_STEPS: usize = 100;
/// A run is lost if its loss ends above this many times its start, finite or not.
pub(crate) const LOST_ABOVE_TIMES: f64 = 1.5;
/// The end of a run is its last tenth, and at least this many steps.
const END_STEPS: usize = 5;

/// The gradients that led to a run's end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Explosion {
    /// The step and the norm of the first gradient that exploded.
    pub(crate) first: (u64, f64),
    /// The longest one that was applied.
    pub(crate) longest: (u64, f64),
}

/// How a run was lost.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Death {
    /// Something was not finite at the end.
    Broken {
        /// The gradients that led to it.
        explosion: Option<Explosion>,
        /// The first non-finite step of the end; `None` if only the evaluation was not finite.
        from: Option<u64>,
        /// The loss at the start and before the break, if the latter is far above.
        losses: Option<(f64, f64)>,
    },
    /// Everything is finite, but the loss ended far above its start.
    Risen {
        /// The gradients that led to it.
        explosion: Option<Explosion>,
        /// The step from which on the loss stayed far above, if it did.
        from: Option<u64>,
        /// The loss at the start and at the end.
        losses: (f64, f64),
    },
}

impl Death {
    /// The gradients that led to it.
    pub(crate) fn explosion(&self) -> Option<Explosion> {
        match self {
            Death::Broken { explosion, .. } | Death::Risen { explosion, .. } => *explosion,
        }
    }

    pub(crate) fn is_explosion(&self) -> bool {
        match self {
            Death::Broken { explosion, .. } => explosion.is_some(),
            Death::Risen { .. } => true,
        }
    }

    /// `None` if the run was not lost.
    pub(crate) fn of(run: &Run<'_>) -> Option<Death> {
        let steps = run.steps.as_slice();
        let end = steps.iter().rposition(|step| !step.broken());
        let end = end.map_or(0, |last| last + 1);
        let validation_broke = run.val_loss.is_some_and(|loss| !loss.is_finite());
        // A step that was skipped in time does no harm.
        let last_broke = steps
            .last()
            .is_some_and(|last| last.broken() && (!last.skipped() || run.diverged));
        if run.diverged || validation_broke || last_broke {
            // A run that stops at its first such gradient has no record of that step.
            let unrecorded = steps.last().map_or(1, |last| last.step + 1);
            let unrecorded = Some(unrecorded).filter(|_| run.diverged && !validation_broke);
            return Some(Death::Broken {
                explosion: explosion(&steps[..end]),
                from: steps.get(end).map(|step| step.step).or(unrecorded),
                losses: risen(&steps[..end], run.first_loss, None).map(|(losses, _)| losses),
            });
        }
        let (losses, from) = risen(steps, run.first_loss, run.val_loss)?;
        Some(Death::Risen {
            explosion: from
                .and_then(|from| explosion(&steps[..=from.min(steps.len() - 1)]))
                .map(|found| found.with_longest_of(steps)),
            from: from.and_then(|from| steps.get(from)).map(|step| step.step),
            losses,
        })
    }
}

impl Explosion {
    /// Replaces `longest` by the longest of these steps' gradients, from the first explosion on.
    fn with_longest_of(self, steps: &[StepRecord]) -> Explosion {
        let later = steps.iter().filter(|step| step.step >= self.first.0);
        let applied = later.filter(|step| step.norm_applied().is_some());
        let norms = applied.map(|step| (step.step, step.norm_before));
        let longest = norms.fold(self.first, |longest, norm| match norm.1 > longest.1 {
            true => norm,
            false => longest,
        });
        Explosion { longest, ..self }
    }
}

/// The gradients that exploded and were applied in the last of these steps.
fn explosion(steps: &[StepRecord]) -> Option<Explosion> {
    let start = steps.len().saturating_sub(CAUSE_WITHIN_STEPS);
    let mut before: Vec<f64> = steps[..start].iter().filter_map(ordinary).collect();
    before.sort_by(f64::total_cmp);
    for step in &steps[start..] {
        let applied = step.norm_applied();
        // In a resumed run, the first of these steps need not be the first of the run.
        let usual = match before.is_empty() && step.step <= 1 {
            true => Some(USUAL_AT_FIRST),
            false => usual(&before),
        };
        if let (Some(usual), Some(applied)) = (usual, applied)
            && applied / usual > EXPLODED_ABOVE_TIMES
        {
            let first = (step.step, step.norm_before);
            let longest = first;
            return Some(Explosion { first, longest }.with_longest_of(steps));
        }
        if let Some(norm) = ordinary(step) {
            let place = before.partition_point(|known| *known < norm);
            before.insert(place, norm);
        }
    }
    None
}

/// The usual norm, of norms in ascending order; `None` if it is zero.
fn usual(norms: &[f64]) -> Option<f64> {
    let usual = match norms.len() < FEWEST_NORMS {
        true => norms.iter().copied().find(|norm| *norm > 0.0),
        false => quantile(norms, 0.5),
    };
    usual.filter(|usual| *usual > 0.0)
}

/// The norm of a step, if it is finite.
fn ordinary(step: &StepRecord) -> Option<f64> {
    (!step.broken()).then_some(step.norm_before)
}

/// The loss at the start and at the end, and the index of the step from which on it stayed far
/// above its start, if it did; `None` if it did not end far above.
fn risen(
    steps: &[StepRecord],
    first_loss: Option<f64>,
    val_loss: Option<f64>,
) -> Option<((f64, f64), Option<usize>)> {
    let losses = |steps: &[StepRecord]| -> Vec<f64> {
        let losses = steps.iter().filter_map(|step| step.loss);
        losses.filter(|loss| loss.is_finite()).collect()
    };
    let began = first_loss.or(losses(steps).first().copied())?;
    let bound = LOST_ABOVE_TIMES * began;
    if steps.len() < 2 * END_STEPS || began <= 0.0 {
        return None;
    }
    let end = steps.len() - (steps.len() / 10).max(END_STEPS);
    let ended = median(losses(&steps[end..]))?;
    let ended = val_loss.map_or(ended, |loss| loss.max(ended));
    if ended <= bound {
        return None;
    }
    let below = |step: &StepRecord| step.loss.is_some_and(|loss| loss <= bound);
    let from = steps.iter().rposition(below).map_or(0, |last| last + 1);
    Some(((began, ended), Some(from).filter(|from| *from <= end)))
}
