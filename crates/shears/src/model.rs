//! From a plan to one of the four models, and from a run to a trained one.

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use shears_model::{Architecture, Initializer, LanguageModel, Transformer, gru, lstm, rnn};
use shears_train::{NamedTensor, Plan, RunFolder, load_parameters};

use crate::exit::Misuse;
use crate::output::{complain, one_line};

/// Work that is the same for every model.
pub(crate) trait Work {
    /// What the work gives.
    type Output;

    /// Does it with a model that is initialised but, being lazy, not yet in memory, and the device that it
    /// is for.
    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output;
}

/// Builds the model of a plan for training, and does the work with it.
pub(crate) fn with_model_to_train<W: Work>(plan: &Plan, vocabulary: usize, work: W) -> W::Output {
    with_model_on(&device_of(plan).autodiff(), plan, vocabulary, work)
}

/// Builds the model of a plan outside automatic differentiation, and does the work with it.
pub(crate) fn with_model<W: Work>(plan: &Plan, vocabulary: usize, work: W) -> W::Output {
    with_model_on(&device_of(plan), plan, vocabulary, work)
}

fn with_model_on<W: Work>(device: &Device, plan: &Plan, vocabulary: usize, work: W) -> W::Output {
    let config = &plan.model_config();
    let mut start = Initializer::new(plan.seed, device);
    match config.architecture {
        Architecture::Rnn => work.with(rnn(vocabulary, config, &mut start), device),
        Architecture::Lstm => work.with(lstm(vocabulary, config, &mut start), device),
        Architecture::Gru => work.with(gru(vocabulary, config, &mut start), device),
        Architecture::Transformer => {
            work.with(Transformer::new(vocabulary, config, &mut start), device)
        }
    }
}

/// Plans are validated, so that their device is in this build.
fn device_of(_plan: &Plan) -> Device {
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
    let none = || no_checkpoint(run, which);
    let (found, mut damaged) = match which {
        "best" => store.load_best_model()?,
        "last" => store.load_newest_model()?,
        number => {
            let step: u64 = number.parse().map_err(|_| {
                Misuse(format!(
                    "checkpoint `{number}` is not best, last or a step's number"
                ))
            })?;
            let wanted = store.path(step);
            let mut all = store.list()?.into_iter();
            let path = all.find(|path| *path == wanted).ok_or_else(none)?;
            let parameters = store.load_model(&path)?;
            return Ok((path, parameters));
        }
    };
    match &found {
        None if damaged.is_empty() => return Err(none().into()),
        None => {
            let error = damaged.swap_remove(0);
            return Err(anyhow::Error::from(error).context("no checkpoint of the run is whole"));
        }
        Some((taken, _)) => {
            for error in damaged {
                let warning = one_line(&error.to_string());
                complain!("shears: warning: {warning}; using {}", taken.display());
            }
        }
    }
    found.ok_or_else(|| none().into())
}

/// That there is no such checkpoint, and when the first one comes.
fn no_checkpoint(run: &RunFolder, which: &str) -> Misuse {
    let path = run.path().display();
    let is_first = run.checkpoints().list().is_ok_and(|all| all.is_empty());
    match run.plan() {
        Ok(plan) if is_first => {
            let every = [plan.save_every, plan.eval_every, plan.steps].into_iter();
            let first = every.filter(|step| *step > 0).min().unwrap_or(0);
            let when = format!("the first comes at step {first}");
            Misuse(format!("{path}: no checkpoint yet; {when}"))
        }
        _ => Misuse(format!("{path}: no checkpoint `{which}`")),
    }
}

/// Builds a model around the parameters of a checkpoint, outside automatic differentiation, and does the work
/// with it.
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

        fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
            let model = load_parameters(model, self.parameters).map_err(anyhow::Error::msg);
            let model = model.context("model.safetensors")?.valid();
            Ok(self.work.with(model, device))
        }
    }
    with_model(plan, vocabulary, Load { parameters, work })
}
