//! Why training could not start or go on.

use std::path::{Path, PathBuf};

use shears_run::RunError;

/// Each message is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of range, or does not fit another one.
    #[error(transparent)]
    Plan(#[from] crate::PlanError),
    /// The text cannot be trained on.
    #[error(transparent)]
    Data(#[from] shears_data::DataError),
    /// The text is not the one that the run was started with.
    #[error("{name}: the {text} has changed, or is another than the run was started with")]
    Changed {
        /// Which: "text" or "validation text".
        text: &'static str,
        /// What was read in its place.
        name: String,
    },
    /// A checkpoint does not fit, or is damaged.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A gradient has a NaN or an infinity, and the plan says that this is an error.
    #[error("step {step}: {cause}; `--non-finite skip` would leave such steps out")]
    NonFinite {
        /// The step that was not applied.
        step: u64,
        /// Which tensor.
        cause: gradclip::ClipError,
    },
    /// Too many steps in a row had non-finite gradients.
    #[error(
        "step {step}: the gradients of {} were not finite (first in `{tensor}`); nothing of them \
         was applied; {}; `shears inspect` says what to try",
        in_a_row(*.skips),
        last_good(.checkpoint)
    )]
    TooManySkips {
        /// The step at which training stopped.
        step: u64,
        /// How many steps in a row were skipped.
        skips: u64,
        /// The first tensor that was not finite.
        tensor: String,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The loss or the weights of an applied step are not finite: whatever the rule for gradients
    /// that are not, there is nothing to go on with.
    #[error(
        "step {step}: {what} not finite; {}; `shears inspect` says what to try",
        last_good(.checkpoint)
    )]
    Diverged {
        /// The step after which it was found.
        step: u64,
        /// What is not finite, with its verb: "the loss is".
        what: String,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The processes that train one model do not fit together any more. All of them find it.
    #[error("{problem}")]
    Ranks {
        /// Which of them, and what is wrong.
        problem: String,
    },
    /// Reading or writing failed, or the log cannot be continued.
    #[error(transparent)]
    Run(RunError),
    /// The gradients could not be read from the device.
    #[error(transparent)]
    Collect(#[from] gradclip_burn::CollectError),
    /// Something in the run folder is not as this program writes it.
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
    /// Nothing is: a later version of this program wrote it.
    pub newer: bool,
}

impl TrainError {
    /// Whether numbers that are not finite have ended the run.
    pub fn is_divergence(&self) -> bool {
        matches!(
            self,
            TrainError::NonFinite { .. }
                | TrainError::TooManySkips { .. }
                | TrainError::Diverged { .. }
        )
    }

    /// Whether all processes that train one model have this error, because they made it of the same
    /// numbers.
    pub fn is_shared(&self) -> bool {
        self.is_divergence() || matches!(self, TrainError::Ranks { .. })
    }

    /// For `map_err`: an I/O error with what was tried and where.
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
