//! The requested kind of tokenizer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::DataError;
use crate::limits::{BPE_SIZE_MAX, BPE_SIZE_MIN};

/// The kind of tokenizer to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerKind {
    /// The 256 bytes.
    Byte,
    /// The characters of the text.
    Char,
    /// Byte-level BPE with this many tokens, trained on the text.
    Bpe(usize),
    /// A `tokenizer.json` in the Hugging Face format.
    File(PathBuf),
}

impl FromStr for TokenizerKind {
    type Err = DataError;

    fn from_str(given: &str) -> Result<Self, DataError> {
        match given {
            "byte" => return Ok(Self::Byte),
            "char" => return Ok(Self::Char),
            _ => {}
        }
        if let Some(size) = given.strip_prefix("bpe:") {
            return size
                .parse()
                .ok()
                .filter(|size| (BPE_SIZE_MIN..=BPE_SIZE_MAX).contains(size))
                .map(Self::Bpe)
                .ok_or_else(|| DataError::VocabularySize {
                    given: size.to_owned(),
                });
        }
        let path = Path::new(given);
        if given.ends_with(".json") || path.exists() {
            return Ok(Self::File(path.to_owned()));
        }
        Err(DataError::UnknownTokenizer {
            given: given.to_owned(),
        })
    }
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte => f.write_str("byte"),
            Self::Char => f.write_str("char"),
            Self::Bpe(size) => write!(f, "bpe:{size}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}
