//! Why a run's folder cannot be read or written.

use std::path::{Path, PathBuf};

use crate::header::FORMAT;

/// Each message is one line: what, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Reading or writing failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "write", "read", "create", "lock", "sync".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A later version of this program wrote the log.
    #[error(
        "{}: its format is {format}, and this shears reads formats up to {FORMAT}; use a newer one",
        path.display()
    )]
    NewerFormat {
        /// The log.
        path: PathBuf,
        /// The format that its header names.
        format: u32,
    },
    /// Another program writes to the folder.
    #[error("{}: {problem}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who has it, and what to do.
        problem: String,
    },
}

impl RunError {
    /// For `map_err`: an I/O error with what was tried and where.
    pub fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> RunError + use<> {
        let path = path.to_path_buf();
        move |source| RunError::Io {
            action,
            path,
            source,
        }
    }
}
