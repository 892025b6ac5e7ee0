//! The model of a plan, and the trained model of a run.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use shears_model::{AnyModel, Initializer, ParameterInfo, parameters};
use shears_train::{
    Chosen, Difference, MemoryEstimate, NamedTensor, Plan, RestoreError, RunFolder, Section, Which,
    compare_plans, estimate_evaluation, estimate_generation, load_parameters,
};

use crate::exit::{Misuse, misuse};
use crate::memory;
use crate::output::{complain, one_line};

/// The model of a plan, initialised but, being lazy, not in memory yet.
pub(crate) fn model_of(plan: &Plan, vocabulary: usize, device: &Device) -> AnyModel {
    let mut initializer = Initializer::new(plan.seed, device);
    AnyModel::new(vocabulary, &plan.model_config(), &mut initializer)
}

/// The device of a plan. Plans are validated, so this build has it.
pub(crate) fn device_of(_plan: &Plan) -> Device {
    Device::flex()
}

/// A run with the parameters of one of its checkpoints.
pub(crate) struct Trained {
    pub(crate) plan: Plan,
    pub(crate) tokenizer: shears_data::Tokenizer,
    /// The checkpoint's folder.
    pub(crate) path: PathBuf,
    pub(crate) parameters: Vec<NamedTensor>,
    pub(crate) run: RunFolder,
}

impl Trained {
    /// Reads a checkpoint.
    pub(crate) fn open(run: RunFolder, which: Which) -> anyhow::Result<Self> {
        let plan = run.plan()?;
        let tokenizer = run.tokenizer()?;
        let memory = of_generation(&plan, tokenizer.vocab_size(), 0);
        memory::check(
            "the model",
            "another computer may have more",
            memory.total(),
        )?;
        let Chosen {
            path,
            parameters,
            passed_over,
        } = run.parameters(which)?;
        warn_of_damaged(&passed_over, &path);
        check_plan(&run, &plan, &path)?;
        Ok(Trained {
            plan,
            tokenizer,
            path,
            parameters,
            run,
        })
    }

    /// The number of tokens that the model has rows for.
    pub(crate) fn vocabulary(&self) -> usize {
        self.plan.vocabulary_of(&self.tokenizer)
    }

    /// The model with the parameters of the checkpoint, which it takes.
    pub(crate) fn model(&mut self) -> anyhow::Result<AnyModel> {
        let model = model_of(&self.plan, self.vocabulary(), &device_of(&self.plan));
        let loaded = load_parameters(model, std::mem::take(&mut self.parameters));
        let loaded = loaded.map_err(anyhow::Error::msg);
        Ok(loaded.context("model.safetensors")?.valid())
    }
}

/// The memory for generating text after a prompt of `prompt` tokens.
pub(crate) fn of_generation(plan: &Plan, vocabulary: usize, prompt: usize) -> MemoryEstimate {
    estimate_generation(plan, &list_parameters(plan, vocabulary), vocabulary, prompt)
}

/// The memory for evaluating a text, without the text itself.
pub(crate) fn of_evaluation(plan: &Plan, vocabulary: usize) -> MemoryEstimate {
    estimate_evaluation(plan, &list_parameters(plan, vocabulary), vocabulary)
}

/// Names and shapes, which are known before the values.
fn list_parameters(plan: &Plan, vocabulary: usize) -> Vec<ParameterInfo> {
    parameters(&model_of(plan, vocabulary, &device_of(plan)))
}

/// Says which checkpoints are damaged, and which one is taken.
pub(crate) fn warn_of_damaged(damaged: &[RestoreError], taken: &Path) {
    for error in damaged {
        let warning = one_line(&error.to_string());
        complain!("shears: warning: {warning}; using {}", taken.display());
    }
}

/// Refuses a plan.toml whose model or text is not the checkpoint's.
pub(crate) fn check_plan(run: &RunFolder, plan: &Plan, checkpoint: &Path) -> anyhow::Result<()> {
    let trained_with = match run.checkpoints().load_plan(checkpoint) {
        Ok(plan) => plan,
        Err(error) => {
            // The parameters are intact, and they fit the model of the plan or fail to load.
            let problem = one_line(&error.to_string());
            complain!("shears: warning: {problem}; plan.toml cannot be compared with it");
            return Ok(());
        }
    };
    // These commands do not depend on where the text is, or on how the model was trained.
    let is_used = |name: &str| match Plan::setting(name) {
        Some(setting) => match setting.name.as_str() {
            "text" | "val" => false,
            "window" => true,
            _ => matches!(setting.section, Section::Model | Section::Text),
        },
        None => true,
    };
    let differing = compare_plans(&trained_with, plan).into_iter();
    let differing = differing.filter(|(name, ..)| is_used(name));
    Ok(refuse_edited(run, differing, "put it back")?)
}

/// The settings of a plan.toml that its newest checkpoint was trained without, changes on resuming
/// aside.
pub(crate) fn edits(run: &RunFolder, plan: &Plan) -> Vec<Difference> {
    let checkpoints = run.checkpoints().list().unwrap_or_default();
    let newest = checkpoints.last();
    // What is wrong with a checkpoint is said where it is used.
    let saved = newest.and_then(|path| run.checkpoints().load_plan(path).ok());
    saved.map_or_else(Vec::new, |saved| plan.edited_since(&saved))
}

/// Refuses a run whose plan.toml is not what its checkpoint was trained with.
pub(crate) fn refuse_edited(
    run: &RunFolder,
    differing: impl IntoIterator<Item = Difference>,
    remedy: &str,
) -> Result<(), Misuse> {
    let list = differing.into_iter();
    let words = |(name, was, is)| format!("{name}: trained with {was}, plan.toml has {is}");
    let list = list.map(words);
    let list: Vec<String> = list.collect();
    if list.is_empty() {
        return Ok(());
    }
    let path = run.path().join("plan.toml");
    let (path, list) = (path.display(), list.join("; "));
    misuse!("{path} was changed ({list}); {remedy}")
}
