//! What a run remembers of its steps, and what else is known of it.

use gradclip::{ClipAction, ClipPolicy, ClipReport, ClipRule};

/// What a run remembers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The number of the step, from 1 on.
    pub step: u64,
    /// The loss before the step, where it is known.
    pub loss: Option<f64>,
    /// The norm of all gradients before clipping, in the policy's own order.
    pub norm_before: f64,
    /// The threshold in force, if there was one.
    pub threshold: Option<f64>,
    /// The norm after clipping over the norm before; NaN where that is not known.
    pub coefficient: f64,
    /// What was done.
    pub action: ClipAction,
    /// Whether an element of the gradients was not finite.
    pub non_finite: bool,
}

impl StepRecord {
    /// The record of a step from its report.
    #[must_use]
    pub fn new(step: u64, report: &ClipReport, loss: Option<f64>) -> StepRecord {
        StepRecord {
            step,
            loss,
            norm_before: report.norm_before,
            threshold: report.threshold,
            coefficient: report.coefficient,
            action: report.action,
            non_finite: report.non_finite > 0,
        }
    }

    /// Whether the gradients were clipped.
    #[must_use]
    pub fn clipped(&self) -> bool {
        self.action == ClipAction::Clip
    }

    /// Whether the step was left out.
    #[must_use]
    pub fn skipped(&self) -> bool {
        self.action == ClipAction::Skip
    }

    /// Whether it was left out as an outlier, and not for gradients that are not finite.
    #[must_use]
    pub fn outlier(&self) -> bool {
        self.skipped() && !self.non_finite
    }

    /// Whether clipping did anything: gradients were changed, or an outlier was left out.
    #[must_use]
    pub fn engaged(&self) -> bool {
        self.clipped() || self.outlier()
    }

    /// Whether gradients or loss were not finite.
    pub(crate) fn broken(&self) -> bool {
        self.non_finite
            || !self.norm_before.is_finite()
            || self.loss.is_some_and(|loss| !loss.is_finite())
    }

    /// How hard the gradient was changed: its norm before over that after, or the inverse where it
    /// was lengthened. None where that is not known.
    pub(crate) fn change(&self) -> Option<f64> {
        let change = self.coefficient.max(self.coefficient.recip());
        Some(change).filter(|change| !change.is_nan() && !self.skipped())
    }

    /// The norm of what the optimizer got.
    pub(crate) fn norm_applied(&self) -> Option<f64> {
        let coefficient = match self.coefficient.is_nan() {
            true => 1.0,
            false => self.coefficient,
        };
        Some(self.norm_before * coefficient).filter(|norm| norm.is_finite() && !self.skipped())
    }
}

/// Steps of a run under a policy that it had before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The policy.
    pub policy: String,
    /// What clipping was to these steps: the words of a [`Class`](crate::Class).
    pub class: &'static str,
}

/// A run as it is judged: its steps, and what else is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Run<'a> {
    /// The policy that clipped.
    pub policy: &'a ClipPolicy,
    /// All steps, in their order; of a run whose policy was changed, those under the last one.
    pub steps: Vec<StepRecord>,
    /// What came before these steps under other policies, in its order.
    pub before: Vec<Stretch>,
    /// The loss that it all began with, if these steps are not the first.
    pub first_loss: Option<f64>,
    /// The learning rate that was asked for, where it is known.
    pub lr: Option<f64>,
    /// Whether the optimizer divides each element by its usual size, as Adam and RMSProp do.
    pub adaptive: bool,
    /// Whether the run ended because something was not finite.
    pub diverged: bool,
    /// The last validation loss; NaN if it was not finite.
    pub val_loss: Option<f64>,
    /// The step after which the validation loss was lowest, and that loss.
    pub best_val_loss: Option<(u64, f64)>,
    /// The first tensor whose gradient was not finite.
    pub first_non_finite: Option<String>,
    /// The mean cosine between gradients before and after, over clipped steps, where it is known.
    pub cosine: Option<f64>,
}

impl<'a> Run<'a> {
    /// A run of which no more is known.
    pub fn new(policy: &'a ClipPolicy, steps: impl IntoIterator<Item = StepRecord>) -> Run<'a> {
        Run {
            policy,
            steps: steps.into_iter().collect(),
            before: Vec::new(),
            first_loss: None,
            lr: None,
            adaptive: false,
            diverged: false,
            val_loss: None,
            best_val_loss: None,
            first_non_finite: None,
            cosine: None,
        }
    }

    /// Whether gradients of which all are shortened alike make steps of the same length: the
    /// optimizer divides by their usual size, and no rule clamps elements.
    pub(crate) fn makes_up_for_scale(&self) -> bool {
        let clamps = |rule: &ClipRule| matches!(rule, ClipRule::Value { .. });
        self.adaptive && !self.policy.rules().iter().any(clamps)
    }
}
