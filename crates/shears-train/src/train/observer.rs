//! The observer of a run, and how the run ended.

use std::collections::BTreeMap;

use shears_model::LanguageModel;
use shears_run::{EndReason, StepEvent};

use crate::evaluate::Evaluation;

/// Observes a run: the terminal, a test, your own program.
pub trait Observer {
    /// Called before the first step, when the log is open. What comes before only reads, so a
    /// program may be ended there at once; from here on there is something to save.
    fn begin(&mut self) {}

    /// Called after a step.
    fn step(&mut self, event: &StepEvent);

    /// Called during an evaluation, with the number of tokens read and their total.
    fn evaluating(&mut self, _read: usize, _of: usize) {}

    /// Called after an evaluation.
    fn evaluation(&mut self, _step: u64, _evaluation: &Evaluation) {}

    /// Called with the norms of gradients back in time for each layer of a recurrent model, as in
    /// [`Event::StateGradients`](shears_run::Event::StateGradients).
    fn state_gradients(&mut self, _step: u64, _layers: &BTreeMap<String, Vec<Option<f64>>>) {}

    /// Called before a checkpoint is written, to make durable what must not end before its step.
    fn saving(&mut self) {}

    /// Called after a checkpoint was written.
    fn saved(&mut self, _step: u64, _path: &std::path::Path) {}

    /// Called when a sample is due; the model is outside automatic differentiation. Returns the
    /// sampled text for the run's log.
    fn sample<M: LanguageModel>(&mut self, _step: u64, _model: &M) -> Option<String> {
        None
    }

    /// Called for a non-fatal problem, with one sentence.
    fn warning(&mut self, _message: &str) {}

    /// Whether the run was asked to save and stop. A step in progress is then abandoned, to be
    /// taken when the run is resumed.
    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps of the plan were taken.
    Finished,
    /// The validation loss no longer improved.
    OutOfPatience,
    /// The observer requested it; the run can be resumed.
    Stopped,
}

impl From<End> for EndReason {
    fn from(end: End) -> Self {
        match end {
            End::Finished => EndReason::Finished,
            End::OutOfPatience => EndReason::OutOfPatience,
            End::Stopped => EndReason::Stopped,
        }
    }
}
