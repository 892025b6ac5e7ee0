//! The files of one checkpoint: how they are written, and how they are checked and read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use gradclip::ClipperState;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, Progress};
use crate::TrainError;
use crate::error::RestoreError;
use crate::plan::Plan;
use crate::tensors::{NamedTensor, from_safetensors, to_safetensors};

/// The version of the format that this program writes, and the only one that it reads.
const FORMAT: u32 = 2;

pub(super) const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const CARRIED: &str = "carried.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";

/// The files that the manifest of every checkpoint has.
pub(super) const FILES: [&str; 4] = [MODEL, OPTIMIZER, CARRIED, STATE];

#[derive(Serialize, Deserialize)]
pub(super) struct StateFile {
    format: u32,
    pub(super) progress: Progress,
    pub(super) plan: Plan,
    pub(super) clipper: ClipperState,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    sha256: BTreeMap<String, String>,
}

/// The files of a checkpoint, each of which is checked against the manifest whenever it is read.
pub(super) struct Files<'a> {
    folder: &'a Path,
    sha256: BTreeMap<String, String>,
}

impl<'a> Files<'a> {
    /// Reads the manifest, and nothing else.
    pub(super) fn of(folder: &'a Path) -> Result<Self, RestoreError> {
        let fail = |problem| failure(folder, MANIFEST, problem);
        let manifest = fs::read(folder.join(MANIFEST)).map_err(|error| fail(error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| fail(format!("is damaged: {error}")))?;
        check_format(manifest.format).map_err(fail)?;
        let sha256 = manifest.sha256;
        Ok(Files { folder, sha256 })
    }

    /// Reads a file through, without keeping it.
    pub(super) fn check(&self, file: &str) -> Result<(), RestoreError> {
        let hash = File::open(self.folder.join(file)).and_then(sha256_of_file);
        let hash = hash.map_err(|error| self.failure(file, error.to_string()))?;
        self.compare(file, &hash)
    }

    pub(super) fn state(&self) -> Result<StateFile, RestoreError> {
        let state: StateFile = serde_json::from_slice(&self.read(STATE)?)
            .map_err(|error| self.failure(STATE, error.to_string()))?;
        check_format(state.format).map_err(|problem| self.failure(STATE, problem))?;
        Ok(state)
    }

    pub(super) fn tensors(&self, file: &str) -> Result<Vec<NamedTensor>, RestoreError> {
        from_safetensors(&self.read(file)?).map_err(|problem| self.failure(file, problem))
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, RestoreError> {
        let content = fs::read(self.folder.join(file));
        let content = content.map_err(|error| self.failure(file, error.to_string()))?;
        self.compare(file, &sha256_hex(&content))?;
        Ok(content)
    }

    fn compare(&self, file: &str, hash: &str) -> Result<(), RestoreError> {
        let problem = match self.sha256.get(file) {
            Some(expected) if expected == hash => return Ok(()),
            Some(_) => "its SHA-256 is not the manifest's: it is damaged",
            None => "is not in the manifest",
        };
        Err(self.failure(file, problem.to_string()))
    }

    fn failure(&self, file: &str, problem: String) -> RestoreError {
        failure(self.folder, file, problem)
    }
}

fn failure(folder: &Path, file: &str, problem: String) -> RestoreError {
    RestoreError {
        path: folder.join(file),
        problem,
    }
}

/// Size and time of each file of a checkpoint, by which a change is noticed without reading them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(u64, SystemTime)>);

impl Stamps {
    /// None if a file is missing, or the system does not tell.
    pub(super) fn of(folder: &Path) -> Option<Stamps> {
        let stamp = |file: &str| {
            let metadata = fs::metadata(folder.join(file)).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let stamps = FILES.into_iter().chain([MANIFEST]).map(stamp);
        stamps.collect::<Option<Vec<_>>>().map(Stamps)
    }
}

pub(super) fn write_folder(folder: &Path, checkpoint: &Checkpoint) -> Result<(), TrainError> {
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
    write(MODEL, to_safetensors(&checkpoint.model).map_err(invalid))?;
    write(
        OPTIMIZER,
        to_safetensors(&checkpoint.optimizer).map_err(invalid),
    )?;
    write(
        CARRIED,
        to_safetensors(&checkpoint.carried).map_err(invalid),
    )?;
    write(STATE, serde_json::to_vec_pretty(&state).map_err(Into::into))?;
    let manifest = serde_json::to_vec_pretty(&Manifest {
        format: FORMAT,
        sha256,
    });
    let path = folder.join(MANIFEST);
    let written = manifest
        .map_err(Into::into)
        .and_then(|bytes| write_synced(&path, &bytes));
    written.map_err(TrainError::io("write", &path))?;
    sync_folder(folder)
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename durable. Only Unix lets a folder be opened and synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), TrainError> {
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

/// The SHA-256 of some bytes, in lower-case hexadecimal digits.
fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The same of a file that may be larger than the memory.
fn sha256_of_file(mut file: File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
