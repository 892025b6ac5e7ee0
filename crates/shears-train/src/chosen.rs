//! Which checkpoint of a run is taken, for every command that needs a trained model.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use shears_run::{EndReason, Glance};

use crate::error::{RestoreError, TrainError};
use crate::run::RunFolder;
use crate::tensors::NamedTensor;

/// A checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with the lowest validation loss; the newest if none was evaluated.
    Best,
    /// The newest.
    Last,
    /// The one of this step.
    Step(u64),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        match text {
            "best" => Ok(Which::Best),
            "last" => Ok(Which::Last),
            number => match number.parse() {
                Ok(step) => Ok(Which::Step(step)),
                Err(_) => Err("it must be best, last or the number of a step".to_string()),
            },
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Best => formatter.write_str("best"),
            Which::Last => formatter.write_str("last"),
            Which::Step(step) => step.fmt(formatter),
        }
    }
}

/// The parameters of a checkpoint.
#[derive(Debug)]
pub struct Chosen {
    /// Its folder.
    pub path: PathBuf,
    /// The parameters.
    pub parameters: Vec<NamedTensor>,
    /// What is wrong with those that would have been taken before it.
    pub passed_over: Vec<RestoreError>,
}

impl RunFolder {
    /// Reads the parameters of a checkpoint. In place of a damaged best or newest one, the next is
    /// taken.
    ///
    /// # Errors
    ///
    /// If there is none, or none that is intact.
    pub fn parameters(&self, which: Which) -> Result<Chosen, TrainError> {
        let store = self.checkpoints();
        let (found, mut passed_over) = match which {
            Which::Best => store.load_best_model()?,
            Which::Last => store.load_newest_model()?,
            Which::Step(step) => {
                let path = store.path(step);
                match store.list()?.contains(&path) {
                    true => {
                        let parameters = store.load_model(&path)?;
                        (Some((path, parameters)), Vec::new())
                    }
                    false => (None, Vec::new()),
                }
            }
        };
        match found {
            Some((path, parameters)) => Ok(Chosen {
                path,
                parameters,
                passed_over,
            }),
            None if passed_over.is_empty() => Err(self.without(which)),
            None => Err(TrainError::NoneIntact(passed_over.swap_remove(0))),
        }
    }

    /// The error for a missing checkpoint; before the first one, says when it will be written.
    fn without(&self, which: Which) -> TrainError {
        let is_first = self.checkpoints().list().is_ok_and(|all| all.is_empty());
        let problem = match self.plan() {
            Ok(plan) if is_first => {
                let every = [plan.save_every, plan.eval_every, plan.steps].into_iter();
                let first = every.filter(|step| *step > 0).min().unwrap_or(0);
                let end = Glance::at(&self.events_path()).end;
                match end.map(|end| end.how) {
                    Some(EndReason::Diverged) => format!(
                        "no checkpoint: the run diverged, and the first would have been written at \
                         step {first}"
                    ),
                    _ => format!("no checkpoint yet; the first is written at step {first}"),
                }
            }
            _ => format!("no checkpoint `{which}`"),
        };
        TrainError::Folder {
            path: self.path().to_path_buf(),
            problem,
        }
    }
}
