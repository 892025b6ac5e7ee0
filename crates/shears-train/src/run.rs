//! The folder of a run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use shears_data::{DataError, Tokenizer};
use shears_model::ParameterInfo;
use shears_run::{
    FORMAT, Header, INPUT, LOG, Log, PLAN, Parameter, check_regular, create_folders, folder_of,
    lock_folder, read_regular_text, replace_file, toml_problem, write_anew,
};

use crate::TrainError;
use crate::checkpoint::{CheckpointStore, sync_folder};
use crate::plan::Plan;

const TOKENIZER: &str = "tokenizer.json";
const CHECKPOINTS: &str = "checkpoints";
/// The plan of a run while its folder is being created.
const UNFINISHED: &str = "plan.toml.tmp";
/// The largest plan in bytes.
const PLAN_MAX: u64 = 1 << 20;

/// `runs/NAME`: plan, events, tokenizer, checkpoints. Only one process at a time writes to it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    checkpoints: CheckpointStore,
    /// Whether the run already existed.
    is_resumed: bool,
    /// Held while the run is open; the system releases it when the process ends.
    _lock: Option<File>,
}

impl RunFolder {
    /// Creates the folder of a new run. A text from standard input is stored in it.
    ///
    /// # Errors
    ///
    /// If the folder is not free ([`RunFolder::check_free`]), or another process is creating a run
    /// in it.
    pub fn create(
        path: &Path,
        plan: &Plan,
        tokenizer: &Tokenizer,
        standard_input: Option<&[u8]>,
    ) -> Result<Self, TrainError> {
        // Do not lock a folder with other content.
        Self::check_free(path)?;
        create_folders(path).map_err(TrainError::io("create", path))?;
        let run = RunFolder {
            path: path.to_path_buf(),
            checkpoints: checkpoints_in(path),
            is_resumed: false,
            _lock: Some(lock_folder(path, TRAINED_ELSEWHERE)?),
        };
        // Another process may have created a run before releasing the lock.
        Self::check_free(path)?;
        let text = run.text_of(plan)?;
        // Those of a run that was killed while it was created are not written through, if links.
        let _ = fs::remove_file(run.tokenizer_path());
        // The plan is written first under a temporary name, which marks an unfinished run, and
        // renamed last: a folder without a plan is not a run.
        let unfinished = path.join(UNFINISHED);
        write_anew(&unfinished, text.as_bytes()).map_err(TrainError::io("write", &unfinished))?;
        sync_folder(path)?;
        tokenizer.save(run.tokenizer_path())?;
        if let Some(text) = standard_input {
            let path = run.input_path();
            write_anew(&path, text).map_err(TrainError::io("write", &path))?;
        }
        sync_folder(path)?;
        fs::rename(&unfinished, run.plan_path())
            .map_err(TrainError::io("write", run.plan_path()))?;
        sync_folder(path)?;
        // The folder's own entry must survive a power loss, too.
        sync_folder(folder_of(path))?;
        Ok(run)
    }

    /// Refuses a path that is not a folder, and a folder that has a run, or files that a new run
    /// would overwrite or mistake for its own. Remains of a run that was killed while being created
    /// are allowed.
    pub fn check_free(path: &Path) -> Result<(), TrainError> {
        if path.symlink_metadata().is_ok() && !path.is_dir() {
            return Err(TrainError::Folder {
                path: path.to_path_buf(),
                problem: "is there, and no folder; choose another --out".into(),
            });
        }
        let there = |name: &&str| path.join(name).symlink_metadata().is_ok();
        let names: &[&str] = match there(&UNFINISHED) {
            true => &[PLAN, LOG, CHECKPOINTS],
            false => &[PLAN, LOG, INPUT, TOKENIZER, CHECKPOINTS],
        };
        let problem = match names.iter().copied().find(there) {
            None => return Ok(()),
            Some(PLAN) => {
                "holds a run already; resume it with --resume, or choose another --out".into()
            }
            Some(name) => {
                format!("holds {name}, which a new run would overwrite; choose another --out")
            }
        };
        Err(TrainError::Folder {
            path: path.to_path_buf(),
            problem,
        })
    }

