//! The checkpoints of a run.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shears_run::{checkpoint_step, read_regular};

use crate::runs::Run;

/// A larger state is not read for its loss.
const STATE_MAX: u64 = 1 << 26;

/// The folder of checkpoints in that of a run.
const FOLDER: &str = "checkpoints";

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Checkpoint {
    pub(crate) step: u64,
    pub(crate) bytes: u64,
    pub(crate) val_loss: Option<f64>,
    /// Whether its validation loss is the lowest of all that are kept.
    pub(crate) best: bool,
}

#[derive(Deserialize)]
struct StateFile {
    progress: Progress,
}

#[derive(Deserialize)]
struct Progress {
    val_loss: Option<f64>,
}

/// The checkpoints of a run, oldest first. Those without a manifest are being written or deleted.
pub(crate) fn list(run: &Run) -> Vec<Checkpoint> {
    let Ok(entries) = fs::read_dir(run.path.join(FOLDER)) else {
        return Vec::new();
    };
    let mut found: Vec<Checkpoint> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            let path = entry.path();
            let step = checkpoint_step(&path)?;
            path.join("manifest.json").is_file().then(|| Checkpoint {
                step,
                bytes: size(&path),
                val_loss: val_loss(run, name),
                best: false,
            })
        })
        .collect();
    found.sort_by_key(|checkpoint| checkpoint.step);
    let losses = found.iter().filter_map(|checkpoint| checkpoint.val_loss);
    let lowest = losses.min_by(f64::total_cmp);
    for checkpoint in &mut found {
        checkpoint.best = lowest.is_some() && checkpoint.val_loss == lowest;
    }
    found
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

fn val_loss(run: &Run, name: &str) -> Option<f64> {
    // An evaluation after the checkpoint writes a second state.
    let read = |file: &str| {
        let path = run.file(&format!("{FOLDER}/{name}/{file}"))?;
        read_regular(&path, STATE_MAX)
    };
    let state = read("evaluated.json").or_else(|_| read("state.json"));
    let state: StateFile = serde_json::from_slice(&state.ok()?).ok()?;
    state.progress.val_loss.filter(|loss| loss.is_finite())
}
