//! The lines of a log.

use std::collections::BTreeMap;
use std::fmt;

use gradclip::{ClipAction, ClipReport, SkipReason};
use gradclip_judge::StepRecord;
use serde::{Deserialize, Deserializer, Serialize};

use crate::header::Header;
use crate::ranks::{ExchangeEvent, RanksEvent};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The header, which is the first line.
    Header(Header),
    /// A training step.
    Step(StepEvent),
    /// A full pass over the validation text.
    Evaluation(Evaluation),
    /// The model generated a text, to show what it has learned.
    Sample(Sample),
    /// How far gradients reach back in time in a recurrent model, at the first step and with each
    /// evaluation.
    StateGradients {
        /// Steps taken so far.
        step: u64,
        /// For each layer, the norm of the gradient, before clipping, of the loss at the last token
        /// of a window with respect to the state carried one token before that prediction, two
        /// tokens before, and so on; null where it is not finite.
        layers: BTreeMap<String, Vec<Option<f64>>>,
    },
    /// The run continues from a checkpoint or, before the first one, from its start.
    Resume(Resume),
    /// A setting was changed when the run was resumed.
    Change(Change),
    /// Several processes train the run from here on.
    Ranks(RanksEvent),
    /// The run ended; always the last line. The run of a log without it is still training or was
    /// killed.
    End {
        /// Steps taken so far.
        step: u64,
        /// Why.
        how: EndReason,
        /// In words, if there is more to say.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        message: Option<String>,
    },
}

/// A full pass over the validation text. Non-finite values are null in the log.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken so far.
    pub step: u64,
    /// Nats per token.
    #[serde(deserialize_with = "null_is_nan")]
    pub val_loss: f64,
    /// Bits per character.
    #[serde(deserialize_with = "null_is_nan")]
    pub bits_per_char: f64,
    /// `exp(val_loss)`.
    #[serde(deserialize_with = "null_is_nan")]
    pub perplexity: f64,
}

/// A text that the model generated during training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Steps taken so far.
    pub step: u64,
    /// The text.
    pub text: String,
}

/// A run was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Steps taken before, which is the step of the checkpoint.
    pub step: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The version of the program that resumed.
    pub version: String,
    /// The name of the checkpoint; `None` if the run started over.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoint: Option<String>,
}

/// A setting that was changed when a run was resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Steps taken before it.
    pub step: u64,
    /// The setting, as in `plan.toml`.
    pub name: String,
    /// The value before, as it is typed.
    pub before: String,
    /// The value after.
    pub after: String,
}

impl Change {
    /// Whether both change the same setting in the same way, at whatever step.
    pub fn is_same(&self, other: &Change) -> bool {
        (&self.name, &self.before, &self.after) == (&other.name, &other.before, &other.after)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, before, after) = (&self.name, &self.before, &self.after);
        write!(formatter, "{name}: {before} -> {after}")
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// All steps of the plan were taken.
    Finished,
    /// The validation loss no longer improved.
    OutOfPatience,
    /// Somebody asked for it; the run can be resumed.
    Stopped,
    /// Gradients were not finite.
    Diverged,
    /// Another failure, such as a full disk.
    Failed,
}

impl Event {
    /// Steps taken when the event was written.
    pub fn step(&self) -> u64 {
        match self {
            Event::Header(_) => 0,
            Event::Step(event) => event.step,
            Event::Resume(Resume { step, .. })
            | Event::Change(Change { step, .. })
            | Event::Ranks(RanksEvent { step, .. }) => *step,
            Event::Evaluation(Evaluation { step, .. })
            | Event::Sample(Sample { step, .. })
            | Event::StateGradients { step, .. }
            | Event::End { step, .. } => *step,
        }
    }
}

/// A training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps taken, this one included.
    pub step: u64,
    /// Mean loss of the step's tokens, in nats per token; null if it is not finite.
    pub loss: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// The speed of this step.
    pub tokens_per_second: f64,
    /// What clipping measured and did.
    pub clip: ClipEvent,
    /// At some steps: for each parameter, the norm of its update relative to its own norm.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub update_ratios: BTreeMap<String, f64>,
    /// How the ranks exchanged their gradients, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exchange: Option<ExchangeEvent>,
}

/// A [`ClipReport`] in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipEvent {
    /// Written as `keep`, `clip` or `skip`.
    #[serde(with = "ActionText")]
    pub action: ClipAction,
    /// Norm of the gradient before clipping; null if a non-finite gradient was skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub norm_before: f64,
    /// Norm of the gradient that the optimizer applied.
    pub norm_after: f64,
    /// `norm_after / norm_before`.
    pub coefficient: f64,
    /// The threshold in force.
    pub threshold: Option<f64>,
    /// Why a step was skipped, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skip_reason: Option<String>,
    /// Elements that were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor with such an element.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_non_finite: Option<String>,
    /// Share of elements changed by clipping by value.
    pub clipped_share: f64,
    /// Elements that clipping made too small for their type, so that they became zero. Absent if
    /// there are none, or if they were not counted because the optimizer applied the factor.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rounded_to_zero: Option<u64>,
    /// Cosine between the gradient before and after: below 1, its direction changed. Null where two
    /// rules of a chain turned it, or elements were rounded to zero.
    pub cosine: Option<f64>,
    /// Norm of each tensor before clipping, to six digits; without non-finite ones.
    pub tensors: BTreeMap<String, f64>,
}

