//! One step under a policy.

use gradclip::ClipAction;
use gradclip_judge::ReplayedStep;
use shears_run::ClipEvent;

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
    pub(super) fn coefficient(&self) -> f64 {
        match self.action {
            ClipAction::Skip => 0.0,
            _ if self.norm_before == 0.0 => 1.0,
            _ => self.norm_after / self.norm_before,
        }
    }

    pub(super) fn is_outlier(&self) -> bool {
        self.action == ClipAction::Skip && self.norm_before.is_finite()
    }
}

impl From<&ClipEvent> for Taken {
    fn from(event: &ClipEvent) -> Self {
        Taken {
            action: event.action,
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
