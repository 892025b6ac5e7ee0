//! Why a model cannot be read or written.

use std::io;
use std::path::{Path, PathBuf};

use shears_run::escaped;
use shears_train::TrainError;

/// Each message is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The format does not support such a model.
    #[error("{format} does not support {what}; {instead}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What it does not support.
        what: String,
        /// What to do.
        instead: String,
    },
    /// A file or folder is not a readable model.
    #[error("{} {problem}", path.display())]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The tokenizer of the model cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] shears_data::DataError),
    /// A file cannot be read or written, or the model's run cannot be read.
    #[error(transparent)]
    Run(#[from] TrainError),
}

impl ExchangeError {
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let of_path = TrainError::io("write", path);
        move |source| of_path(source).into()
    }

    pub(crate) fn read(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| TrainError::io("read", &path)(source).into()
    }

    /// The problem may quote names from the file: control characters in them are escaped.
    pub(crate) fn refused(path: &Path, problem: impl Into<String>) -> Self {
        ExchangeError::Refused {
            path: path.to_path_buf(),
            problem: escaped(&problem.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_control_characters_stay_in_one_line() {
        let problem = "has `a\r\n\u{1b}[31mb` \u{17c}";
        let error = ExchangeError::refused(Path::new("model.pt"), problem);
        let said = "model.pt has `a\\r\\n\\u{1b}[31mb` \u{17c}";
        assert_eq!(error.to_string(), said);
    }
}
