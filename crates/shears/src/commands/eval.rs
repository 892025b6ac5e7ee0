//! `shears eval`: measures how well a trained model predicts a text.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use shears_data::{Corpus, Encoding, ReadAs, RoundTrip, Source, Tokens};
use shears_train::{MemoryEstimate, Streams, evaluate};

use crate::commands::ModelArguments;
use crate::exit::misuse;
use crate::input::PipeWatch;
use crate::memory;
use crate::model::{Trained, device_of, of_evaluation};
use crate::output::{one_line, say};
use crate::report::{counted, perplexity, unit_of_bits};

/// Measure the loss of a trained model on a text
///
/// Every token but the first is predicted once. Recurrent models read up to 32 parts of the text in
/// parallel, and repeat each part until the state it starts from no longer changes its loss; a
/// Transformer reads consecutive windows of its context length. Prints the loss in nats per token,
/// bits per character and perplexity.
#[derive(Args, Debug)]
pub(crate) struct EvalArguments {
    /// Text to measure on [default: the run's validation text, which must be unchanged]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) data: Option<PathBuf>,

    /// Encoding of that text: utf-8, utf-16, latin1, ... [default: the run's]
    #[arg(long, value_name = "NAME", requires = "data")]
    pub(crate) encoding: Option<Encoding>,

    /// Read the text of a recurrent model as one stream: slower, but every token sees the whole
    /// text before it
    ///
    /// The default, which training uses as well, differs by less than 1e-4 nats per token, unless
    /// the model remembers thousands of tokens. Makes no difference for Transformers.
    #[arg(long)]
    pub(crate) exact: bool,

    #[command(flatten)]
    pub(crate) model: ModelArguments,

    /// Print one JSON object: val_loss, bits_per_char, perplexity, tokens, checkpoint, text
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(arguments: &EvalArguments) -> anyhow::Result<ExitCode> {
    let mut trained = arguments.model.open()?;
    let measured = Measured::of(&trained, arguments)?;
    let (tokens, text) = (measured.tokens, measured.text);
    if tokens.len() < 2 {
        misuse!(
            "{text} has {}: there is nothing to predict; give a longer text with --data",
            counted(tokens.len() as u64, "token")
        );
    }
    let streams = match arguments.exact {
        true => Streams::ONE,
        false => Streams::default(),
    };
    memory::announce(
        "evaluation",
        measured.memory.total(),
        arguments.model.verbose,
    )?;
    let (model, device) = (trained.model()?, &device_of(&trained.plan));
    let bar = ProgressBar::new(tokens.len() as u64);
    let watch = &mut |read, _| {
        bar.set_position(read as u64);
        // There is nothing to save: a signal ends the program.
        ControlFlow::Continue(())
    };
    let evaluation = evaluate(&model, &tokens, measured.characters, streams, device, watch);
    bar.finish_and_clear();
    let evaluation = evaluation?.context("nobody stops it")?;
    if arguments.json {
        let mut line = serde_json::to_value(evaluation)?;
        line["checkpoint"] = trained.path.display().to_string().into();
        line["text"] = text.into();
        say!("{line}");
    } else {
        say!("checkpoint {}", trained.path.display());
        say!("on {}", one_line(&text));
        say!("val loss {:.4} nats per token", evaluation.val_loss);
        let unit = unit_of_bits(measured.is_altered);
        say!("{:.4} {unit}", evaluation.bits_per_char);
        say!(
            "perplexity {} ({})",
            perplexity(evaluation.perplexity, 3),
            counted(evaluation.tokens as u64, "token")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The text to measure on.
struct Measured {
    tokens: Tokens,
    characters: usize,
    /// Whether the tokenizer alters it.
    is_altered: bool,
    /// The memory of the evaluation.
    memory: MemoryEstimate,
    /// A description of it.
    text: String,
}

impl Measured {
    /// The text in a file, or the validation text of the run.
    fn of(trained: &Trained, arguments: &EvalArguments) -> anyhow::Result<Measured> {
        let plan = &trained.plan;
        let mut memory = of_evaluation(plan, trained.tokenizer.vocab_size());
        let Some(path) = &arguments.data else {
            let remedy = "name the text to evaluate: --data FILE";
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
        let _watch = PipeWatch::over([path.as_path()]);
        let corpus = Corpus::load_with(&source, read_as, &mut |bytes| {
            let room = memory::check("this text", "use a shorter text", bytes);
            room.map_err(anyhow::Error::from)
        })?;
        let hash = corpus.fingerprint();
        let what = match hash {
            _ if hash == plan.val_sha256 => ", the run's validation text",
            _ if hash == plan.text_sha256 => ", the run's text, which it was trained on",
            _ => "",
        };
        let (tokenizer, content) = (&trained.tokenizer, corpus.content);
        let round_trip = RoundTrip::of(tokenizer, content.text().unwrap_or_default())?;
        let characters = round_trip.decoded_of(content.characters());
        let text = match tokenizer.reuses(&content) {
            true => 0,
            false => content.bytes().len() as u64,
        };
        let tokens = tokenizer.tokens(content)?;
        memory.text = tokens.bytes() as u64 + tokenizer.memory();
        // The model is loaded before the text.
        let of_text = memory.parameters.saturating_add(memory.text + text);
        memory.loading = memory.loading.max(of_text);
        Ok(Measured {
            characters,
            is_altered: round_trip.lost > 0,
            memory,
            tokens,
            text: format!("{}{what}", path.display()),
        })
    }
}
