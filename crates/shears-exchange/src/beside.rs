//! Files beside the weights.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::error::ExchangeError;

/// Writes JSON as people read it.
pub(crate) fn write_json(folder: &Path, name: &str, value: &Value) -> Result<(), ExchangeError> {
    write_text(folder, name, &format!("{value:#}\n"))
}

pub(crate) fn write_text(folder: &Path, name: &str, text: &str) -> Result<(), ExchangeError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(ExchangeError::write(&path))
}
