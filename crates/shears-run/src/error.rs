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
        /// The operation: "write", "read", "create", "lock", "sync".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
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
        /// The format in its header.
        format: u32,
    },
    /// Another program writes to the folder.
    #[error("{}: {problem}", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Which program holds the lock, and what to do.
        problem: String,
    },
}

impl RunError {
    /// An I/O error with operation and path, for `map_err`.
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
