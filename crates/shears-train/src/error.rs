//! Errors of training.

use std::path::{Path, PathBuf};

use shears_run::RunError;

/// Why training could not start or continue. Each message is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range, or conflicts with another one.
    #[error(transparent)]
    Plan(#[from] crate::PlanError),
    /// The text cannot be trained on.
    #[error(transparent)]
    Data(#[from] shears_data::DataError),
    /// The text is not the one that the run was started with.
    #[error("{name}: the {text} is not the one that the run was started with")]
    Changed {
        /// "text" or "validation text".
        text: &'static str,
        /// What was read instead.
        name: String,
    },
    /// A checkpoint does not match the run, or is damaged.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// All checkpoints of a run are damaged; this is the one that would have been taken.
    #[error("no checkpoint of the run is intact: {0}")]
    NoneIntact(RestoreError),
    /// A gradient has NaN or infinite elements, which the plan treats as an error.
    #[error("step {step}: {cause}; `--non-finite skip` skips such steps")]
    NonFinite {
        /// The step that was not applied.
        step: u64,
        /// The affected tensors.
        cause: gradclip::ClipError,
    },
    /// Too many steps in a row had non-finite gradients.
    #[error(
        "step {step}: the gradients of {} were not finite (first in `{tensor}`); none \
         was applied; {}; `shears inspect` says what to try",
        in_a_row(*.skips),
        last_good(.checkpoint)
    )]
    TooManySkips {
        /// The step at which training stopped.
        step: u64,
        /// How many steps in a row were skipped.
        skips: u64,
        /// The first non-finite tensor.
        tensor: String,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The loss or the weights after an applied step are not finite, so training cannot continue
    /// under any rule for gradients.
    #[error(
        "step {step}: {what} not finite; {}; `shears inspect` says what to try",
        last_good(.checkpoint)
    )]
    Diverged {
        /// The step after which this was found.
        step: u64,
        /// What is not finite, with a verb: "the loss is".
        what: String,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The ranks have diverged from each other. All ranks get this error.
    #[error("{problem}")]
    Ranks {
        /// Which rank, and what is wrong.
        problem: String,
    },
    /// Reading or writing failed, or the log cannot be continued.
    #[error(transparent)]
    Run(RunError),
    /// The gradients could not be read from the device.
    #[error(transparent)]
    Collect(#[from] gradclip_burn::CollectError),
    /// The run folder is in an unexpected state.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl From<RunError> for TrainError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Locked { path, problem } => TrainError::Folder { path, problem },
            other => TrainError::Run(other),
        }
    }
}

/// Why a checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {}: {problem}", path.display())]
pub struct RestoreError {
    /// The checkpoint or the file in it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// Whether it was written by a newer version of this program, rather than damaged.
    pub newer: bool,
}

impl TrainError {
    /// Whether non-finite values have ended the run.
    pub fn is_divergence(&self) -> bool {
        matches!(
            self,
            TrainError::NonFinite { .. }
                | TrainError::TooManySkips { .. }
                | TrainError::Diverged { .. }
        )
    }

    /// Whether all ranks have this error, because they derive it from the same values.
    pub fn is_shared(&self) -> bool {
        self.is_divergence() || matches!(self, TrainError::Ranks { .. })
    }

    /// For `map_err`: adds the action and the path to an I/O error.
    pub fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> TrainError {
        let of_path = RunError::io(action, path.as_ref());
        move |source| TrainError::Run(of_path(source))
    }
}

fn in_a_row(skips: u64) -> String {
    match skips {
        1 => "1 step".to_string(),
        _ => format!("{skips} steps in a row"),
    }
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "there is no good checkpoint yet".to_string(),
    }
}
