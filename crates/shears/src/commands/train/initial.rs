//! `--init-from`: a new run that starts from a trained model.

use std::path::{Path, PathBuf};

use shears_data::{Tokenizer, TokenizerKind};
use shears_exchange::Source;
use shears_model::Architecture;
use shears_train::{Checkpoint, Plan, Preset};
use toml::Value;

use crate::exit::{Misuse, misuse};
use crate::memory;
use crate::output::say;
use crate::settings::Given;
use crate::watch::Show;

/// Looks at the model that a run is to start from, and takes its settings.
pub(super) fn open(given: &mut Given) -> anyhow::Result<Option<Source>> {
    let Some(path) = given.get("init-from").and_then(Value::as_str) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let source = Source::open(&path)?;
    let mut settings = Plan::settings_of(&source.config);
    if source.config.architecture == Architecture::Rnn && !path.is_dir() {
        // A file of PyTorch does not say which one it is.
        settings.remove("nonlinearity");
    }
    match &source.tokenizer {
        Some((kind, _)) => {
            let kind = kind.to_string();
            settings.insert("tokenizer".to_string(), kind.into());
        }
        None if !given.has("tokenizer") => {
            misuse!(
                "{} has no tokenizer; give one by --tokenizer",
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
        // The preset's does not fit into the model.
        *given = given.with("window", context as i64);
    }
    Ok(Some(source))
}

/// Notes in the plan what of the model is no setting; the tokenizer is the model's own, or was
/// given for it.
pub(super) fn identify(
    source: &Source,
    tokenizer: &Tokenizer,
    is_own: bool,
    plan: &mut Plan,
) -> Result<(), Misuse> {
    let (rows, tokens) = (source.vocabulary, tokenizer.vocab_size());
    let fits = match is_own || matches!(plan.tokenizer, TokenizerKind::File(_)) {
        true => tokens <= rows,
        // Made from the text, and not known to be that of the model.
        false => tokens == rows,
    };
    if !fits {
        misuse!(
            "the tokenizer has {tokens} tokens, and the model's embedding {rows}; give the model's \
             own by --tokenizer"
        );
    }
    plan.vocabulary = if rows > tokens { rows } else { 0 };
    let known = |end: &u32| (*end as usize) < tokens;
    plan.end_token = source.end_token.filter(known);
    Ok(())
}

/// Reads the weights: where a run stands that has taken no step.
pub(super) fn read(source: Source, plan: &mut Plan, show: Show) -> anyhow::Result<Checkpoint> {
    memory::check("this model", "start from a smaller one", source.bytes())?;
    if show == Show::Text {
        let path = plan.init_from.clone().unwrap_or_default();
        say!("starting from {} ({})", path.display(), source.description);
    }
    let read = source.read()?;
    plan.init_sha256 = read.sha256;
    Ok(Checkpoint::initial(plan.clone(), read.tensors))
}

/// That a run has nothing to go on from.
pub(super) fn without_checkpoint(run: &Path) -> Misuse {
    let run = run.display();
    Misuse(format!(
        "{run} was stopped before its first checkpoint, and nothing was trained; remove it and \
         start again"
    ))
}
