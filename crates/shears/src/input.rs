//! Reads short texts that are named on the command line: a config file, a prompt.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use shears_data::{DataError, read_text};

use crate::exit::Misuse;

/// Reads a file or a pipe with at most `most` bytes of text; errors call it `name`.
pub(crate) fn read_file(path: &Path, name: &str, most: u64) -> Result<String, Misuse> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Misuse(format!("{name} does not exist: check the path")),
        _ => Misuse(format!("{name} cannot be read: {error}")),
    })?;
    read(file, name, most)
}

/// Reads from an open source.
pub(crate) fn read(reader: impl Read, name: &str, most: u64) -> Result<String, Misuse> {
    read_text(reader, name, most).map_err(|error| match error {
        DataError::Unreadable { source, .. } => Misuse(format!("{name} cannot be read: {source}")),
        // Unlike a training text, this cannot have another encoding.
        DataError::NotUtf8 { offset, .. } => Misuse(format!(
            "{name} is not UTF-8 text: see the byte at offset {offset}"
        )),
        error => Misuse(error.to_string()),
    })
}
