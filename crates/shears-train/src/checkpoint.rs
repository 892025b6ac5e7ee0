//! Checkpoints: folders that appear whole or not at all, with a SHA-256 manifest.
//!
//! ```text
//! checkpoints/step-00000500/model.safetensors      parameters
//!                           optimizer.safetensors  moments
//!                           carried.safetensors    hidden states of recurrent models
//!                           state.json             progress, the plan that it belongs to, and
//!                                                  what the clipping policy has learned
//!                           manifest.json          the hash of each of them
//!                           evaluated.json         what counts in place of state.json, if an
//!                                                  evaluation came after the checkpoint
//! ```

mod files;

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gradclip::{Clipper, ClipperState};
use serde::{Deserialize, Serialize};

use crate::error::{RestoreError, TrainError};
use crate::plan::Plan;
use crate::tensors::{LazyTensor, NamedTensor};
use files::{CARRIED, Files, MANIFEST, MODEL, OPTIMIZER, Stamps, write_folder, write_state};
pub(crate) use files::{sync_folder, write_synced};

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
    /// Whether what is due after this step, such as an evaluation, is still to be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Whether the size of the next update is to be measured: the step that was to be was skipped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weighing: bool,
}

/// All that a run needs to go on.
#[derive(Clone, Debug)]
pub struct Checkpoint<T = NamedTensor> {
    /// Where the run stands.
    pub progress: Progress,
    /// The plan that it belongs to.
    pub plan: Plan,
    /// What the clipping policy has learned.
    pub clipper: ClipperState,
    /// Parameters.
    pub model: Vec<T>,
    /// Moments.
    pub optimizer: Vec<T>,
    /// What the model carries from window to window.
    pub carried: Vec<T>,
}

/// What a save writes: a checkpoint whose tensors are read one by one, when their turn comes. A
/// trainer makes one ([`Trainer::snapshot`](crate::Trainer::snapshot)).
pub type Snapshot<'a> = Checkpoint<LazyTensor<'a>>;

impl Checkpoint {
    /// Where a run stands that starts from trained parameters: before its first step, with an
    /// evaluation to be done.
    pub fn initial(plan: Plan, model: Vec<NamedTensor>) -> Self {
        let clipper = Clipper::beside_adam(plan.clip.clone(), plan.non_finite).state();
        Checkpoint {
            progress: Progress {
                pending: true,
                ..Progress::default()
            },
            plan,
            clipper,
            model,
            optimizer: Vec::new(),
            carried: Vec::new(),
        }
    }
}

impl<T> Checkpoint<T> {
    /// The same with tensors in another form.
    fn with_tensors<'a, U>(&'a self, form: impl Fn(&'a T) -> U) -> Checkpoint<U> {
        let all = |tensors: &'a [T]| tensors.iter().map(&form).collect();
        Checkpoint {
            progress: self.progress.clone(),
            plan: self.plan.clone(),
            clipper: self.clipper.clone(),
            model: all(&self.model),
            optimizer: all(&self.optimizer),
            carried: all(&self.carried),
        }
    }
}

impl<'a> From<&'a Checkpoint> for Snapshot<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        checkpoint.with_tensors(LazyTensor::from)
    }
}

impl Snapshot<'_> {
    /// With all tensors read.
    pub(crate) fn read(&self) -> Checkpoint {
        self.with_tensors(LazyTensor::read)
    }
}

/// The folder that holds the checkpoints of a run.
#[derive(Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    /// The checkpoints that this process has written or read, and found whole.
    known: Mutex<HashMap<PathBuf, Known>>,
}

/// What was asked of a checkpoint with its folder, if one is whole, and what is wrong with those
/// before it in the order that was asked for.
pub type Found<T> = (Option<(PathBuf, T)>, Vec<RestoreError>);

/// A checkpoint that was whole when its files had these stamps.
#[derive(Debug)]
struct Known {
    stamps: Stamps,
    standing: Standing,
}

/// Where a checkpoint stands, and on how many tokens it was evaluated.
#[derive(Clone, Debug)]
struct Standing {
    progress: Progress,
    eval_tokens: u64,
}

impl Standing {
    fn new(progress: &Progress, plan: &Plan) -> Standing {
        Standing {
            progress: progress.clone(),
            eval_tokens: plan.eval_tokens,
        }
    }
}

