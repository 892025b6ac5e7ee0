//! Checkpoints: folders that are written atomically, with a SHA-256 manifest.
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
pub(crate) use files::sync_folder;
use files::{CARRIED, Files, MANIFEST, MODEL, OPTIMIZER, Stamps, write_folder, write_state};

/// The progress of a run, without its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken, which is the position in the data.
    pub step: u64,
    /// Updates applied, that is, steps that were not skipped. The schedule depends on this.
    pub updates: u64,
    /// Steps skipped in a row so far.
    pub consecutive_skips: u64,
    /// The number of tokens that the carried state has read.
    pub position: usize,
    /// Validation loss at this step, if it was evaluated.
    pub val_loss: Option<f64>,
    /// The lowest validation loss so far.
    pub best_val_loss: Option<f64>,
    /// Evaluations since the lowest loss.
    pub stale_evaluations: u64,
    /// Whether work that is due after this step, such as an evaluation, is still pending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// Whether to measure the size of the next update, because the step at which it was due was
    /// skipped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weighing: bool,
}

/// Everything needed to resume a run.
#[derive(Clone, Debug)]
pub struct Checkpoint<T = NamedTensor> {
    /// The progress of the run.
    pub progress: Progress,
    /// The plan of the run.
    pub plan: Plan,
    /// The state of the clipper.
    pub clipper: ClipperState,
    /// The parameters.
    pub model: Vec<T>,
    /// The optimizer's moments.
    pub optimizer: Vec<T>,
    /// The carried state of a recurrent model.
    pub carried: Vec<T>,
}

/// A checkpoint whose tensors are read lazily, one at a time, while it is saved. Returned by
/// [`Trainer::snapshot`](crate::Trainer::snapshot).
pub type Snapshot<'a> = Checkpoint<LazyTensor<'a>>;

impl Checkpoint {
    /// The checkpoint of a run that starts from trained parameters: before its first step, with an
    /// evaluation pending.
    pub fn initial(plan: Plan, model: Vec<NamedTensor>) -> Self {
        let clipper = Clipper::for_adam(plan.clip.clone(), plan.non_finite).state();
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
    /// Converts the tensors.
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
    /// Reads all tensors.
    pub(crate) fn read(&self) -> Checkpoint {
        self.with_tensors(LazyTensor::read)
    }
}

/// The folder of a run's checkpoints.
#[derive(Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    /// The checkpoints that this process has written, or read and found intact.
    known: Mutex<HashMap<PathBuf, Known>>,
}

/// The requested data of the first intact checkpoint, with its folder, and the errors of the
/// damaged ones before it in the search order.
pub type Found<T> = (Option<(PathBuf, T)>, Vec<RestoreError>);

/// A checkpoint that was intact when its files had these stamps.
#[derive(Debug)]
struct Known {
    stamps: Stamps,
    standing: Standing,
}

