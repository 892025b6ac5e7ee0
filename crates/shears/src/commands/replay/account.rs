//! What one policy made of the steps of a run, and what that comes to.

use gradclip::{ClipAction, ClipRule};
use gradclip_judge::{RecordedStep, Replay, ReplayError, ReplayedStep};
use serde_json::{Value, json};
use shears_train::{ClipEvent, ClipPolicy};

use super::spikes::{Catch, Spikes};

/// What a policy did, or would have done, at one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) action: ClipAction,
    pub(crate) norm_before: f64,
    /// 0 for a step left out.
    pub(crate) norm_after: f64,
    pub(crate) threshold: Option<f64>,
}

impl Taken {
    /// `norm_after / norm_before`; 1 where the norm is zero, 0 for a step left out.
    fn coefficient(&self) -> f64 {
        match self.action {
            ClipAction::Skip => 0.0,
            _ if self.norm_before == 0.0 => 1.0,
            _ => self.norm_after / self.norm_before,
        }
    }

    fn is_outlier(&self) -> bool {
        self.action == ClipAction::Skip && self.norm_before.is_finite()
    }
}

impl From<&ClipEvent> for Taken {
    fn from(event: &ClipEvent) -> Self {
        Taken {
            action: match event.action.as_str() {
                "clip" => ClipAction::Clip,
                "skip" => ClipAction::Skip,
                _ => ClipAction::Keep,
            },
            norm_before: event.norm_before,
            norm_after: event.norm_after,
            threshold: event.threshold,
        }
    }
}

impl From<ReplayedStep> for Taken {
    fn from(step: ReplayedStep) -> Self {
        Taken {
            action: step.action,
            norm_before: step.norm_before,
            norm_after: step.norm_after,
            threshold: step.threshold.filter(|threshold| threshold.is_finite()),
        }
    }
}

/// The thresholds of the steps that had one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Thresholds {
    pub(crate) first: f64,
    pub(crate) median: f64,
    /// That of the last step that was not left out; none where each tensor then has its own.
    pub(crate) last: Option<f64>,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A policy with all that it did.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// `run` for the run itself, and a letter for each policy.
    pub(crate) label: String,
    pub(crate) policy: ClipPolicy,
    pub(crate) taken: Vec<Taken>,
    pub(crate) clipped: usize,
    /// Median and smallest coefficient of the clipped steps.
    pub(crate) coefficients: Option<(f64, f64)>,
    /// Mean share of the norm that clipping took away, over the steps that were not left out.
    pub(crate) removed: Option<f64>,
    /// Steps left out as outliers.
    pub(crate) left_out: usize,
    /// Steps before all its rules had seen enough; none if the run was too short for that.
    pub(crate) warm_up: Option<usize>,
    pub(crate) thresholds: Option<Thresholds>,
    /// One for each spike.
    pub(crate) catches: Vec<Catch>,
}

impl Account {
    pub(crate) fn new(
        label: String,
        policy: ClipPolicy,
        taken: Vec<Taken>,
        recorded: &[RecordedStep],
        spikes: &Spikes,
    ) -> Self {
        let clipped = taken.iter().filter(|step| step.action == ClipAction::Clip);
        let clipped: Vec<f64> = clipped.map(Taken::coefficient).collect();
        let kept = taken.iter().filter(|step| step.action != ClipAction::Skip);
        // `normalize` also lengthens, which takes nothing away.
        let removed = kept.map(|step| (1.0 - step.coefficient()).max(0.0));
        let thresholds = Thresholds::of(&taken);
        let warm_up = warm_up(&policy, recorded, &taken);
        let catches = spikes.list.iter().map(|spike| spikes.catch(spike, &taken));
        Account {
            label,
            clipped: clipped.len(),
            coefficients: median(clipped.clone())
                .map(|median| (median, clipped.iter().copied().fold(median, f64::min))),
            removed: mean(removed.collect()),
            left_out: taken.iter().filter(|step| step.is_outlier()).count(),
            warm_up,
            thresholds,
            catches: catches.collect(),
            policy,
            taken,
        }
    }

    /// The share of all steps that were clipped.
    pub(crate) fn clipped_share(&self) -> f64 {
        self.clipped as f64 / self.taken.len() as f64
    }

    pub(crate) fn caught(&self) -> usize {
        let caught = |catch: &&Catch| matches!(catch, Catch::Caught { .. });
        self.catches.iter().filter(caught).count()
    }

    pub(crate) fn at_once(&self) -> usize {
        let at_once = |catch: &&Catch| **catch == Catch::Caught { late: 0 };
        self.catches.iter().filter(at_once).count()
    }

