//! From a plan to one of the four models, and from a run to a trained one.

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use shears_model::{
    Architecture, Initializer, LanguageModel, ModelConfig, Transformer, gru, lstm, rnn,
};
use shears_train::{NamedTensor, Plan, RunFolder, load_parameters};

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
        Architecture::Rnn => work.with(rnn(vocabulary, config, &mut initializer)),
        Architecture::Lstm => work.with(lstm(vocabulary, config, &mut initializer)),
        Architecture::Gru => work.with(gru(vocabulary, config, &mut initializer)),
        Architecture::Transformer => {
            work.with(Transformer::new(vocabulary, config, &mut initializer))
        }
    }
}

/// The device of that name. Plans are validated, so that it is in this build.
pub(crate) fn device(_name: &str) -> Device {
    Device::flex()
}

/// A run with the parameters of the checkpoint that a command asks for.
pub(crate) struct Trained {
    pub(crate) plan: Plan,
    pub(crate) tokenizer: shears_data::Tokenizer,
    /// The checkpoint's folder.
    pub(crate) path: PathBuf,
    pub(crate) parameters: Vec<NamedTensor>,
    pub(crate) run: RunFolder,
}

impl Trained {
    /// Reads a run: `which` is `best`, `last`, or the number of a step.
    pub(crate) fn open(run: RunFolder, which: &str) -> anyhow::Result<Self> {
        let (path, parameters) = parameters_of(&run, which)?;
        Ok(Trained {
            plan: run.plan()?,
            tokenizer: run.tokenizer()?,
            path,
            parameters,
            run,
        })
    }
}

fn parameters_of(run: &RunFolder, which: &str) -> anyhow::Result<(PathBuf, Vec<NamedTensor>)> {
    let store = run.checkpoints();
    let path = match which {
        "best" => match store.load_best_model() {
            Some(best) => return Ok(best),
            // Nothing was evaluated yet.
            None => store.list().pop(),
        },
        "last" => store.list().pop(),
        number => {
            let step: u64 = number.parse().map_err(|_| {
                Misuse(format!(
                    "checkpoint `{number}` is not best, last or a step's number"
                ))
            })?;
            let name = format!("step-{step:08}");
            store.list().into_iter().find(|path| path.ends_with(&name))
        }
    };
    let path =
        path.ok_or_else(|| Misuse(format!("{}: no checkpoint `{which}`", run.path().display())))?;
    let parameters = store.load_model(&path)?;
    Ok((path, parameters))
}

/// Builds the model of a plan around the parameters of a checkpoint, outside automatic differentiation, and does
/// the work with it.
pub(crate) fn with_trained_model<W: Work>(
    plan: &Plan,
    vocabulary: usize,
    parameters: Vec<NamedTensor>,
    work: W,
) -> anyhow::Result<W::Output> {
    struct Load<W> {
        parameters: Vec<NamedTensor>,
        work: W,
    }
    impl<W: Work> Work for Load<W> {
        type Output = anyhow::Result<W::Output>;

        fn with<M: LanguageModel>(self, model: M) -> Self::Output {
            let model = load_parameters(model, self.parameters).map_err(anyhow::Error::msg);
            Ok(self.work.with(model.context("model.safetensors")?.valid()))
        }
    }
    let load = Load { parameters, work };
    let device = device(&plan.device);
    with_model(&plan.model_config(), vocabulary, plan.seed, &device, load)
}
