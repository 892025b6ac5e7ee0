//! `--init-from`: a new run that starts from a trained model.

use std::path::{Path, PathBuf};

use shears_data::{Tokenizer, TokenizerKind};
use shears_exchange::ModelSource;
use shears_model::Architecture;
use shears_train::{Checkpoint, Plan, Preset, RunFolder};
use toml::Value;

use crate::exit::{Misuse, misuse};
use crate::memory;
use crate::model::{check_plan, warn_of_damaged};
use crate::output::say;
use crate::settings::Given;
use crate::watch::Show;

/// Opens the model that a run starts from, and adopts its settings.
pub(super) fn open(given: &mut Given) -> anyhow::Result<Option<ModelSource>> {
    let Some(path) = given.get("init-from").and_then(Value::as_str) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let source = ModelSource::open(&path)?;
    let mut settings = Plan::settings_of(&source.config, &given.all());
    if source.config.architecture == Architecture::Rnn && !path.is_dir() {
        // A PyTorch file does not say which nonlinearity it has.
        settings.remove("nonlinearity");
    }
    if given.is_typed("forget-bias") {
        misuse!(
            "forget-bias is for new weights, and those of {} are trained; leave it out",
            path.display()
        );
    }
    match &source.tokenizer {
        Some((kind, _)) => {
            let kind = kind.to_string();
            settings.insert("tokenizer".to_string(), kind.into());
        }
        None if !given.has("tokenizer") => {
            misuse!(
                "{} has no tokenizer; give one with --tokenizer",
                path.display()
            );
        }
        None => {}
    }
    given.take(&path, settings)?;
    let context = source.config.context;
    let preset = given.get("preset").and_then(Value::as_str);
    let preset = preset.and_then(|name| name.parse().ok());
    let preset = preset.unwrap_or(Preset::of(source.config.architecture));
    let is_shorter = preset.plan().window > context;
    let is_transformer = source.config.architecture == Architecture::Transformer;
    if is_transformer && is_shorter && !given.has("window") {
        // The window of the preset is longer than the context of the model.
        *given = given.with("window", context as i64);
    }
    Ok(Some(source))
}

/// Records in the plan what is not a setting: the rows of the embedding and the end token. Refuses
/// a tokenizer that does not fit the model.
pub(super) fn identify(
    source: &ModelSource,
    tokenizer: &Tokenizer,
    is_own: bool,
    plan: &mut Plan,
) -> Result<(), Misuse> {
    let (rows, tokens) = (source.vocabulary, tokenizer.vocab_size());
    let fits = match is_own || matches!(plan.tokenizer, TokenizerKind::File(_)) {
        true => tokens <= rows,
        // This tokenizer was made from the text, so it must have exactly the size of the embedding.
        false => tokens == rows,
    };
    if !fits {
        misuse!(
            "the tokenizer has {tokens} tokens, and the model's embedding {rows}; give the model's \
             own with --tokenizer"
        );
    }
    plan.vocabulary = if rows > tokens { rows } else { 0 };
    let known = |end: &u32| (*end as usize) < tokens;
    plan.end_token = source.end_token.filter(known);
    Ok(())
}

/// Reads the weights, as a checkpoint at step 0.
pub(super) fn read(source: ModelSource, plan: &mut Plan, show: Show) -> anyhow::Result<Checkpoint> {
    memory::check("this model", "start from a smaller one", source.bytes())?;
    if show == Show::Text {
        let path = plan.init_from.clone().unwrap_or_default();
        say!("starting from {} ({})", path.display(), source.description);
    }
    let read = source.read()?;
    if let Some((taken, damaged)) = &read.checkpoint {
        let run = RunFolder::open_to_read(plan.init_from.as_deref().unwrap_or(taken))?;
        warn_of_damaged(damaged, taken);
        check_plan(&run, &run.plan()?, taken)?;
    }
    plan.init_sha256 = read.sha256;
    Ok(Checkpoint::initial(plan.clone(), read.tensors))
}

/// The error for a run without a checkpoint to resume from.
pub(super) fn without_checkpoint(run: &Path) -> Misuse {
    let run = run.display();
    Misuse(format!(
        "{run} was stopped before its first checkpoint, so nothing was trained; remove it and \
         start again"
    ))
}
