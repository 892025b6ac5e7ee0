//! A trained model to start from.

use std::fs::File;
use std::path::{Path, PathBuf};

use shears_data::{Tokenizer, TokenizerKind, sha256_of};
use shears_model::ModelConfig;
use shears_train::{Chosen, NamedTensor, RestoreError, RunFolder, Which};

use crate::catalogue::{Catalogue, Wanted};
use crate::error::ExchangeError;

/// A model whose config and tokenizer were read, and whose weights were checked but not read.
#[derive(Debug)]
pub struct ModelSource {
    /// A description for the user.
    pub description: String,
    /// The shape of the model.
    pub config: ModelConfig,
    /// The number of rows of its embedding; the tokenizer may have fewer tokens.
    pub vocabulary: usize,
    /// The tokenizer as a setting and as such, if the source has one.
    pub tokenizer: Option<(TokenizerKind, Tokenizer)>,
    /// The token that ends a text.
    pub end_token: Option<u32>,
    pub(crate) weights: StoredWeights,
}

/// Where the weights are.
#[derive(Debug)]
pub(crate) enum StoredWeights {
    /// In a run's best checkpoint.
    Run(RunFolder),
    /// In files whose tensors are listed.
    Files {
        catalogue: Catalogue,
        wanted: Vec<Wanted>,
        /// Files that belong to the model but have no weights.
        beside: Vec<PathBuf>,
    },
}

/// The parameters of a model.
#[derive(Debug)]
pub struct Parameters {
    /// By the names of `shears-model`.
    pub tensors: Vec<NamedTensor>,
    /// A line for each file with SHA-256 and name, in the format of `sha256sum`.
    pub sha256: Vec<String>,
    /// For a run, the checkpoint that was read, and what is wrong with better ones that were passed
    /// over.
    pub checkpoint: Option<(PathBuf, Vec<RestoreError>)>,
}

impl ModelSource {
    /// The memory of the weights in bytes; 0 if it is unknown before they are read.
    pub fn bytes(&self) -> u64 {
        match &self.weights {
            StoredWeights::Run(_) => 0,
            StoredWeights::Files { wanted, .. } => {
                let elements = wanted
                    .iter()
                    .map(|wanted| wanted.shape.iter().product::<usize>());
                4 * elements.sum::<usize>() as u64
            }
        }
    }

    /// Reads the weights.
    ///
    /// # Errors
    ///
    /// If something cannot be read, or if an element is not finite.
    pub fn read(self) -> Result<Parameters, ExchangeError> {
        match self.weights {
            StoredWeights::Run(run) => {
                let Chosen {
                    path,
                    parameters,
                    passed_over,
                } = run.parameters(Which::Best)?;
                Ok(Parameters {
                    sha256: vec![hash(&path.join("model.safetensors"))?],
                    tensors: parameters,
                    checkpoint: Some((path, passed_over)),
                })
            }
            StoredWeights::Files {
                catalogue,
                wanted,
                beside,
            } => {
                let files: Vec<&PathBuf> = catalogue.files.iter().chain(&beside).collect();
                let hashes = || files.iter().map(|file| hash(file)).collect();
                // Hash and read at the same time, so that the disk is read once; one after the
                // other where the system refuses a thread.
                std::thread::scope(|scope| {
                    let thread = std::thread::Builder::new().spawn_scoped(scope, hashes);
                    let tensors = catalogue.read_all(&wanted)?;
                    let sha256: Result<Vec<String>, ExchangeError> = match thread {
                        Ok(thread) => thread.join().expect("a thread that only reads"),
                        Err(_) => hashes(),
                    };
                    Ok(Parameters {
                        sha256: sha256?,
                        tensors,
                        checkpoint: None,
                    })
                })
            }
        }
    }
}

/// SHA-256 and name of a file.
fn hash(path: &Path) -> Result<String, ExchangeError> {
    let hash = File::open(path).and_then(sha256_of);
    let hash = hash.map_err(ExchangeError::read(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{hash}  {name}"))
}
