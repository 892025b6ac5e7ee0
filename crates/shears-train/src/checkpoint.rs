//! Checkpoints: folders that appear whole or not at all, with a SHA-256 manifest.
//!
//! ```text
//! checkpoints/step-00000500/model.safetensors      parameters
//!                           optimizer.safetensors  moments
//!                           carried.safetensors    hidden states of recurrent models
//!                           state.json             progress, the plan that it belongs to, and
//!                                                  what the clipping policy has learned
//!                           manifest.json          the hash of each of them
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use gradclip::ClipperState;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::plan::Plan;
use crate::tensors::{NamedTensor, from_safetensors, to_safetensors};

/// The version of the format that this program writes, and the only one that it reads.
const FORMAT: u32 = 2;

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken: the place in the data.
    pub step: u64,
    /// Updates applied: steps that were not skipped. The schedule goes by this.
    pub updates: u64,
    /// Steps skipped in a row until now.
    pub consecutive_skips: u64,
    /// How many tokens the carried state has read.
    pub position: usize,
    /// Validation loss at this step, if it was evaluated.
    pub val_loss: Option<f64>,
    /// The lowest validation loss until now.
    pub best_val_loss: Option<f64>,
    /// Evaluations since then.
    pub stale_evaluations: u64,
}

/// All that a run needs to go on.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where the run stands.
    pub progress: Progress,
    /// The plan that it belongs to.
    pub plan: Plan,
    /// What the clipping policy has learned.
    pub clipper: ClipperState,
    /// Parameters.
    pub model: Vec<NamedTensor>,
    /// Moments.
    pub optimizer: Vec<NamedTensor>,
    /// What the model carries from window to window.
    pub carried: Vec<NamedTensor>,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    progress: Progress,
    plan: Plan,
    clipper: ClipperState,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    sha256: BTreeMap<String, String>,
}

/// Why a checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {}: {problem}", path.display())]
pub struct RestoreError {
    /// The checkpoint or the file in it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The folder that holds the checkpoints of a run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
}

impl CheckpointStore {
    /// The store in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        CheckpointStore {
            folder: folder.into(),
        }
    }

    /// Writes a checkpoint, and gives its folder.
    ///
    /// It is written beside its place, synced to disk and then renamed: at every instant the
    /// old state or the new one is there, complete.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf, TrainError> {
        fs::create_dir_all(&self.folder).map_err(TrainError::io("create", &self.folder))?;
        self.sweep();
        let target = self
            .folder
            .join(format!("step-{:08}", checkpoint.progress.step));
        if target.exists() && self.load(&target).is_ok() {
            return Ok(target);
        }
        let temporary = self
            .folder
            .join(format!(".{:08}.tmp", checkpoint.progress.step));
        let written = write_folder(&temporary, checkpoint).and_then(|()| {
            if target.exists() {
                // It did not load: it is of no use to anybody.
                fs::remove_dir_all(&target).map_err(TrainError::io("replace", &target))?;
            }
            fs::rename(&temporary, &target).map_err(TrainError::io("create", &target))?;
            sync_folder(&self.folder)
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written.map(|()| target)
    }

    /// Deletes all but the newest `keep` checkpoints and the best one.
    ///
    /// Damaged ones do not count, and are left as they are: what can be saved of them is not for
    /// this program to decide. The manifest goes first, so that a deletion cut short leaves
    /// nothing that looks whole.
    pub fn retain(&self, keep: usize) -> Result<(), TrainError> {
        let whole = self.whole();
        let best = lowest_loss(&whole);
        let outdated = whole.len().saturating_sub(keep);
        let outdated = whole.iter().map(|(path, _)| path).take(outdated);
        for path in outdated.filter(|path| Some(*path) != best.as_ref()) {
            let _ = fs::remove_file(path.join("manifest.json"));
            fs::remove_dir_all(path).map_err(TrainError::io("delete", path))?;
        }
        Ok(())
    }

    /// The folders of complete checkpoints (those with a manifest), oldest first.
    pub fn list(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut found: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let step = entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse()
                    .ok()?;
                let path = entry.path();
                path.join("manifest.json").is_file().then_some((step, path))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// The whole checkpoint with the lowest validation loss.
    pub fn best(&self) -> Option<PathBuf> {
        lowest_loss(&self.whole())
    }

    /// The undamaged checkpoints with their progress, oldest first.
    fn whole(&self) -> Vec<(PathBuf, Progress)> {
        let read = |path: PathBuf| {
            let state = Files::open(&path).and_then(|files| files.state()).ok()?;
            Some((path, state.progress))
        };
        self.list().into_iter().filter_map(read).collect()
    }

    /// The newest checkpoint that is whole and unchanged, with a line for each newer one that is
    /// not.
    pub fn newest(&self) -> (Option<(PathBuf, Checkpoint)>, Vec<RestoreError>) {
        let mut damaged = Vec::new();
        for path in self.list().into_iter().rev() {
            match self.load(&path) {
                Ok(checkpoint) => return (Some((path, checkpoint)), damaged),
                Err(error) => damaged.push(error),
            }
        }
        (None, damaged)
    }

    /// Reads a checkpoint, after checking every file against the manifest.
    pub fn load(&self, path: &Path) -> Result<Checkpoint, RestoreError> {
        let files = Files::open(path)?;
        let state = files.state()?;
        Ok(Checkpoint {
            progress: state.progress,
            plan: state.plan,
            clipper: state.clipper,
            model: files.tensors("model.safetensors")?,
            optimizer: files.tensors("optimizer.safetensors")?,
            carried: files.tensors("carried.safetensors")?,
        })
    }

    /// Removes what saves that were cut short have left.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn lowest_loss(checkpoints: &[(PathBuf, Progress)]) -> Option<PathBuf> {
    let losses = checkpoints.iter().filter_map(|(path, progress)| {
        progress
            .val_loss
            .filter(|loss| loss.is_finite())
            .map(|loss| (loss, path))
    });
    losses
        .min_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, path)| path.clone())
}

