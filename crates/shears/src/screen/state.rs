//! The state of the screen, which is the columns of the log so far, and the picture drawn from it.

use std::collections::BTreeMap;
use std::path::Path;

use gradclip::ClipAction;
use gradclip_judge::statistics::{LATELY, mean, share};
use gradclip_judge::{TimeFlow, Verdict};
use shears_run::{Columns, Event, Header, Sample, Subject};
use shears_train::{Plan, STEPS_JUDGED};

use crate::comparison::smoothed;
use crate::output::one_line;
use crate::report;
use crate::watch::smooth;

/// The most points of a curve; a terminal shows fewer.
const MOST_POINTS: usize = 1024;

/// What does not change during a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The folder of the run.
    pub(crate) run: String,
    /// The name of its model.
    pub(crate) title: String,
    pub(crate) steps: u64,
    pub(crate) subject: Subject,
}

impl Setup {
    pub(crate) fn new(plan: &Plan, run: &Path) -> Setup {
        Setup {
            run: one_line(&run.display().to_string()),
            title: report::model_name(plan),
            steps: plan.steps,
            subject: Subject::of(run),
        }
    }
}

/// The points of a curve: steps and values.
pub(super) type Points = Vec<(f64, f64)>;

/// Everything that is drawn of a run: a few thousand numbers, however long it is.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) step: u64,
    /// The step at which this call began.
    pub(super) began_at: u64,
    pub(super) speed: Option<f64>,
    pub(super) losses: Points,
    /// The losses, smoothed as in reports.
    pub(super) smoothed: Points,
    pub(super) largest_losses: Points,
    pub(super) validation: Points,
    /// The newest smoothed loss; not finite if the newest loss is not.
    pub(super) loss: Option<f64>,
    pub(super) norms: Points,
    pub(super) thresholds: Points,
    pub(super) norm: Option<f64>,
    pub(super) threshold: Option<f64>,
    /// The norm of each layer at the newest step; NaN where it is not finite, and zero before the
    /// first step.
    pub(super) layers: Vec<(String, f64)>,
    /// The share of clipped steps in the whole run, and in the last steps.
    pub(super) clipped: (f64, f64),
    pub(super) skipped: u64,
    pub(super) verdict: Option<Verdict>,
    pub(super) sample: Option<Sample>,
    pub(super) time_flow: Option<TimeFlow>,
}

/// What is still known of the steps that the columns no longer have.
#[derive(Debug, Default)]
struct Forgotten {
    steps: u64,
    clipped: u64,
    skipped: u64,
}

/// What is known of a run.
#[derive(Debug, Default)]
pub(super) struct State {
    subject: Subject,
    /// Without the norms of single tensors, which would be most of a long run's columns. Of more
    /// than [`STEPS_JUDGED`] steps, only the newer.
    pub(super) columns: Columns,
    forgotten: Forgotten,
    header: Option<Header>,
    /// The norm of each tensor's gradient at the newest step.
    newest_norms: BTreeMap<String, f64>,
    /// The step at which this call began.
    began_at: u64,
    speed: Option<f64>,
    verdict: Option<Verdict>,
    /// The number of steps that the verdict covers.
    judged: usize,
}

impl State {
    pub(super) fn new(subject: Subject, header: Header) -> State {
        State {
            subject,
            header: Some(header),
            ..State::default()
        }
    }

    /// Marks everything up to now as history of an earlier call.
    pub(super) fn start(&mut self) {
        self.began_at = self.step();
        self.speed = None;
    }

    /// Takes an event.
    pub(super) fn take(&mut self, mut event: Event) {
        match &mut event {
            Event::Step(step) => {
                self.speed = smooth(self.speed, step.tokens_per_second);
                self.newest_norms = std::mem::take(&mut step.clip.tensors);
                step.update_ratios.clear();
            }
            Event::Sample(Sample { text, .. }) => {
                // Generated text may contain control characters.
                *text = text.lines().map(one_line).collect::<Vec<_>>().join("\n");
            }
            Event::Header(header) => {
                self.header = Some(header.clone());
                return;
            }
            _ => {}
        }
        self.columns.take(event);
        self.keep(STEPS_JUDGED as usize);
    }

    /// Forgets the older half of more than `most` steps, and the verdict, which is on the whole run.
    pub(super) fn keep(&mut self, most: usize) {
        if self.columns.rows() <= most {
            return;
        }
        let rows = most / 2;
        let actions = &self.columns.action[..rows];
        let count = |what| actions.iter().filter(|action| **action == what).count() as u64;
        self.forgotten.steps += rows as u64;
        self.forgotten.clipped += count(ClipAction::Clip);
        self.forgotten.skipped += count(ClipAction::Skip);
        self.columns.forget(rows);
        self.verdict = None;
    }

    fn step(&self) -> u64 {
        self.columns.step.last().copied().unwrap_or(0)
    }

