//! Writing, checking and reading the files of one checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use gradclip::ClipperState;
use serde::{Deserialize, Serialize};
use shears_data::{FOREIGN_BYTES, Sha256Writer, foreign_kind, sha256_hex, sha256_of};
use shears_run::{checkpoint_step, json_problem, open_regular, read_regular, replace_file};

use super::{Checkpoint, Progress, Snapshot};
use crate::TrainError;
use crate::error::RestoreError;
use crate::plan::Plan;
use crate::tensors::{NamedTensor, from_safetensors, read_safetensors, write_safetensors};

/// The format version that this program writes. Format 2 had no pending evaluations.
const FORMAT: u32 = 3;
/// The oldest format that it reads.
const OLDEST: u32 = 2;

/// The largest manifest in bytes.
const MANIFEST_MAX: u64 = 1 << 20;
/// The largest state in bytes: adaptive rules keep some numbers per tensor.
const STATE_MAX: u64 = 1 << 28;

pub(super) const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const CARRIED: &str = "carried.safetensors";
const STATE: &str = "state.json";
/// Replaces the state if a checkpoint was evaluated after it was written.
const EVALUATED: &str = "evaluated.json";
pub(super) const MANIFEST: &str = "manifest.json";

/// The files of every checkpoint, besides the manifest.
pub(super) const FILES: [&str; 4] = [MODEL, OPTIMIZER, CARRIED, STATE];

#[derive(Serialize, Deserialize)]
pub(super) struct StateFile {
    format: u32,
    pub(super) progress: Progress,
    pub(super) plan: Plan,
    pub(super) clipper: ClipperState,
}

/// The common part of manifests and states of every format.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    sha256: BTreeMap<String, String>,
}

/// The files of a checkpoint, each checked against the manifest whenever it is read.
pub(super) struct Files<'a> {
    folder: &'a Path,
    format: u32,
    sha256: BTreeMap<String, String>,
}

impl<'a> Files<'a> {
    /// Reads the manifest, and nothing else unless it has another format.
    pub(super) fn of(folder: &'a Path) -> Result<Self, RestoreError> {
        let fail = |problem| failure(folder, MANIFEST, problem);
        let manifest = read_regular(&folder.join(MANIFEST), MANIFEST_MAX);
        let manifest = manifest.map_err(|error| fail(error.to_string()))?;
        let Manifest { format, sha256 } = serde_json::from_slice(&manifest).map_err(|error| {
            // A newer format may have an incompatible manifest.
            match serde_json::from_slice::<AnyFormat>(&manifest) {
                Ok(AnyFormat { format }) if format > FORMAT => newer(folder, format),
                _ => fail(format!("{}: it is damaged", json_problem(&error))),
            }
        })?;
        if format > FORMAT {
            return Err(newer(folder, format));
        }
        check_format(format).map_err(fail)?;
        Ok(Files {
            folder,
            format,
            sha256,
        })
    }

    /// Hashes a file without keeping it.
    pub(super) fn check(&self, file: &str) -> Result<(), RestoreError> {
        let hash = open_regular(&self.folder.join(file)).and_then(sha256_of);
        let hash = hash.map_err(|error| self.failure(file, error.to_string()))?;
        self.compare(file, &hash)
    }

    /// Checks all files, and returns the state.
    pub(super) fn check_all(&self) -> Result<StateFile, RestoreError> {
        let tensors = [MODEL, OPTIMIZER, CARRIED];
        tensors.into_iter().try_for_each(|file| self.check(file))?;
        self.state()
    }

    pub(super) fn state(&self) -> Result<StateFile, RestoreError> {
        let file = match self.sha256.contains_key(EVALUATED) {
            true => {
                self.check(STATE)?;
                EVALUATED
            }
            false => STATE,
        };
        let state: StateFile = serde_json::from_slice(&self.read(file, STATE_MAX)?)
            .map_err(|error| self.failure(file, json_problem(&error)))?;
        check_format(state.format).map_err(|problem| self.failure(file, problem))?;
        if state.format != self.format {
            let problem = format!(
                "has format {}, unlike {MANIFEST}: it is damaged",
                state.format
            );
            return Err(self.failure(file, problem));
        }
        let step = state.progress.step;
        if checkpoint_step(self.folder).is_some_and(|named| named != step) {
            let problem = format!("is of step {step}: the folder was renamed");
            return Err(self.failure(file, problem));
        }
        Ok(state)
    }

