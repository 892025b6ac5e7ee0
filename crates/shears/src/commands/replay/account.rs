//! What one policy did with the steps of a run, in detail and in sum.

use gradclip::{ClipAction, NormOrder};
use gradclip_judge::statistics::{mean, median};
use gradclip_judge::{
    RecordedStep, Replay, ReplayError, ReplayedStep, Spikes, goes_by_norm_of_all,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;
use shears_run::action_name;
use shears_train::ClipPolicy;

use super::spikes::{Catch, catch};

/// Summary of the thresholds, over the steps that had one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Thresholds {
    pub(crate) first: f64,
    pub(crate) median: f64,
    /// Of the last step that was not skipped; none if each tensor has its own.
    pub(crate) last: Option<f64>,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A policy and everything that it did.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// `run` for the run itself, and a letter for each policy.
    pub(crate) label: String,
    pub(crate) policy: ClipPolicy,
    pub(crate) taken: Vec<ReplayedStep>,
    pub(crate) clipped: usize,
    /// Median and smallest coefficient of the clipped steps.
    pub(crate) coefficients: Option<(f64, f64)>,
    /// Mean share of the norm that clipping cut off, over the steps that were not skipped.
    pub(crate) removed: Option<f64>,
    /// Steps skipped as outliers.
    pub(crate) left_out: usize,
    /// Steps until all rules had seen enough; none if the run was too short.
    pub(crate) warm_up: Option<usize>,
    pub(crate) thresholds: Option<Thresholds>,
    /// One for each spike.
    pub(crate) catches: Vec<Catch>,
}

impl Account {
    pub(crate) fn new(label: String, watched: Watched, spikes: &Spikes) -> Self {
        let warm_up = watched.warm_up();
        let Watched { policy, taken, .. } = watched;
        let clipped = taken.iter().filter(|step| step.action == ClipAction::Clip);
        let clipped: Vec<f64> = clipped.map(ReplayedStep::coefficient).collect();
        let kept = taken.iter().filter(|step| step.action != ClipAction::Skip);
        // `normalize` can also lengthen a gradient, which cuts nothing off.
        let removed = kept.map(|step| (1.0 - step.coefficient()).max(0.0));
        let thresholds = Thresholds::of(&taken);
        let catches = spikes.list.iter().map(|spike| catch(spikes, spike, &taken));
        Account {
            label,
            clipped: clipped.len(),
            coefficients: median(clipped.iter().copied())
                .map(|median| (median, clipped.iter().copied().fold(median, f64::min))),
            removed: mean(removed),
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

    /// Whether its thresholds apply to the global norm.
    pub(crate) fn goes_by_all(&self) -> bool {
        goes_by_norm_of_all(&self.policy)
    }
}

/// For `--json`. Long runs are written step by step: as a tree of values they would take ten times
/// the memory.
impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let steps = || self.taken.iter();
        let coefficients = self.coefficients;
        let coefficients = coefficients
            .map(|(median, smallest)| json!({ "median": median, "smallest": smallest }));
        let spikes = json!({
            "caught": self.caught(),
            "at_once": self.at_once(),
            "each": self.catches,
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("label", &self.label)?;
        map.serialize_entry("policy", &self.policy.to_string())?;
        map.serialize_entry("clipped", &self.clipped)?;
        map.serialize_entry("clipped_share", &self.clipped_share())?;
        map.serialize_entry("coefficient", &coefficients)?;
        map.serialize_entry("norm_removed", &self.removed)?;
        map.serialize_entry("left_out", &self.left_out)?;
        map.serialize_entry("warm_up", &self.warm_up)?;
        map.serialize_entry("threshold", &self.thresholds)?;
        map.serialize_entry("spikes", &spikes)?;
        let actions: Vec<&str> = steps().map(|step| action_name(step.action)).collect();
        map.serialize_entry("actions", &actions)?;
        let thresholds: Vec<Option<f64>> = steps().map(|step| step.threshold).collect();
        map.serialize_entry("thresholds", &thresholds)?;
        let coefficients: Vec<f64> = steps().map(ReplayedStep::coefficient).collect();
        map.serialize_entry("coefficients", &coefficients)?;
        map.end()
    }
}

impl Thresholds {
    fn of(taken: &[ReplayedStep]) -> Option<Self> {
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

/// A policy that sees the steps of a run one after the other.
pub(crate) struct Watched {
    policy: ClipPolicy,
    /// None for the run itself, whose actions are in the log.
    replay: Option<Replay>,
    taken: Vec<ReplayedStep>,
}

impl Watched {
    /// The run itself, with its own policy.
    pub(crate) fn own(policy: ClipPolicy) -> Watched {
        Watched {
            policy,
            replay: None,
            taken: Vec::new(),
        }
    }

    /// Another policy, for norms of this order.
    pub(crate) fn other(policy: ClipPolicy, order: NormOrder) -> Result<Watched, ReplayError> {
        Ok(Watched {
            replay: Some(Replay::of_order(&policy, order)?),
            ..Watched::own(policy)
        })
    }

    pub(crate) fn policy(&self) -> &ClipPolicy {
        &self.policy
    }

    /// Shows it a step and what the run itself did.
    pub(crate) fn step(
        &mut self,
        own: ReplayedStep,
        recorded: &RecordedStep,
    ) -> Result<(), ReplayError> {
        let mut step = match &mut self.replay {
            Some(replay) => replay.step(recorded)?,
            None => own,
        };
        step.threshold = step.threshold.filter(|threshold| threshold.is_finite());
        self.taken.push(step);
        Ok(())
    }

    /// Steps until every rule has seen enough to work; none if the run was too short.
    fn warm_up(&self) -> Option<usize> {
        let rules = self.policy.rules().iter();
        let needed = rules.map(|rule| rule.steps_to_warm_up() as usize).max();
        let teaches = |(_, step): &(usize, &ReplayedStep)| step.action != ClipAction::Skip;
        match needed.unwrap_or(0).checked_sub(1) {
            None => Some(0),
            Some(before) => {
                let mut teaching = self.taken.iter().enumerate().filter(teaches);
                teaching.nth(before).map(|(index, _)| index + 1)
            }
        }
    }
}
