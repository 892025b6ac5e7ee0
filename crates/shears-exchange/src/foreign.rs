//! Files from strangers: opened only if they are regular, bounded before they are read, and called
//! what they are if they are something else.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::ExchangeError;

/// The most bytes of a JSON file; a vocabulary of half a million tokens has a tenth.
const JSON_MAX: u64 = 100 << 20;

/// What else a file is, by its first bytes, and what to do about it.
const KINDS: [(&[u8], &str); 7] = [
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS: fetch the file itself with `git lfs pull`",
    ),
    (b"<!doctype", "is a web page: download the file itself"),
    (b"<html", "is a web page: download the file itself"),
    (
        b"<?xml",
        "is an answer of a server, not a model: download the file itself",
    ),
    (
        b"GGUF",
        "is a GGUF file, which only goes out: give the folder that it was made from",
    ),
    (
        b"\x89HDF",
        "is an HDF5 file of Keras: save the model as safetensors",
    ),
    (b"\x1f\x8b", "is compressed by gzip: unpack it"),
];

/// Opens a regular file that is none of [`KINDS`].
///
/// # Errors
///
/// [`ExchangeError::Io`] or [`ExchangeError::Refused`].
pub(crate) fn open(path: &Path) -> Result<File, ExchangeError> {
    let read = ExchangeError::read(path);
    if !fs::metadata(path).map_err(&read)?.is_file() {
        return Err(ExchangeError::refused(path, "is not a regular file"));
    }
    let mut file = File::open(path).map_err(&read)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(32)
        .read_to_end(&mut start)
        .map_err(&read)?;
    if start.is_empty() {
        return Err(ExchangeError::refused(path, "is empty: copy it again"));
    }
    // In a safetensors file these bytes may be a length.
    let is_safetensors = start.get(8) == Some(&b'{');
    let lower = start.to_ascii_lowercase();
    let is_kind = |magic: &[u8]| lower.starts_with(&magic.to_ascii_lowercase());
    let found = KINDS.iter().find(|(magic, _)| is_kind(magic));
    if let Some((_, problem)) = found.filter(|_| !is_safetensors) {
        return Err(ExchangeError::refused(path, *problem));
    }
    File::open(path).map_err(read)
}

/// The bytes of a file of at most `limit`.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ExchangeError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(ExchangeError::read(path))?;
    match bytes.len() as u64 > limit {
        true => Err(ExchangeError::refused(
            path,
            format!("has over {limit} bytes, which is more than such a file has"),
        )),
        false => Ok(bytes),
    }
}

/// The text of a file that is read as a whole.
pub(crate) fn read_text(path: &Path) -> Result<String, ExchangeError> {
    String::from_utf8(read(path, JSON_MAX)?)
        .map_err(|_| ExchangeError::refused(path, "is not UTF-8 text"))
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, ExchangeError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| ExchangeError::refused(path, format!("is not whole JSON: {error}")))
}