    /// Reads the tensors of a file, and hashes it at the same time, so that the file itself is
    /// never in memory. A wrong hash is reported before anything else that is wrong.
    pub(super) fn tensors(&self, file: &str) -> Result<Vec<NamedTensor>, RestoreError> {
        let path = self.folder.join(file);
        let opened = open_regular(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, opened) = opened.map_err(|error| self.failure(file, error.to_string()))?;
        let mut hashing = Hashing {
            reader: BufReader::with_capacity(BUFFER, opened),
            hash: Sha256Writer::default(),
        };
        let tensors = read_safetensors(&mut hashing, size);
        let rest = io::copy(&mut hashing, &mut io::sink());
        rest.map_err(|error| self.failure(file, error.to_string()))?;
        self.compare(file, &hashing.hash.hex())?;
        tensors.map_err(|problem| self.failure(file, problem))
    }

    fn read(&self, file: &str, limit: u64) -> Result<Vec<u8>, RestoreError> {
        let content = read_regular(&self.folder.join(file), limit);
        let content = content.map_err(|error| self.failure(file, error.to_string()))?;
        self.compare(file, &sha256_hex(&content))?;
        Ok(content)
    }

    fn compare(&self, file: &str, hash: &str) -> Result<(), RestoreError> {
        let problem = match self.sha256.get(file) {
            Some(expected) if expected == hash => return Ok(()),
            Some(_) => match foreign_kind_of(&self.folder.join(file)) {
                Some(what) => format!("this is {what}"),
                None => "its SHA-256 does not match the manifest: it is damaged".to_string(),
            },
            None => "is not in the manifest".to_string(),
        };
        Err(self.failure(file, problem))
    }

    fn failure(&self, file: &str, problem: String) -> RestoreError {
        failure(self.folder, file, problem)
    }
}

/// What a replaced file is, if its first bytes identify it.
fn foreign_kind_of(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    let file = open_regular(path).ok()?;
    file.take(FOREIGN_BYTES as u64)
        .read_to_end(&mut start)
        .ok()?;
    foreign_kind(&start)
}

fn failure(folder: &Path, file: &str, problem: String) -> RestoreError {
    RestoreError {
        path: folder.join(file),
        problem,
        newer: false,
    }
}

/// The error for an unknown format. If the state has a known format, the manifest is damaged.
fn newer(folder: &Path, format: u32) -> RestoreError {
    let state = read_regular(&folder.join(STATE), STATE_MAX).ok();
    let state = state.and_then(|bytes| serde_json::from_slice::<AnyFormat>(&bytes).ok());
    if let Some(AnyFormat { format: known }) = state.filter(|state| state.format <= FORMAT) {
        let problem = format!("has format {format}, and its {STATE} {known}: it is damaged");
        return failure(folder, MANIFEST, problem);
    }
    RestoreError {
        newer: true,
        ..failure(folder, MANIFEST, other_format(format))
    }
}

/// Size and time of each file of a checkpoint, to detect changes without reading the files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(u64, SystemTime)>);

impl Stamps {
    /// `None` if a file is missing, or the system does not report times.
    pub(super) fn of(folder: &Path) -> Option<Stamps> {
        let stamp = |file: &str| {
            let metadata = fs::metadata(folder.join(file)).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let stamps = FILES.into_iter().chain([MANIFEST]).map(stamp);
        stamps.collect::<Option<Vec<_>>>().map(Stamps)
    }
}

pub(super) fn write_folder(folder: &Path, checkpoint: &Snapshot<'_>) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
    let mut sha256 = BTreeMap::new();
    let mut write = |file: &str, write: &dyn Fn(&mut Hashed) -> io::Result<()>| {
        let path = folder.join(file);
        let written = Hashed::create(&path).and_then(|mut hashed| {
            write(&mut hashed)?;
            sha256.insert(file.to_string(), hashed.finish()?);
            Ok(())
        });
        written.map_err(TrainError::io("write", &path))
    };
    write(MODEL, &|file| write_safetensors(&checkpoint.model, file))?;
    write(OPTIMIZER, &|file| {
        write_safetensors(&checkpoint.optimizer, file)
    })?;
    write(CARRIED, &|file| {
        write_safetensors(&checkpoint.carried, file)
    })?;
    write(STATE, &|file| file.write_all(&state_of(checkpoint)?))?;
    write_manifest(folder, sha256)
}

/// The size of a read.
const BUFFER: usize = 1 << 17;

/// Hashes everything that is read.
struct Hashing<R> {
    reader: R,
    hash: Sha256Writer,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(bytes)?;
        self.hash.write_all(&bytes[..read])?;
        Ok(read)
    }
}

