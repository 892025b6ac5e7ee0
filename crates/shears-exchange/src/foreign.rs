//! Files from strangers: opened only if they are regular, bounded before they are read, and called
//! what they are if they are something else.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use serde_json::Value;
use shears_data::{FOREIGN_BYTES, foreign_kind};
use shears_run::{json_problem, open_regular, read_regular};

use crate::error::ExchangeError;

/// The most bytes of a JSON file; a vocabulary of half a million tokens has a tenth.
const JSON_MAX: u64 = 100 << 20;

/// Opens a regular file that is not known to be something else than a model or what belongs to one.
///
/// # Errors
///
/// [`ExchangeError::Run`] or [`ExchangeError::Refused`].
pub(crate) fn open(path: &Path) -> Result<File, ExchangeError> {
    let mut file = check(path)?;
    file.rewind().map_err(ExchangeError::read(path))?;
    Ok(file)
}

/// The bytes of a file of at most `limit`, which [`open`] would open.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ExchangeError> {
    check(path)?;
    read_regular(path, limit).map_err(ExchangeError::read(path))
}

/// The same, for a reader that opens it by name; some of the file has been read.
pub(crate) fn check(path: &Path) -> Result<File, ExchangeError> {
    let mut start = Vec::new();
    let mut file = open_regular(path).map_err(ExchangeError::read(path))?;
    let read = file
        .by_ref()
        .take(FOREIGN_BYTES as u64)
        .read_to_end(&mut start);
    read.map_err(ExchangeError::read(path))?;
    if start.is_empty() {
        return Err(ExchangeError::refused(path, "is empty: copy it again"));
    }
    // Zip archives and pickles are what torch.save writes.
    let is_of_torch = start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80");
    let kind = match start.to_ascii_lowercase().starts_with(b"<?xml") {
        true => Some("an answer of a server, from a download that failed"),
        false => foreign_kind(&start).filter(|_| !is_of_torch),
    };
    if let Some(kind) = kind {
        let problem = format!("is {kind}; give what a model was saved as");
        return Err(ExchangeError::refused(path, problem));
    }
    Ok(file)
}

/// The text of a file that is read as a whole.
pub(crate) fn read_text(path: &Path) -> Result<String, ExchangeError> {
    String::from_utf8(read(path, JSON_MAX)?)
        .map_err(|_| ExchangeError::refused(path, "is not UTF-8 text"))
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, ExchangeError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| ExchangeError::refused(path, json_problem(&error)))
}