    /// Opens a run for training, with an exclusive lock.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let run = Self::open_to_read(path)?;
        let lock = lock_folder(path, TRAINED_ELSEWHERE)?;
        // Left by a program that was killed while it changed the plan.
        let _ = fs::remove_file(path.join(UNFINISHED));
        Ok(RunFolder {
            _lock: Some(lock),
            ..run
        })
    }

    /// Opens a run for reading, which any number of processes may do at any time.
    pub fn open_to_read(path: &Path) -> Result<Self, TrainError> {
        let plan = path.join(PLAN);
        if !plan.is_file() {
            let problem = match path.exists() {
                true if plan.symlink_metadata().is_ok() => {
                    "is not the folder of a run: its plan.toml is not a regular file".to_string()
                }
                true => "is not the folder of a run: it has no plan.toml".to_string(),
                false => "there is no such run".to_string(),
            };
            return Err(TrainError::Folder {
                path: path.to_path_buf(),
                problem,
            });
        }
        Ok(RunFolder {
            path: path.to_path_buf(),
            checkpoints: checkpoints_in(path),
            is_resumed: true,
            _lock: None,
        })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run is resumed.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    fn text_of(&self, plan: &Plan) -> Result<String, TrainError> {
        toml::to_string(plan).map_err(|error| TrainError::Folder {
            path: self.plan_path(),
            problem: error.to_string(),
        })
    }

    /// Replaces the run's plan atomically, after a change of settings ([`Plan::changed`]) or of the
    /// text's location.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the old plan then remains.
    pub fn replace_plan(&self, plan: &Plan) -> Result<(), TrainError> {
        let (path, text) = (self.plan_path(), self.text_of(plan)?);
        replace_file(&path, text.as_bytes()).map_err(TrainError::io("write", path))
    }

    /// The current plan, including changes made when resuming.
    pub fn plan(&self) -> Result<Plan, TrainError> {
        let path = self.plan_path();
        let text = read_regular_text(&path, PLAN_MAX).map_err(TrainError::io("read", &path))?;
        let plan = toml::from_str::<Plan>(&text).map_err(|error| toml_problem(&error));
        let checked = plan.and_then(|plan| match plan.validate() {
            Ok(()) => Ok(plan),
            Err(error) => Err(error.to_string()),
        });
        checked.map_err(|problem| TrainError::Folder { path, problem })
    }

    /// The tokenizer of the run.
    ///
    /// # Errors
    ///
    /// Also if it is not the tokenizer that the run was started with, whose ids differ.
    pub fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        let path = self.tokenizer_path();
        check_regular(&path).map_err(TrainError::io("read", &path))?;
        let tokenizer = Tokenizer::load(&path).map_err(|error| match error {
            // For the run's own file, report damage rather than an unsupported format.
            DataError::Tokenizer { .. } => TrainError::Folder {
                path: path.clone(),
                problem: "the run's own tokenizer is damaged; put back a copy of it".to_string(),
            },
            error => error.into(),
        })?;
        let expected = self.plan()?.tokenizer_sha256;
        if !expected.is_empty() && tokenizer.fingerprint() != expected {
            let problem = "is not the tokenizer that the run was started with; put it back";
            let problem = problem.to_string();
            return Err(TrainError::Folder { path, problem });
        }
        Ok(tokenizer)
    }

    /// The run's checkpoints.
    pub fn checkpoints(&self) -> &CheckpointStore {
        &self.checkpoints
    }

    /// `events.jsonl`.
    pub fn events_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The whole log of the run; empty before its first step.
    pub fn log(&self) -> Result<Log, TrainError> {
        Ok(Log::read(self.events_path())?)
    }

    /// The stored text of a run that read standard input, for resuming.
    pub fn input_path(&self) -> PathBuf {
        self.path.join(INPUT)
    }

    fn plan_path(&self) -> PathBuf {
        self.path.join(PLAN)
    }

    fn tokenizer_path(&self) -> PathBuf {
        self.path.join(TOKENIZER)
    }
}

fn checkpoints_in(run: &Path) -> CheckpointStore {
    CheckpointStore::new(run.join(CHECKPOINTS))
}

const TRAINED_ELSEWHERE: &str = "another shears is training this run; wait for it, or stop it";

/// The header of a run's log, with the model's parameters in the order of the forward pass.
pub fn header(plan: &Plan, parameters: &[ParameterInfo]) -> Header {
    let parameter = |info: &ParameterInfo| Parameter {
        name: info.name.clone(),
        layer: info.layer().to_string(),
        shape: info.shape.clone(),
    };
    Header {
        format: FORMAT,
        parameters: parameters.iter().map(parameter).collect(),
        device: plan.device.clone(),
        precision: plan.precision.to_string(),
    }
}
