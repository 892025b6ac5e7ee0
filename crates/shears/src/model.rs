//! From a plan to one of the four models, and from a run to a trained one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use shears_model::{
    Architecture, Initializer, LanguageModel, ParameterInfo, Transformer, gru, lstm, parameters,
    rnn,
};
use shears_train::{
    MemoryEstimate, NamedTensor, Plan, RunFolder, Section, compare_plans, estimate_evaluation,
    estimate_generation, load_parameters,
};

use crate::exit::{Misuse, misuse};
use crate::memory;
use crate::output::{complain, one_line};

/// Work that is the same for every model.
pub(crate) trait Work {
    /// What the work gives.
    type Output;

    /// Does it with a model that is initialised but, being lazy, not yet in memory, and the device
    /// that it is for.
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
        let plan = run.plan()?;
        let tokenizer = run.tokenizer()?;
        let memory = of_generation(&plan, tokenizer.vocab_size(), 0);
        memory::check(
            "the model",
            "another computer may have more",
            memory.total(),
        )?;
        let (path, parameters) = parameters_of(&run, which)?;
        check_plan(&run, &plan, &path)?;
        Ok(Trained {
            plan,
            tokenizer,
            path,
            parameters,
            run,
        })
    }
}

/// What writing a text after so many tokens takes.
pub(crate) fn of_generation(plan: &Plan, vocabulary: usize, prompt: usize) -> MemoryEstimate {
    let parameters = with_model(plan, vocabulary, ListParameters);
    estimate_generation(plan, &parameters, vocabulary, prompt)
}

/// What measuring a text takes, of which the text is still to be added.
pub(crate) fn of_evaluation(plan: &Plan, vocabulary: usize) -> MemoryEstimate {
    let parameters = with_model(plan, vocabulary, ListParameters);
    estimate_evaluation(plan, &parameters, vocabulary)
}

/// Names and shapes, which a model has before it has values.
struct ListParameters;

impl Work for ListParameters {
    type Output = Vec<ParameterInfo>;

    fn with<M: LanguageModel>(self, model: M, _device: &Device) -> Self::Output {
        parameters(&model)
    }
}

/// Refuses a plan of another model or text than the checkpoint's.
fn check_plan(run: &RunFolder, plan: &Plan, checkpoint: &Path) -> anyhow::Result<()> {
    let trained_with = match run.checkpoints().load_plan(checkpoint) {
        Ok(plan) => plan,
        Err(error) => {
            // The parameters are whole, and of the plan's model if they fit it.
            let problem = one_line(&error.to_string());
            complain!("shears: warning: {problem}; plan.toml cannot be compared with it");
            return Ok(());
        }
    };
    // Where the text is, and for how long and how it is trained on, is nothing to these commands.
    let is_used = |name: &str| match Plan::setting(name) {
        Some(setting) => match setting.name.as_str() {
            "text" | "val" => false,
            "window" => true,
            _ => matches!(setting.section, Section::Model | Section::Text),
        },
        None => true,
    };
    let differing: Vec<String> = compare_plans(&trained_with, plan)
        .into_iter()
        .filter(|(name, ..)| is_used(name))
        .map(|(name, was, is)| format!("{name}: trained with {was}, plan.toml has {is}"))
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let path = run.path().join("plan.toml");
    let (path, differing) = (path.display(), differing.join("; "));
    misuse!("{path} was changed ({differing}); put it back")
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

/// Builds a model around the parameters of a checkpoint, outside automatic differentiation, and
/// does the work with it.
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
