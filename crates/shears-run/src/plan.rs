//! `plan.toml` as a table, for readers that do not know what its keys mean.

use std::path::Path;

use crate::regular::read_regular_text;

/// A plan has a few kilobytes.
pub(crate) const LONGEST: u64 = 1 << 20;

/// The plan of the run in `folder` as a table.
///
/// # Errors
///
/// Why it cannot be read, as a fragment of a sentence.
pub fn read_plan(folder: &Path) -> Result<toml::Table, String> {
    let text = read_regular_text(&folder.join(crate::PLAN), LONGEST)
        .map_err(|error| format!("plan.toml cannot be read: {error}"))?;
    text.parse()
        .map_err(|error: toml::de::Error| format!("plan.toml: {}", crate::toml_problem(&error)))
}
