//! Detects the kind of source at a path.

use std::path::Path;

use shears_train::RunFolder;

use crate::error::ExchangeError;
use crate::foreign::read_json;
use crate::source::{ModelSource, StoredWeights};
use crate::{checkpoint, huggingface, pytorch};

impl ModelSource {
    /// Opens a run, a Hugging Face folder, a folder of [`export_pytorch`](crate::export_pytorch),
    /// or a PyTorch file.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`] if it is none of these, has an unsupported kind of model, or lacks the
    /// weights that its config describes.
    pub fn open(path: &Path) -> Result<ModelSource, ExchangeError> {
        if path.join("plan.toml").is_file() {
            return open_run(path);
        }
        let config = path.join("config.json");
        if config.is_file() {
            let config = read_json(&config)?;
            // That of our own export for PyTorch names no type.
            return match config["model_type"].is_null() && !config["cell"].is_null() {
                true => pytorch::open(path, &config),
                false => huggingface::open(path, config),
            };
        }
        let is_safetensors = path
            .extension()
            .is_some_and(|ending| ending == "safetensors");
        let problem = match path.metadata() {
            Ok(found) if found.is_dir() => {
                "is neither a run nor a model: it has no plan.toml and no config.json"
            }
            Ok(_) if is_safetensors => {
                "does not describe its model; give the folder that has it with its config.json"
            }
            Ok(_) => return checkpoint::open(path),
            Err(_) => "does not exist: check the path",
        };
        Err(ExchangeError::refused(path, problem))
    }
}

fn open_run(path: &Path) -> Result<ModelSource, ExchangeError> {
    let run = RunFolder::open_to_read(path)?;
    let (plan, tokenizer) = (run.plan()?, run.tokenizer()?);
    Ok(ModelSource {
        description: "a run of shears".to_string(),
        config: plan.model_config(),
        vocabulary: plan.vocabulary_of(&tokenizer),
        end_token: plan.end_token,
        tokenizer: Some((plan.tokenizer, tokenizer)),
        weights: StoredWeights::Run(run),
    })
}