impl CheckpointStore {
    /// The store in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        CheckpointStore {
            folder: folder.into(),
            known: Mutex::default(),
        }
    }

    /// Writes a checkpoint, of which one tensor at a time is in memory, and gives its folder.
    ///
    /// It is written beside its place, synced to disk and then renamed: at every instant the
    /// old state or the new one is there, complete. If the step was saved with something pending
    /// that is now done, only the state is written again.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or a later version of this program has written that step.
    pub fn save<'a>(&self, snapshot: impl Into<Snapshot<'a>>) -> Result<PathBuf, TrainError> {
        let checkpoint = &snapshot.into();
        if !self.folder.exists() {
            // Not what is above it: a run whose folder has vanished is not begun again by halves.
            fs::create_dir(&self.folder).map_err(TrainError::io("create", &self.folder))?;
            sync_folder(shears_run::folder_of(&self.folder))?;
        }
        self.sweep();
        let target = self.path(checkpoint.progress.step);
        let standing = Standing::new(&checkpoint.progress, &checkpoint.plan);
        if target.exists() {
            match self.standing_if_whole(&target) {
                Ok(known) if known.progress.pending && !checkpoint.progress.pending => {
                    write_state(&target, checkpoint)?;
                    self.remember(&target, Stamps::of(&target), standing);
                    return Ok(target);
                }
                Ok(_) => return Ok(target),
                Err(error) if error.newer => return Err(error.into()),
                Err(_) => {}
            }
        }
        let temporary = self
            .folder
            .join(format!(".{:08}.tmp", checkpoint.progress.step));
        let written = write_folder(&temporary, checkpoint).and_then(|()| {
            if target.exists() {
                // A damaged checkpoint gives way to a whole one.
                fs::remove_dir_all(&target).map_err(TrainError::io("replace", &target))?;
            }
            fs::rename(&temporary, &target).map_err(TrainError::io("create", &target))?;
            sync_folder(&self.folder)
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written?;
        self.remember(&target, Stamps::of(&target), standing);
        Ok(target)
    }

    /// Deletes all but the newest `keep` checkpoints and the best one, and never leaves fewer than
    /// two. Gives a sentence for each that cannot be deleted.
    ///
    /// Damaged ones neither count nor are deleted: what can be saved of them is not for this
    /// program to decide. Each is renamed to a name that the next save sweeps, and then deleted, so
    /// that an interrupted deletion leaves nothing that looks whole.
    ///
    /// A checkpoint that this process has written, loaded or checked is not read again as long as
    /// size and time of its files stay the same; all others are read once. So the cost of a save
    /// does not grow with the number of checkpoints, and what a crash has damaged is still found by
    /// the first save after it. Silent corruption on disk is found when the file is loaded, and not
    /// here; that is why at least two checkpoints are kept.
    ///
    /// # Errors
    ///
    /// As [`CheckpointStore::list`].
    pub fn retain(&self, keep: usize) -> Result<Vec<String>, TrainError> {
        let read = |path: PathBuf| Some((self.standing_if_whole(&path).ok()?, path));
        let whole: Vec<(Standing, PathBuf)> = self.list()?.into_iter().filter_map(read).collect();
        let best = by_loss(whole.clone()).into_iter().next();
        let outdated = whole.len().saturating_sub(keep.max(2));
        let outdated = whole.iter().map(|(_, path)| path).take(outdated);
        let delete = |path: &PathBuf| {
            self.known().remove(path);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let doomed = self.folder.join(format!(".{name}.tmp"));
            let deleted = fs::rename(path, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
            let error = deleted.err()?;
            Some(format!("cannot delete {}: {error}", path.display()))
        };
        let outdated = outdated.filter(|path| Some(*path) != best.as_ref());
        Ok(outdated.filter_map(delete).collect())
    }

    /// The folder of a step's checkpoint, whether it is there or not.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// The folders of complete checkpoints (those with a manifest), oldest first; none if there
    /// is no folder for them yet.
    ///
    /// # Errors
    ///
    /// If the folder is there and cannot be read: a run must not take that for a fresh start.
    pub fn list(&self) -> Result<Vec<PathBuf>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
        };
        let entries = entries.map_err(TrainError::io("read", &self.folder))?;
        let complete = |entry: DirEntry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok()?;
            let path = entry.path();
            path.join(MANIFEST).is_file().then_some((step, path))
        };
        let mut found: Vec<(u64, PathBuf)> = entries.into_iter().filter_map(complete).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The checkpoint with the lowest validation loss whose parameters are undamaged, and what is
    /// wrong with those that were passed over: those with a lower loss, and those whose loss cannot
    /// be read. Of the others only the file with the loss is read.
    pub fn best(&self) -> Result<(Option<PathBuf>, Vec<RestoreError>), TrainError> {
        let (evaluated, mut damaged) = self.evaluated()?;
        for path in evaluated {
            match Files::of(&path).and_then(|files| files.check(MODEL)) {
                Ok(()) => return Ok((Some(path), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        Ok((None, damaged))
    }

    /// [`CheckpointStore::best`] with its parameters; the newest one if none was evaluated.
    pub fn load_best_model(&self) -> Result<Found<Vec<NamedTensor>>, TrainError> {
        let (evaluated, mut damaged) = self.evaluated()?;
        if evaluated.is_empty() {
            return self.load_newest_model();
        }
        let (found, others) = first_whole(evaluated.into_iter(), |path| self.load_model(path))?;
        damaged.extend(others);
        Ok((found, damaged))
    }

    /// The newest parameters that are undamaged.
    pub fn load_newest_model(&self) -> Result<Found<Vec<NamedTensor>>, TrainError> {
        first_whole(self.list()?.into_iter().rev(), |path| self.load_model(path))
    }

    /// The checkpoints that have a validation loss, the lowest first, and those whose state cannot
    /// be read.
    fn evaluated(&self) -> Result<(Vec<PathBuf>, Vec<RestoreError>), TrainError> {
        let (mut read, mut damaged) = (Vec::new(), Vec::new());
        for path in self.list()? {
            match Files::of(&path).and_then(|files| files.state()) {
                Ok(state) => read.push((Standing::new(&state.progress, &state.plan), path)),
                Err(error) if error.newer => return Err(error.into()),
                Err(error) => damaged.push(error),
            }
        }
        Ok((by_loss(read), damaged))
    }

    /// What is wrong with a checkpoint: all of its files are read.
    pub fn damage(&self, path: &Path) -> Option<RestoreError> {
        self.standing_if_whole(path).err()
    }

    /// Where a checkpoint stands, if all of its files are what the manifest says.
    fn standing_if_whole(&self, path: &Path) -> Result<Standing, RestoreError> {
        // Before the files are read: what changes meanwhile has other stamps the next time.
        let stamps = Stamps::of(path);
        if let Some(known) = self.known().get(path)
            && Some(&known.stamps) == stamps.as_ref()
        {
            return Ok(known.standing.clone());
        }
        let state = Files::of(path)?.check_all()?;
        let standing = Standing::new(&state.progress, &state.plan);
        self.remember(path, stamps, standing.clone());
        Ok(standing)
    }

    fn remember(&self, path: &Path, stamps: Option<Stamps>, standing: Standing) {
        if let Some(stamps) = stamps {
            let known = Known { stamps, standing };
            self.known().insert(path.to_path_buf(), known);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        // The table is consistent after every statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest checkpoint that is whole and unchanged, with a line for each newer one that is
    /// not.
    ///
    /// # Errors
    ///
    /// Also if a later version of this program has written the newest one: to go on from an older
    /// one would take its steps again.
    pub fn newest(&self) -> Result<Found<Checkpoint>, TrainError> {
        first_whole(self.list()?.into_iter().rev(), |path| self.load(path))
    }

    /// Reads a checkpoint, after checking every file against the manifest.
    pub fn load(&self, path: &Path) -> Result<Checkpoint, RestoreError> {
        let stamps = Stamps::of(path);
        let files = Files::of(path)?;
        let state = files.state()?;
        let checkpoint = Checkpoint {
            progress: state.progress,
            plan: state.plan,
            clipper: state.clipper,
            model: files.tensors(MODEL)?,
            optimizer: files.tensors(OPTIMIZER)?,
            carried: files.tensors(CARRIED)?,
        };
        let standing = Standing::new(&checkpoint.progress, &checkpoint.plan);
        self.remember(path, stamps, standing);
        Ok(checkpoint)
    }

    /// Reads the parameters of a checkpoint, after checking their file against the manifest.
    /// Nothing else of the checkpoint is read: the moments are twice as large.
    pub fn load_model(&self, path: &Path) -> Result<Vec<NamedTensor>, RestoreError> {
        Files::of(path)?.tensors(MODEL)
    }

    /// Reads the plan that a checkpoint was trained with, after checking its file.
    pub fn load_plan(&self, path: &Path) -> Result<Plan, RestoreError> {
        Ok(Files::of(path)?.state()?.plan)
    }

    /// Removes what interrupted saves have left.
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

/// The first of these checkpoints that can be read.
fn first_whole<T>(
    paths: impl Iterator<Item = PathBuf>,
    read: impl Fn(&Path) -> Result<T, RestoreError>,
) -> Result<Found<T>, TrainError> {
    let mut damaged = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(found) => return Ok((Some((path, found)), damaged)),
            Err(error) if error.newer => return Err(error.into()),
            Err(error) => damaged.push(error),
        }
    }
    Ok((None, damaged))
}

/// Those that have a validation loss, the lowest first, and the oldest of equal ones. Losses on
/// other tokens than the newest one's are not compared with it.
fn by_loss(checkpoints: Vec<(Standing, PathBuf)>) -> Vec<PathBuf> {
    let losses = checkpoints.into_iter().filter_map(|(standing, path)| {
        let loss = standing.progress.val_loss.filter(|loss| loss.is_finite())?;
        Some((loss, standing.eval_tokens, path))
    });
    let mut losses: Vec<(f64, u64, PathBuf)> = losses.collect();
    let tokens = losses.last().map(|(_, tokens, _)| *tokens);
    losses.retain(|(_, read, _)| Some(*read) == tokens);
    losses.sort_by(|left, right| left.0.total_cmp(&right.0));
    losses.into_iter().map(|(.., path)| path).collect()
}