    /// What is to be drawn now.
    pub(super) fn picture(&self) -> Picture {
        let columns = &self.columns;
        let losses = self.means(&columns.loss);
        let (steps, levels): (Vec<f64>, Vec<f64>) = losses.iter().copied().unzip();
        let smoothed: Points = steps.into_iter().zip(smoothed(&levels)).collect();
        let loss = match columns.loss.last() {
            Some(loss) if loss.is_finite() => smoothed.last().map(|point| point.1),
            other => other.copied().map(f64::from),
        };
        let threshold = columns.threshold.last().copied();
        let validation = columns.evaluations.iter();
        let clipped = |action: &ClipAction| *action == ClipAction::Clip;
        let actions = || columns.action.iter();
        let lately = actions().rev().take(LATELY);
        let skipped = actions().filter(|action| **action == ClipAction::Skip);
        let forgotten = &self.forgotten;
        let steps = forgotten.steps + columns.rows() as u64;
        let all = forgotten.clipped + actions().filter(|action| clipped(action)).count() as u64;
        Picture {
            step: self.step(),
            began_at: self.began_at,
            speed: self.speed,
            smoothed,
            largest_losses: self.maxima(&columns.loss),
            losses,
            validation: validation.map(|at| (at.step as f64, at.val_loss)).collect(),
            loss,
            norms: self.maxima(&columns.norm_before),
            thresholds: self.means(&columns.threshold),
            norm: columns.norm_before.last().copied(),
            threshold: threshold.filter(|threshold| threshold.is_finite()),
            layers: self.layers(),
            clipped: (all as f64 / steps.max(1) as f64, share(lately.map(clipped))),
            skipped: forgotten.skipped + skipped.count() as u64,
            verdict: self.verdict.clone(),
            sample: columns.samples.last().cloned(),
            time_flow: columns.time_flows.last().cloned(),
        }
    }

    fn layers(&self) -> Vec<(String, f64)> {
        let layers = self.header.iter().flat_map(Header::layers);
        let layers = layers.map(|(layer, parameters)| {
            let norms = parameters.iter().map(|parameter| &parameter.name);
            let squares = norms.filter_map(|name| Some(self.newest_norms.get(name)?.powi(2)));
            let squares = squares.filter(|square| !square.is_nan());
            let sum = squares.reduce(|sum, square| sum + square);
            let before_first = if self.columns.rows() == 0 {
                0.0
            } else {
                f64::NAN
            };
            (layer.to_string(), sum.map_or(before_first, f64::sqrt))
        });
        layers.collect()
    }

    /// A column as a curve of at most [`MOST_POINTS`] means of consecutive values, without those
    /// that are not finite.
    fn means<T: Copy + Into<f64>>(&self, column: &[T]) -> Points {
        let finite = |part: &[T]| {
            let values = part.iter().map(|value| (*value).into());
            mean(values.filter(|value: &f64| value.is_finite()))
        };
        let parts = self.parts(column);
        parts
            .filter_map(|(step, part)| Some((step, finite(part)?)))
            .collect()
    }

    /// The same with maxima, so that a spike stays visible in a run of any length; infinite if a
    /// value was not finite.
    fn maxima<T: Copy + Into<f64>>(&self, column: &[T]) -> Points {
        let largest = |part: &[T]| {
            let values = part.iter().map(|value| {
                let value: f64 = (*value).into();
                if value.is_finite() {
                    value
                } else {
                    f64::INFINITY
                }
            });
            values.fold(f64::NEG_INFINITY, f64::max)
        };
        let parts = self.parts(column);
        parts.map(|(step, part)| (step, largest(part))).collect()
    }

    /// A column in pieces, each with its first step.
    fn parts<'a, T>(&'a self, column: &'a [T]) -> impl Iterator<Item = (f64, &'a [T])> {
        let size = column.len().div_ceil(MOST_POINTS).max(1);
        let steps = self.columns.step.chunks(size).map(|steps| steps[0] as f64);
        steps.zip(column.chunks(size))
    }

    /// Updates the verdict, if there are enough new steps: judging sorts all norms.
    pub(super) fn judge(&mut self) {
        let enough = self.judged + 1 + self.judged / 50;
        if self.columns.rows() >= enough && self.forgotten.steps == 0 {
            self.verdict = Some(self.columns.judge(&self.subject).verdict);
            self.judged = self.columns.rows();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_mean_and_its_spike() {
        const STEPS: usize = 100_001;
        let mut state = State::default();
        state.columns.step = (1..=STEPS as u64).collect();
        let mut values = vec![1.0; STEPS];
        values[54_321] = 1000.0;
        values[STEPS - 1] = f64::NAN;
        let means = state.means(&values);
        assert!(means.len() > MOST_POINTS / 2 && means.len() <= MOST_POINTS);
        assert!(means.is_sorted_by(|left, right| left.0 < right.0));
        let raised: Vec<f64> = means
            .iter()
            .map(|p| p.1)
            .filter(|mean| *mean != 1.0)
            .collect();
        assert!(raised.len() == 1 && raised[0] > 10.0, "{raised:?}");
        let maxima = state.maxima(&values);
        assert_eq!(maxima.iter().filter(|point| point.1 == 1000.0).count(), 1);
        assert_eq!(
            maxima.iter().filter(|point| point.1.is_infinite()).count(),
            1
        );
    }
}
