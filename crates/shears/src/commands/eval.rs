//! `shears eval`: how well a trained model predicts a text.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use burn::tensor::Device;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use shears_data::{Corpus, DataError, Encoding, ReadAs, RoundTrip, Source, Tokens};
use shears_model::LanguageModel;
use shears_train::{Evaluation, MemoryEstimate, Streams, evaluate};

use crate::commands::RunArgument;
use crate::exit::misuse;
use crate::memory;
use crate::model::{Trained, Work, of_evaluation, with_trained_model};
use crate::output::{one_line, say};
use crate::report::{counted, unit_of_bits};

/// Measure a trained model on a text
///
/// Every token but the first is predicted once. Recurrent models read up to 32 parts of the text at
/// the same time, and begin each again until what comes before it no longer changes its loss; a
/// Transformer reads consecutive windows of its context. Prints the loss in nats a token, bits a
/// character and perplexity.
#[derive(Args, Debug)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Text to measure on [default: the run's validation text, which must be as it was]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) data: Option<PathBuf>,

    /// Encoding of that text: utf-8, utf-16, latin1, ... [default: the run's]
    #[arg(long, value_name = "NAME", requires = "data")]
    pub(crate) encoding: Option<Encoding>,

    /// Which checkpoint: best, last, or the number of a step
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub(crate) checkpoint: String,

    /// Read the text of a recurrent model as one stream: slower, and with all that is before a
    /// token
    ///
    /// Without it, and in training, the loss differs by less than 1e-4 nats a token, unless the
    /// model remembers thousands of tokens. Transformers are evaluated in the same way in both
    /// cases.
    #[arg(long)]
    pub(crate) exact: bool,

    /// Say on standard error what memory it takes
    #[arg(long, short)]
    pub(crate) verbose: bool,

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
    let measured = Measured::of(&trained, arguments)?;
    let (tokens, text) = (measured.tokens, measured.text);
    if tokens.len() < 2 {
        misuse!(
            "{text} has {}: there is nothing to predict; give a longer text by --data",
            counted(tokens.len() as u64, "token")
        );
    }
    let streams = match arguments.exact {
        true => Streams::ONE,
        false => Streams::default(),
    };
    let vocabulary = trained.plan.vocabulary_of(&trained.tokenizer);
    memory::announce("evaluation", measured.memory.total(), arguments.verbose)?;
    let work = Evaluate {
        tokens,
        characters: measured.characters,
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
        let unit = unit_of_bits(measured.is_altered);
        say!("{:.4} {unit}", evaluation.bits_per_char);
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
    /// Whether the tokenizer loses characters of it.
    is_altered: bool,
    /// What measuring takes.
    memory: MemoryEstimate,
    /// What it is, in words.
    text: String,
}

impl Measured {
    /// The text in a file, or the validation text of the run.
    fn of(trained: &Trained, arguments: &EvalArguments) -> anyhow::Result<Measured> {
        let plan = &trained.plan;
        let mut memory = of_evaluation(plan, trained.tokenizer.vocab_size());
        let Some(path) = &arguments.data else {
            let remedy = "name the text to measure on: --data FILE";
            let corpora = super::corpora_of(&trained.run, plan, true, remedy)?;
            let of_run = match &plan.val {
                Some(path) => path.display().to_string(),
                None => format!("the last tenth of {}", corpora.description),
            };
            return Ok(Measured {
                is_altered: corpora.altered.is_some(),
                memory: memory.with_text(&corpora),
                tokens: corpora.validation,
                characters: corpora.validation_characters,
                text: format!("the run's validation text, {of_run}"),
            });
        };
        let read_as = ReadAs {
            encoding: arguments.encoding.unwrap_or(plan.encoding),
            any_bytes: trained.tokenizer.takes_any_bytes(),
        };
        let source = Source::Files(vec![path.clone()]);
        let corpus = Corpus::load_with(&source, read_as, &mut |bytes| {
            let room = memory::check("this text", "give less of it", bytes);
            room.map_err(anyhow::Error::from)
        })?;
        let hash = corpus.fingerprint();
        let what = match hash {
            _ if hash == plan.val_sha256 => ", the run's validation text",
            _ if hash == plan.text_sha256 => ", the run's text, which it was trained on",
            _ => "",
        };
        let content = &corpus.content;
        let round_trip = RoundTrip::of(&trained.tokenizer, content.text().unwrap_or_default())?;
        let tokens = trained.tokenizer.tokens(content.as_ref())?;
        let of_text = (content.bytes().len() + tokens.bytes()) as u64;
        memory.text = of_text + trained.tokenizer.memory();
        Ok(Measured {
            characters: round_trip.decoded_of(content.characters()),
            is_altered: round_trip.lost > 0,
            memory,
            tokens,
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
