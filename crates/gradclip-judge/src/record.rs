//! The input of a judgement: what is recorded of each step, and what else is known about the run.

use gradclip::{ClipAction, ClipPolicy, ClipReport};

use crate::update_pace::UpdatePace;

/// What is recorded of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The number of the step, starting at 1.
    pub step: u64,
    /// The loss before the step, if known.
    pub loss: Option<f64>,
    /// The norm of all gradients before clipping, in the policy's own order.
    pub norm_before: f64,
    /// The threshold in force, if any.
    pub threshold: Option<f64>,
    /// The norm after clipping over the norm before; NaN if unknown.
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

    /// Whether the step was skipped.
    #[must_use]
    pub fn skipped(&self) -> bool {
        self.action == ClipAction::Skip
    }

    /// Whether it was skipped as an outlier, and not for non-finite gradients.
    #[must_use]
    pub fn outlier(&self) -> bool {
        self.skipped() && !self.non_finite
    }

    /// Whether clipping did anything: it changed gradients or skipped an outlier.
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

    /// How hard the gradient was changed: its norm before over that after, or the inverse if it was
    /// lengthened. `None` if unknown.
    pub(crate) fn change(&self) -> Option<f64> {
        let change = self.coefficient.max(self.coefficient.recip());
        Some(change).filter(|change| !change.is_nan() && !self.skipped())
    }

    /// The norm of the gradient that the optimizer applied.
    pub(crate) fn norm_applied(&self) -> Option<f64> {
        let coefficient = match self.coefficient.is_nan() {
            true => 1.0,
            false => self.coefficient,
        };
        Some(self.norm_before * coefficient).filter(|norm| norm.is_finite() && !self.skipped())
    }
}

/// Steps of a run under an earlier policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The policy.
    pub policy: String,
    /// The verdict on these steps: the words of a [`Class`](crate::Class).
    pub class: &'static str,
}

/// A run to be judged: its steps, and what else is known about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Run<'a> {
    /// The policy that clipped.
    pub policy: &'a ClipPolicy,
    /// All steps in order; if the policy was changed, those under the last one.
    pub steps: Vec<StepRecord>,
    /// Earlier stretches under other policies, in order.
    pub before: Vec<Stretch>,
    /// The loss at the start of the run, if these steps are not the first.
    pub first_loss: Option<f64>,
    /// The configured learning rate, if known.
    pub lr: Option<f64>,
    /// Whether the optimizer divides each element by its usual size, as Adam and RMSProp do.
    /// Gradients that are all shortened, or clamped element by element, then give steps as long as
    /// before.
    pub adaptive: bool,
    /// Whether the learning rate depends on the number of steps that the run is to take.
    pub scheduled: bool,
    /// Whether the run ended because something was not finite.
    pub diverged: bool,
    /// The last validation loss; NaN if it was not finite.
    pub val_loss: Option<f64>,
    /// The step after which the validation loss was lowest, and that loss.
    pub best_val_loss: Option<(u64, f64)>,
    /// The first tensor with a non-finite gradient.
    pub first_non_finite: Option<String>,
    /// The mean cosine between gradients before and after, over clipped steps, if known.
    pub cosine: Option<f64>,
    /// How fast the weights change, if known.
    pub pace: Option<UpdatePace>,
}

impl<'a> Run<'a> {
    /// A run of which only policy and steps are known.
    pub fn new(policy: &'a ClipPolicy, steps: impl IntoIterator<Item = StepRecord>) -> Run<'a> {
        Run {
            policy,
            steps: steps.into_iter().collect(),
            before: Vec::new(),
            first_loss: None,
            lr: None,
            adaptive: false,
            scheduled: false,
            diverged: false,
            val_loss: None,
            best_val_loss: None,
            first_non_finite: None,
            cosine: None,
            pace: None,
        }
    }
}
