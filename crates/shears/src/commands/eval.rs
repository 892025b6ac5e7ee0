//! `shears eval`: how well a trained model predicts a text.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use burn::tensor::Device;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use shears_data::{Corpus, DataError, Source, Tokens};
use shears_model::LanguageModel;
use shears_train::{Evaluation, Streams, evaluate};

use crate::commands::RunArgument;
use crate::exit::Misuse;
use crate::model::{Trained, Work, with_trained_model};
use crate::output::{one_line, say};
use crate::report::counted;

/// Measure a trained model on a text
///
/// Every token but the first is predicted once. Recurrent models read up to 32 parts of the text at the
/// same time, and begin each again until what comes before it no longer changes its loss; a
/// Transformer reads consecutive windows of its context. Prints the loss in nats a token, bits a
/// character and perplexity.
#[derive(Args, Debug)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Text to measure on [default: the run's validation text, which must be as it was]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) data: Option<PathBuf>,

    /// Which checkpoint: best, last, or the number of a step
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub(crate) checkpoint: String,

    /// Read the text of a recurrent model as one stream: slower, and with all that is before a token
    ///
    /// Without it, and in training, the loss differs by less than 1e-4 nats a token, unless the model
    /// remembers thousands of tokens. Transformers are evaluated in the same way in both cases.
    #[arg(long)]
    pub(crate) exact: bool,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Print one JSON object: val_loss, bits_per_char, perplexity, tokens, checkpoint, text
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(arguments: &EvalArguments) -> anyhow::Result<ExitCode> {
    super::set_threads(arguments.threads)?;
    let trained = Trained::open(arguments.run.open()?, &arguments.checkpoint)?;
    let Measured {
        tokens,
        characters,
        text,
    } = Measured::of(&trained, arguments.data.as_deref())?;
    if tokens.len() < 2 {
        let message = format!(
            "{text} has {} token: there is nothing to predict",
            tokens.len()
        );
        return Err(Misuse(format!("{message}; give a longer text by --data")).into());
    }
    let streams = match arguments.exact {
        true => Streams::ONE,
        false => Streams::default(),
    };
    let vocabulary = trained.tokenizer.vocab_size();
    let work = Evaluate {
        tokens,
        characters,
        streams,
    };
    let evaluation = with_trained_model(&trained.plan, vocabulary, trained.parameters, work)??;
    let evaluation = evaluation.context("nobody stops it")?;
    if arguments.json {
        let mut line = serde_json::to_value(evaluation)?;
        line["checkpoint"] = trained.path.display().to_string().into();
        line["text"] = text.into();
        say!("{line}");
    } else {
        say!("checkpoint {}", trained.path.display());
        say!("on {}", one_line(&text));
        say!("val loss {:.4} nats a token", evaluation.val_loss);
        say!("{:.4} bits a character", evaluation.bits_per_char);
        say!(
            "perplexity {:.3} ({})",
            evaluation.perplexity,
            counted(evaluation.tokens as u64, "token")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What is measured on.
struct Measured {
    tokens: Tokens,
    characters: usize,
    /// What it is, in words.
    text: String,
}

impl Measured {
    /// The text in a file, or the validation text of the run.
    fn of(trained: &Trained, data: Option<&Path>) -> anyhow::Result<Measured> {
        let plan = &trained.plan;
        let Some(path) = data else {
            let remedy = "name the text to measure on: --data FILE";
            let corpora = super::corpora_of(&trained.run, plan, true, remedy)?;
            let of_run = match &plan.val {
                Some(path) => path.display().to_string(),
                None => format!("the last tenth of {}", corpora.description),
            };
            return Ok(Measured {
                tokens: corpora.validation,
                characters: corpora.validation_characters,
                text: format!("the run's validation text, {of_run}"),
            });
        };
        let corpus = Corpus::load(&Source::Files(vec![path.to_path_buf()]))?;
        let hash = corpus.fingerprint();
        let what = match hash {
            _ if hash == plan.val_sha256 => ", the run's validation text",
            _ if hash == plan.text_sha256 => ", the run's text, which it was trained on",
            _ => "",
        };
        Ok(Measured {
            tokens: trained.tokenizer.tokens(&corpus.text)?,
            characters: corpus.text.chars().count(),
            text: format!("{}{what}", path.display()),
        })
    }
}

struct Evaluate {
    tokens: Tokens,
    characters: usize,
    streams: Streams,
}

impl Work for Evaluate {
    type Output = Result<Option<Evaluation>, DataError>;

    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
        // On a terminal alone.
        let bar = ProgressBar::new(self.tokens.len() as u64);
        let watch = &mut |read, _| {
            bar.set_position(read as u64);
            // Nothing would be saved, so that a signal ends the program.
            ControlFlow::Continue(())
        };
        let evaluation = evaluate(
            &model,
            &self.tokens,
            self.characters,
            self.streams,
            device,
            watch,
        );
        bar.finish_and_clear();
        evaluation
    }
}
