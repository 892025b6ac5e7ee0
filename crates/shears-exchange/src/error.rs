//! Why a model cannot be read or written.

use std::io;
use std::path::{Path, PathBuf};

/// Each message is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The format has no such model.
    #[error("{format} has no place for {what}; {instead}")]
    NoPlace {
        /// The format.
        format: &'static str,
        /// What it lacks.
        what: String,
        /// What to do.
        instead: String,
    },
}

impl ExchangeError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| ExchangeError::Io {
            action: "write",
            path,
            source,
        }
    }
}
