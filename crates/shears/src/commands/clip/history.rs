//! The state of an adaptive policy, kept in a file between calls.

use std::path::Path;

use anyhow::Context;
use gradclip::{Clipper, ClipperState};
use serde::{Deserialize, Serialize};

use crate::exit::Misuse;
use crate::new_file;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    /// The policy of the state.
    clip: String,
    state: ClipperState,
}

/// Maximum bytes of the file; the state for a million tensors is shorter.
const LONGEST: u64 = 1 << 30;

/// Restores the clipper from the file, if it exists.
pub(super) fn restore(clipper: &mut Clipper, file: &Path) -> Result<(), Misuse> {
    let fail = |problem: String| Misuse(format!("--state {}: {problem}", file.display()));
    let text = match shears_run::read_regular(file, LONGEST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|error| fail(error.to_string()))?,
    };
    let history: Result<History, _> = serde_json::from_slice(&text);
    let history = history.map_err(|_| fail("was not written by --state".into()))?;
    let policy = clipper.policy().to_string();
    if history.clip != policy {
        let learned = history.clip;
        return Err(fail(format!("has the state of {learned}, not of {policy}")));
    }
    let restored = clipper.restore(&history.state);
    restored.map_err(|error| fail(error.to_string()))
}

/// Writes the state of the clipper, whole or not at all.
pub(super) fn save(clipper: &Clipper, file: &Path) -> anyhow::Result<()> {
    let history = History {
        clip: clipper.policy().to_string(),
        state: clipper.state(),
    };
    let text = serde_json::to_string(&history).context("the state of the policy")?;
    new_file::write(file, text, true)
}
