//! What is due after a step.

use crate::plan::Plan;

/// What is due after a step.
#[derive(Clone, Copy)]
pub(super) struct Due {
    /// Measure gradients back in time.
    pub(super) state_gradients: bool,
    pub(super) evaluation: bool,
    pub(super) sample: bool,
    pub(super) save: bool,
}

impl Due {
    pub(super) fn after(step: u64, plan: &Plan) -> Due {
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let last = step == plan.steps;
        // Step 0 occurs in runs that start from a trained model: its loss identifies the model, and
        // after its checkpoint the model's files are no longer needed.
        let first = step == 0;
        let evaluation = first || last || due(plan.eval_every);
        Due {
            state_gradients: step == 1 || (evaluation && !first),
            evaluation,
            // After the last step the program writes a longer text instead.
            sample: due(plan.sample_every) && !last,
            save: first || last || due(plan.save_every),
        }
    }

    /// Whether more than a save is due.
    pub(super) fn is_more_than_save(self) -> bool {
        self.state_gradients || self.evaluation || self.sample
    }
}
