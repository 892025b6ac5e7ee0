//! What a policy has learned, kept between calls in a file.

use std::path::Path;

use anyhow::Context;
use gradclip::{Clipper, ClipperState};
use serde::{Deserialize, Serialize};

use crate::exit::Misuse;
use crate::new_file;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    /// The policy that learned it.
    clip: String,
    state: ClipperState,
}

/// What a clipper has learned of a million tensors is shorter than so many bytes.
const LONGEST: u64 = 1 << 30;

/// Gives a clipper what the file has; one that is not there yet has nothing.
pub(super) fn restore(clipper: &mut Clipper, file: &Path) -> Result<(), Misuse> {
    let fail = |problem: String| Misuse(format!("--state {}: {problem}", file.display()));
    let text = match shears_run::read_regular(file, LONGEST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|error| fail(error.to_string()))?,
    };
    let history: Result<History, _> = serde_json::from_slice(&text);
    let history = history.map_err(|_| fail("is no file that --state has written".into()))?;
    let policy = clipper.policy().to_string();
    if history.clip != policy {
        let learned = history.clip;
        return Err(fail(format!("is what {learned} has learned, not {policy}")));
    }
    let restored = clipper.restore(&history.state);
    restored.map_err(|error| fail(error.to_string()))
}

/// Writes what the clipper has learned, whole or not at all.
pub(super) fn save(clipper: &Clipper, file: &Path) -> anyhow::Result<()> {
    let history = History {
        clip: clipper.policy().to_string(),
        state: clipper.state(),
    };
    let text = serde_json::to_string(&history).context("the state of the policy")?;
    new_file::write(file, text, true)
}
