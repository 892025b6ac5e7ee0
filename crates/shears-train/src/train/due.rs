//! What comes after which step.

use crate::plan::Plan;

/// What is to be done after a step.
#[derive(Clone, Copy)]
pub(super) struct Due {
    /// Follow gradients back in time.
    pub(super) state_gradients: bool,
    pub(super) evaluation: bool,
    pub(super) sample: bool,
    pub(super) save: bool,
}

impl Due {
    pub(super) fn after(step: u64, plan: &Plan) -> Due {
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let last = step == plan.steps;
        // Step 0 is that of a run that starts from a trained model: its loss shows which model that
        // is, and after its checkpoint the model's files are not needed any more.
        let first = step == 0;
        let evaluation = first || last || due(plan.eval_every);
        Due {
            state_gradients: step == 1 || (evaluation && !first),
            evaluation,
            // The last step ends with a longer text than a sample.
            sample: due(plan.sample_every) && !last,
            save: first || last || due(plan.save_every),
        }
    }

    /// Whether there is more to do than to save.
    pub(super) fn takes_long(self) -> bool {
        self.state_gradients || self.evaluation || self.sample
    }
}
