//! From a plan to one of the four models, and from a run to a trained one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use shears_model::{
    Architecture, Gru, Initializer, LanguageModel, Lstm, ModelConfig, Rnn, Transformer,
};
use shears_train::{Checkpoint, Plan, RunFolder, load_parameters};

use crate::exit::Misuse;

/// Work that is the same for every model.
pub(crate) trait Work {
    /// What the work gives.
    type Output;

    /// Does it with a model that is initialised but, being lazy, not yet in memory.
    fn with<M: LanguageModel>(self, model: M) -> Self::Output;
}

/// Builds the model of a configuration on `device` and does the work with it.
pub(crate) fn with_model<W: Work>(
    config: &ModelConfig,
    vocabulary: usize,
    seed: u64,
    device: &Device,
    work: W,
) -> W::Output {
    let mut initializer = Initializer::new(seed, device);
    match config.architecture {
        Architecture::Rnn => work.with(Rnn::new(vocabulary, config, &mut initializer)),
        Architecture::Lstm => work.with(Lstm::new(vocabulary, config, &mut initializer)),
        Architecture::Gru => work.with(Gru::new(vocabulary, config, &mut initializer)),
        Architecture::Transformer => {
            work.with(Transformer::new(vocabulary, config, &mut initializer))
        }
    }
}

/// The device of that name. Plans are validated, so that it is in this build.
pub(crate) fn device(_name: &str) -> Device {
    Device::flex()
}

/// A run with the checkpoint that a command reads.
pub(crate) struct Trained {
    pub(crate) plan: Plan,
    pub(crate) tokenizer: shears_data::Tokenizer,
    pub(crate) path: PathBuf,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) run: RunFolder,
}

impl Trained {
    /// Opens a run: `which` is `best`, `last`, or the number of a step.
    pub(crate) fn open(run: &Path, which: &str) -> anyhow::Result<Self> {
        let run = RunFolder::open_to_read(run)?;
        let store = run.checkpoints();
        let path = match which {
            "best" => store.best().or_else(|| store.list().pop()),
            "last" => store.list().pop(),
            number => {
                let step: u64 = number.parse().map_err(|_| {
                    Misuse(format!(
                        "checkpoint `{number}` is not best, last or a step's number"
                    ))
                })?;
                store
                    .list()
                    .into_iter()
                    .find(|path| path.ends_with(format!("step-{step:08}")))
            }
        };
        let path = path
            .ok_or_else(|| Misuse(format!("{}: no checkpoint `{which}`", run.path().display())))?;
        let checkpoint = store.load(&path)?;
        Ok(Trained {
            plan: run.plan()?,
            tokenizer: run.tokenizer()?,
            path,
            checkpoint,
            run,
        })
    }

    /// Builds the model with the checkpoint's weights, outside automatic differentiation.
    pub(crate) fn with_model<W: Work>(&self, work: W) -> anyhow::Result<W::Output> {
        struct Load<'a, W> {
            checkpoint: &'a Checkpoint,
            work: W,
        }
        impl<W: Work> Work for Load<'_, W> {
            type Output = anyhow::Result<W::Output>;

            fn with<M: LanguageModel>(self, model: M) -> Self::Output {
                let model = load_parameters(model, self.checkpoint.model.clone());
                let model = model
                    .map_err(anyhow::Error::msg)
                    .context("model.safetensors")?;
                Ok(self.work.with(model.valid()))
            }
        }
        let load = Load {
            checkpoint: &self.checkpoint,
            work,
        };
        let vocabulary = self.tokenizer.vocab_size();
        let device = device(&self.plan.device);
        with_model(
            &self.plan.model_config(),
            vocabulary,
            self.plan.seed,
            &device,
            load,
        )
    }
}
