//! `plan.toml`, as far as it can be read without knowing what its keys mean.

use std::fs;
use std::path::Path;

/// The plan of the run in `folder` as a table.
///
/// # Errors
///
/// The reason why there is none, as a fragment of a sentence.
pub fn read_plan(folder: &Path) -> Result<toml::Table, String> {
    let text = fs::read_to_string(folder.join(crate::PLAN))
        .map_err(|error| format!("plan.toml cannot be read: {error}"))?;
    text.parse()
        .map_err(|error: toml::de::Error| format!("plan.toml: {}", error.message()))
}