/// A new file that hashes the bytes written to it, rather than reading them back from disk.
struct Hashed {
    file: File,
    hash: Sha256Writer,
}

impl Hashed {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Hashed {
            file: File::create(path)?,
            hash: Sha256Writer::default(),
        })
    }

    /// Syncs the file to disk and returns its hash.
    fn finish(self) -> io::Result<String> {
        self.file.sync_all()?;
        Ok(self.hash.hex())
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.write(&bytes[..written])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A checkpoint in transfer between processes: the state and the tensors, each as in its file.
impl Checkpoint {
    /// Appends the parts, each after its length, without another copy of the tensors.
    pub(crate) fn append_parts(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let snapshot = Snapshot::from(self);
        append_part(bytes, |bytes| bytes.write_all(&state_of(&snapshot)?))?;
        for tensors in [&snapshot.model, &snapshot.optimizer, &snapshot.carried] {
            append_part(bytes, |bytes| write_safetensors(tensors, bytes))?;
        }
        Ok(())
    }

    pub(crate) fn from_parts(parts: &[&[u8]]) -> Result<Checkpoint, String> {
        let [state, model, optimizer, carried] = parts else {
            return Err("a part of the checkpoint is missing".to_string());
        };
        let state: StateFile = serde_json::from_slice(state).map_err(|error| error.to_string())?;
        Ok(Checkpoint {
            progress: state.progress,
            plan: state.plan,
            clipper: state.clipper,
            model: from_safetensors(model)?,
            optimizer: from_safetensors(optimizer)?,
            carried: from_safetensors(carried)?,
        })
    }
}

/// Appends what `write` writes, after its length.
fn append_part(
    bytes: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; size_of::<u64>()]);
    let begin = bytes.len();
    write(bytes)?;
    let length = (bytes.len() - begin) as u64;
    bytes[start..begin].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn state_of(checkpoint: &Snapshot<'_>) -> io::Result<Vec<u8>> {
    let state = StateFile {
        format: FORMAT,
        progress: checkpoint.progress.clone(),
        plan: checkpoint.plan.clone(),
        clipper: checkpoint.clipper.clone(),
    };
    Ok(serde_json::to_vec_pretty(&state)?)
}

fn write_manifest(folder: &Path, sha256: BTreeMap<String, String>) -> Result<(), TrainError> {
    let format = FORMAT;
    let manifest = serde_json::to_vec_pretty(&Manifest { format, sha256 });
    let path = folder.join(MANIFEST);
    let written = manifest
        .map_err(Into::into)
        .and_then(|bytes| replace_file(&path, &bytes));
    written.map_err(TrainError::io("write", &path))
}

/// Replaces the state of an intact checkpoint, but not its tensors. The old state is valid until
/// the manifest is renamed.
pub(super) fn write_state(folder: &Path, checkpoint: &Snapshot<'_>) -> Result<(), TrainError> {
    let Files { mut sha256, .. } = Files::of(folder)?;
    let path = folder.join(EVALUATED);
    let written = state_of(checkpoint).and_then(|bytes| {
        sha256.insert(EVALUATED.to_string(), sha256_hex(&bytes));
        replace_file(&path, &bytes)
    });
    written.map_err(TrainError::io("write", &path))?;
    write_manifest(folder, sha256)
}

/// Makes a rename durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    shears_run::sync_folder(folder).map_err(TrainError::io("sync", folder))
}

fn check_format(format: u32) -> Result<(), String> {
    match format {
        OLDEST..=FORMAT => Ok(()),
        other => Err(other_format(other)),
    }
}

fn other_format(format: u32) -> String {
    let which = if format > FORMAT {
        "a newer"
    } else {
        "an older"
    };
    format!("has format {format}; this shears reads formats {OLDEST} to {FORMAT}; use {which} one")
}