/// The progress of a checkpoint, and the number of tokens of its evaluation.
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
    /// A store in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        CheckpointStore {
            folder: folder.into(),
            known: Mutex::default(),
        }
    }

    /// Writes a checkpoint, one tensor at a time, and returns its folder.
    ///
    /// It is written to a temporary folder, synced to disk and then renamed, so that at any time
    /// either the old or the new state exists, complete. If the step was saved with pending work
    /// that is now done, only the state is rewritten.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or if a newer version of this program has written that step.
    pub fn save<'a>(&self, snapshot: impl Into<Snapshot<'a>>) -> Result<PathBuf, TrainError> {
        let checkpoint = &snapshot.into();
        if !self.folder.exists() {
            // Not its parents: if the run's folder has vanished, do not recreate half of a run.
            fs::create_dir(&self.folder).map_err(TrainError::io("create", &self.folder))?;
            sync_folder(shears_run::folder_of(&self.folder))?;
        }
        self.sweep();
        let target = self.path(checkpoint.progress.step);
        let standing = Standing::new(&checkpoint.progress, &checkpoint.plan);
        if target.exists() {
            match self.checked_standing(&target) {
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
                // Replace a damaged checkpoint.
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

    /// Deletes all but the newest `keep` (at least two) checkpoints and the best one. Returns a
    /// message for each that cannot be deleted.
    ///
    /// Damaged checkpoints are not deleted, because the user may still recover data from them, and
    /// the two newest intact ones are always kept. Each deletion first renames the folder to a name
    /// that the next save removes, so that an interrupted deletion leaves nothing that looks
    /// intact.
    ///
    /// Only those two, the best one and what is to be deleted are read, and not again if this
    /// process has written, loaded or checked them, while the sizes and times of their files stay
    /// the same. So the cost of a save does not grow with the number of checkpoints. Silent disk
    /// corruption is only found on loading; that is why at least two checkpoints are kept.
    ///
    /// # Errors
    ///
    /// The errors of [`CheckpointStore::list`].
    pub fn retain(&self, keep: usize) -> Result<Vec<String>, TrainError> {
        let is_whole = |path: &PathBuf| self.checked_standing(path).is_ok();
        let mut outdated = self.list()?;
        let standing = |path: &PathBuf| Some((self.standing(path).ok()?, path.clone()));
        let by_loss = by_loss(outdated.iter().filter_map(standing).collect());
        let best = by_loss.into_iter().find(is_whole);
        let (mut kept, mut whole) = (0, 0);
        while kept < keep.max(2)
            && let Some(newest) = outdated.pop()
        {
            if whole < 2 && !is_whole(&newest) {
                continue;
            }
            whole += 1;
            kept += 1;
        }
        let delete = |path: &PathBuf| {
            self.known().remove(path);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let doomed = self.folder.join(format!(".{name}.tmp"));
            let deleted = fs::rename(path, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
            let error = deleted.err()?;
            Some(format!("cannot delete {}: {error}", path.display()))
        };
        let outdated = outdated.iter().filter(|path| Some(*path) != best.as_ref());
        let outdated = outdated.filter(|path| is_whole(path));
        Ok(outdated.filter_map(delete).collect())
    }

    /// The folder of a step's checkpoint, which need not exist.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// The folders of complete checkpoints (those with a manifest), oldest first; empty if the
    /// store's folder does not exist yet.
    ///
    /// # Errors
    ///
    /// If the folder exists but cannot be read: a run must not mistake that for a fresh start.
    pub fn list(&self) -> Result<Vec<PathBuf>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
        };
        let entries = entries.map_err(TrainError::io("read", &self.folder))?;
        let complete = |entry: DirEntry| {
            let path = entry.path();
            let step = shears_run::checkpoint_step(&path)?;
            path.join(MANIFEST).is_file().then_some((step, path))
        };
        let mut found: Vec<(u64, PathBuf)> = entries.into_iter().filter_map(complete).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The checkpoint with the lowest validation loss among those with intact parameters, and the
    /// errors of those passed over: with a lower loss, or with an unreadable one. Of the others
    /// only the file with the loss is read.
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

    /// [`CheckpointStore::best`] with its parameters; the newest checkpoint if none of those that
    /// were evaluated is intact.
    pub fn load_best_model(&self) -> Result<Found<Vec<NamedTensor>>, TrainError> {
        let (evaluated, mut damaged) = self.evaluated()?;
        let mut others = self.list()?;
        others.retain(|path| !evaluated.contains(path));
        let paths = evaluated.into_iter().chain(others.into_iter().rev());
        let (found, passed_over) = first_intact(paths, |path| self.load_model(path))?;
        for error in passed_over {
            // Without a manifest, neither state nor parameters can be read.
            if !damaged.contains(&error) {
                damaged.push(error);
            }
        }
        Ok((found, damaged))
    }

    /// The newest intact parameters.
    pub fn load_newest_model(&self) -> Result<Found<Vec<NamedTensor>>, TrainError> {
        first_intact(self.list()?.into_iter().rev(), |path| self.load_model(path))
    }

    /// The checkpoints with a validation loss, lowest first, and the errors of those whose state
    /// cannot be read.
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

    /// Reads all files of a checkpoint and returns what is wrong with it, if anything.
    pub fn damage(&self, path: &Path) -> Option<RestoreError> {
        self.checked_standing(path).err()
    }

    /// The progress of a checkpoint, of which only the state is read.
    fn standing(&self, path: &Path) -> Result<Standing, RestoreError> {
        if let Some(known) = self.known_standing(path, Stamps::of(path).as_ref()) {
            return Ok(known);
        }
        let state = Files::of(path)?.state()?;
        Ok(Standing::new(&state.progress, &state.plan))
    }

    fn known_standing(&self, path: &Path, stamps: Option<&Stamps>) -> Option<Standing> {
        let all = self.known();
        let known = all.get(path).filter(|known| Some(&known.stamps) == stamps);
        known.map(|known| known.standing.clone())
    }

    /// The progress of a checkpoint, if all of its files match the manifest.
    fn checked_standing(&self, path: &Path) -> Result<Standing, RestoreError> {
        // Taken before reading the files, so that later changes show as other stamps.
        let stamps = Stamps::of(path);
        if let Some(known) = self.known_standing(path, stamps.as_ref()) {
            return Ok(known);
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

    /// The newest intact checkpoint, and the errors of newer ones.
    ///
    /// # Errors
    ///
    /// Also if a newer version of this program has written the newest checkpoint: resuming from an
    /// older one would repeat its steps.
    pub fn newest(&self) -> Result<Found<Checkpoint>, TrainError> {
        first_intact(self.list()?.into_iter().rev(), |path| self.load(path))
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

    /// Reads the parameters of a checkpoint, after checking their file against the manifest. Reads
    /// nothing else, because the moments are twice as large.
    pub fn load_model(&self, path: &Path) -> Result<Vec<NamedTensor>, RestoreError> {
        Files::of(path)?.tensors(MODEL)
    }

    /// Reads the plan of a checkpoint, after checking its file.
    pub fn load_plan(&self, path: &Path) -> Result<Plan, RestoreError> {
        Ok(Files::of(path)?.state()?.plan)
    }

    /// Removes the remains of interrupted saves.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                let path = entry.path();
                // Nobody but a stranger leaves a file there.
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
    }
}

/// The first checkpoint that can be read, and the errors of those before it.
fn first_intact<T>(
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

/// The checkpoints with a validation loss, lowest first and oldest first among equals. Only those
/// evaluated on the same tokens as the newest one are compared.
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