/// How a [`ClipAction`] is serialized.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ClipAction", rename_all = "lowercase")]
pub(crate) enum ActionText {
    Keep,
    Clip,
    Skip,
}

/// `keep`, `clip` or `skip`, as in the log.
pub fn action_name(action: ClipAction) -> &'static str {
    match action {
        ClipAction::Keep => "keep",
        ClipAction::Clip => "clip",
        ClipAction::Skip => "skip",
    }
}

impl ClipEvent {
    /// The event of a step that was refused because these tensors have non-finite elements.
    pub fn refused(tensors: &[(String, u64)]) -> ClipEvent {
        ClipEvent {
            action: ClipAction::Skip,
            norm_before: f64::NAN,
            norm_after: 0.0,
            coefficient: 0.0,
            threshold: None,
            skip_reason: Some(SkipReason::NonFinite.to_string()),
            non_finite: tensors.iter().map(|(_, count)| count).sum(),
            first_non_finite: tensors.first().map(|(name, _)| name.clone()),
            clipped_share: 0.0,
            rounded_to_zero: None,
            cosine: None,
            tensors: BTreeMap::new(),
        }
    }
}

impl From<&ClipReport> for ClipEvent {
    fn from(report: &ClipReport) -> Self {
        let norms = report
            .tensors
            .iter()
            .filter(|t| t.norm_before.is_finite())
            .map(|t| (t.name.clone(), six_digits(t.norm_before)));
        ClipEvent {
            action: report.action,
            norm_before: report.norm_before,
            norm_after: report.norm_after,
            coefficient: report.coefficient,
            threshold: report.threshold.filter(|threshold| threshold.is_finite()),
            skip_reason: report.skip_reason.map(|reason| reason.to_string()),
            non_finite: report.non_finite,
            first_non_finite: report.first_non_finite.clone(),
            clipped_share: report.clipped_share,
            // A log of a million steps need not say at each that nothing was rounded to zero.
            rounded_to_zero: report.rounded_to_zero.filter(|lost| *lost > 0),
            // The report's cosine is from before rounding.
            cosine: report
                .cosine
                .filter(|_| report.rounded_to_zero.is_none_or(|lost| lost == 0)),
            tensors: norms.collect(),
        }
    }
}

impl StepEvent {
    /// What the verdict needs to know of the step.
    pub fn record(&self) -> StepRecord {
        StepRecord {
            step: self.step,
            // A non-finite loss is written as null.
            loss: Some(self.loss.unwrap_or(f64::NAN)),
            norm_before: self.clip.norm_before,
            threshold: self.clip.threshold,
            coefficient: self.clip.coefficient,
            action: self.clip.action,
            non_finite: self.clip.non_finite > 0,
        }
    }
}

/// Rounds to six digits: the norms of tensors make up most of a line, and nobody reads seventeen
/// digits of them.
pub fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Reads null as NaN: JSON has no NaN and no infinity, and both are written as null.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding elements to zero changes the direction.
    #[test]
    fn gradients_with_zeroed_elements_have_no_cosine() {
        use gradclip::{Clipper, NonFinite, Unscaled};

        let logged = |threshold: &str| {
            let policy = format!("global-norm:{threshold}").parse().unwrap();
            let mut clipper = Clipper::new(policy, NonFinite::Skip).unwrap();
            let smallest = f32::from_bits(1);
            let gradients = Unscaled::single(vec![("w", vec![1.0, smallest])]);
            let event = ClipEvent::from(clipper.clip(gradients).unwrap().report());
            (event.rounded_to_zero, event.cosine)
        };
        assert_eq!(logged("0.75"), (None, Some(1.0)));
        assert_eq!(logged("0.5"), (Some(1), None));
    }

    #[test]
    fn a_non_finite_evaluation_survives_serialization() {
        let event = Event::Evaluation(Evaluation {
            step: 7,
            val_loss: 1e3,
            bits_per_char: f64::NAN,
            perplexity: f64::INFINITY,
        });
        let line = serde_json::to_string(&event).unwrap();
        assert!(line.contains("\"perplexity\":null"), "{line}");
        let Event::Evaluation(read) = serde_json::from_str(&line).unwrap() else {
            panic!("{line} is read as another event");
        };
        assert!(read.val_loss == 1e3 && read.perplexity.is_nan());
    }
}
