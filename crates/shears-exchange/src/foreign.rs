//! Files from strangers: opened only if they are regular, bounded before they are read, and named
//! if they are something else.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use serde_json::Value;
use shears_data::{FOREIGN_BYTES, foreign_kind};
use shears_run::{json_problem, open_regular, read_regular};

use crate::error::ExchangeError;

/// The most bytes of a JSON file; a vocabulary of half a million tokens has a tenth of that.
const JSON_MAX: u64 = 100 << 20;

/// Opens a regular file, unless its first bytes show that it is not part of a model.
///
/// # Errors
///
/// [`ExchangeError::Run`] or [`ExchangeError::Refused`].
pub(crate) fn open(path: &Path) -> Result<File, ExchangeError> {
    let mut file = check(path)?;
    file.rewind().map_err(ExchangeError::read(path))?;
    Ok(file)
}

/// Reads a file of at most `limit` bytes, with the checks of [`open`].
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ExchangeError> {
    check(path)?;
    read_regular(path, limit).map_err(ExchangeError::read(path))
}

/// Checks a file like [`open`], for a reader that opens it by name; its start has been read.
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
    // torch.save writes zip archives and pickles, under any name but this.
    let is_safetensors = path
        .extension()
        .is_some_and(|ending| ending == "safetensors");
    let is_archive = start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80");
    let is_of_torch = is_archive && !is_safetensors;
    let kind = match start.to_ascii_lowercase().starts_with(b"<?xml") {
        true => Some("a server's error message, from a download that failed"),
        false => foreign_kind(&start).filter(|_| !is_of_torch),
    };
    if let Some(kind) = kind {
        let problem = format!("is {kind}; give the file of a model");
        return Err(ExchangeError::refused(path, problem));
    }
    Ok(file)
}

/// Reads a text file as a whole.
pub(crate) fn read_text(path: &Path) -> Result<String, ExchangeError> {
    String::from_utf8(read(path, JSON_MAX)?)
        .map_err(|_| ExchangeError::refused(path, "is not UTF-8 text"))
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, ExchangeError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| ExchangeError::refused(path, json_problem(&error)))
}

/// The error of a config whose value of `key` is not what is `expected`.
pub(crate) fn unexpected(path: &Path, key: &str, value: &Value, expected: &str) -> ExchangeError {
    let value = shortened(&value.to_string());
    ExchangeError::refused(path, format!("has {key} {value}; it must be {expected}"))
}

/// The start of a value from a file, for a message.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