/// The files of a checkpoint, read once and found to be what the manifest says.
struct Files<'a> {
    folder: &'a Path,
    bytes: BTreeMap<String, Vec<u8>>,
}

/// The files that every checkpoint has.
const FILES: [&str; 4] = [
    "model.safetensors",
    "optimizer.safetensors",
    "carried.safetensors",
    "state.json",
];

impl<'a> Files<'a> {
    fn open(folder: &'a Path) -> Result<Self, RestoreError> {
        let fail = |file: &str, problem: String| RestoreError {
            path: folder.join(file),
            problem,
        };
        let manifest = fs::read(folder.join("manifest.json"));
        let manifest = manifest.map_err(|error| fail("manifest.json", error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| fail("manifest.json", format!("is damaged: {error}")))?;
        check_format(manifest.format).map_err(|problem| fail("manifest.json", problem))?;
        let mut bytes = BTreeMap::new();
        for file in FILES {
            let expected = manifest.sha256.get(file);
            let expected = expected.ok_or_else(|| fail(file, "is not in the manifest".into()))?;
            let content = fs::read(folder.join(file)).map_err(|e| fail(file, e.to_string()))?;
            if sha256_hex(&content) != *expected {
                return Err(fail(
                    file,
                    "its SHA-256 is not the manifest's: it is damaged".into(),
                ));
            }
            bytes.insert(file.to_string(), content);
        }
        Ok(Files { folder, bytes })
    }

    fn state(&self) -> Result<StateFile, RestoreError> {
        let fail = |problem| RestoreError {
            path: self.folder.join("state.json"),
            problem,
        };
        let state: StateFile = serde_json::from_slice(&self.bytes["state.json"])
            .map_err(|error| fail(error.to_string()))?;
        check_format(state.format).map_err(fail)?;
        Ok(state)
    }

    fn tensors(&self, file: &str) -> Result<Vec<NamedTensor>, RestoreError> {
        let fail = |problem| RestoreError {
            path: self.folder.join(file),
            problem,
        };
        from_safetensors(&self.bytes[file]).map_err(fail)
    }
}

fn write_folder(folder: &Path, checkpoint: &Checkpoint) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let state = StateFile {
        format: FORMAT,
        progress: checkpoint.progress.clone(),
        plan: checkpoint.plan.clone(),
        clipper: checkpoint.clipper.clone(),
    };
    let invalid = |problem: String| std::io::Error::new(std::io::ErrorKind::InvalidData, problem);
    let mut sha256 = BTreeMap::new();
    let mut write = |file: &str, bytes: std::io::Result<Vec<u8>>| -> Result<(), TrainError> {
        let path = folder.join(file);
        let written = bytes.and_then(|bytes| {
            sha256.insert(file.to_string(), sha256_hex(&bytes));
            write_synced(&path, &bytes)
        });
        written.map_err(TrainError::io("write", &path))
    };
    write(
        "model.safetensors",
        to_safetensors(&checkpoint.model).map_err(invalid),
    )?;
    write(
        "optimizer.safetensors",
        to_safetensors(&checkpoint.optimizer).map_err(invalid),
    )?;
    write(
        "carried.safetensors",
        to_safetensors(&checkpoint.carried).map_err(invalid),
    )?;
    write(
        "state.json",
        serde_json::to_vec_pretty(&state).map_err(Into::into),
    )?;
    let manifest = serde_json::to_vec_pretty(&Manifest {
        format: FORMAT,
        sha256,
    });
    let path = folder.join("manifest.json");
    let written = manifest
        .map_err(Into::into)
        .and_then(|bytes| write_synced(&path, &bytes));
    written.map_err(TrainError::io("write", &path))?;
    sync_folder(folder)
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename durable. Only Unix lets a folder be opened and synced.
fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|file| file.sync_all());
        synced.map_err(TrainError::io("sync", folder))?;
    }
    Ok(())
}

fn check_format(format: u32) -> Result<(), String> {
    match format {
        FORMAT => Ok(()),
        other => Err(format!(
            "has format {other}; this program reads format {FORMAT}"
        )),
    }
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