    /// Whether its thresholds are of the norm of all tensors.
    pub(crate) fn goes_by_all(&self) -> bool {
        self.policy.rules().iter().all(|rule| {
            matches!(
                rule,
                ClipRule::GlobalNorm { .. }
                    | ClipRule::Normalize { .. }
                    | ClipRule::AutoClip { .. }
                    | ClipRule::ZClip { .. }
                    | ClipRule::Median { .. }
                    | ClipRule::Skip { .. }
            )
        })
    }

    pub(crate) fn json(&self) -> Value {
        let action = |step: &Taken| match step.action {
            ClipAction::Keep => "keep",
            ClipAction::Clip => "clip",
            ClipAction::Skip => "skip",
        };
        let steps = || self.taken.iter();
        let each = self.catches.iter().map(|catch| match catch {
            Catch::Caught { late } => json!({ "result": "caught", "late": late }),
            Catch::InPart => json!({ "result": "in part" }),
            Catch::Missed => json!({ "result": "missed" }),
        });
        json!({
            "label": self.label,
            "policy": self.policy.to_string(),
            "clipped": self.clipped,
            "clipped_share": self.clipped_share(),
            "coefficient": self.coefficients.map(|(median, smallest)| json!({
                "median": median, "smallest": smallest,
            })),
            "norm_removed": self.removed,
            "left_out": self.left_out,
            "warm_up": self.warm_up,
            "threshold": self.thresholds.map(|thresholds| json!({
                "first": thresholds.first, "median": thresholds.median, "last": thresholds.last,
                "min": thresholds.min, "max": thresholds.max,
            })),
            "spikes": {
                "caught": self.caught(),
                "at_once": self.at_once(),
                "each": each.collect::<Vec<Value>>(),
            },
            "actions": steps().map(action).collect::<Vec<&str>>(),
            "thresholds": steps().map(|step| step.threshold).collect::<Vec<Option<f64>>>(),
            "coefficients": steps().map(Taken::coefficient).collect::<Vec<f64>>(),
        })
    }
}

impl Thresholds {
    fn of(taken: &[Taken]) -> Option<Self> {
        let thresholds: Vec<f64> = taken.iter().filter_map(|step| step.threshold).collect();
        let mut applied = taken.iter().filter(|step| step.action != ClipAction::Skip);
        Some(Thresholds {
            first: *thresholds.first()?,
            last: applied.next_back().and_then(|step| step.threshold),
            min: thresholds.iter().copied().fold(f64::INFINITY, f64::min),
            max: thresholds.iter().copied().fold(0.0, f64::max),
            median: median(thresholds)?,
        })
    }
}

/// Shows all steps to a policy.
pub(crate) fn replay(
    policy: &ClipPolicy,
    recorded: &[RecordedStep],
) -> Result<Vec<Taken>, ReplayError> {
    let mut replay = Replay::new(policy)?;
    let steps = recorded.iter().map(|step| Ok(replay.step(step)?.into()));
    steps.collect()
}

/// Steps before every rule of a policy has seen enough to do what it is for.
fn warm_up(policy: &ClipPolicy, recorded: &[RecordedStep], taken: &[Taken]) -> Option<usize> {
    let rules = policy.rules().iter();
    let each = rules.map(|rule| rule_warm_up(rule, recorded, taken));
    each.collect::<Option<Vec<usize>>>()
        .map(|each| each.into_iter().max().unwrap_or(0))
}

fn rule_warm_up(rule: &ClipRule, recorded: &[RecordedStep], taken: &[Taken]) -> Option<usize> {
    // The steps until so many were not left out, which teach nothing.
    let until = |wanted: usize| {
        let mut applied = taken.iter().map(|step| step.action != ClipAction::Skip);
        let mut seen = 0;
        (0..=taken.len()).find(|_| {
            let enough = seen >= wanted;
            seen += usize::from(applied.next() == Some(true));
            enough
        })
    };
    match *rule {
        ClipRule::ZClip { warmup, .. } => until(warmup.get() as usize),
        // Its steps are counted from 1.
        ClipRule::AdaGc { warmup, .. } => until((warmup as usize).saturating_sub(1)),
        // By itself, because in a chain another rule's threshold may stand in its place.
        ClipRule::Median { .. } | ClipRule::Skip { .. } | ClipRule::AutoClip { .. } => {
            let alone = replay(&ClipPolicy::from(*rule), recorded).unwrap_or_default();
            alone.iter().position(|step| step.threshold.is_some())
        }
        _ => Some(0),
    }
}

fn mean(numbers: Vec<f64>) -> Option<f64> {
    let count = numbers.len() as f64;
    (count > 0.0).then(|| numbers.iter().map(|number| number / count).sum())
}

/// The median, if there is a number.
pub(crate) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        1 => Some(numbers[middle]),
        // Halving first keeps norms near the end of the range in it.
        _ => Some(numbers.get(middle.checked_sub(1)?)? / 2.0 + numbers[middle] / 2.0),
    }
}
