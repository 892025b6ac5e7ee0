//! `shears generate`: generates text with a trained model, and prints it as it comes.

use std::io::{IsTerminal, StdoutLock, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use clap::{Args, ValueHint};
use shears_data::Tokenizer;
use shears_generate::{GenerateError, Generator, Limits, Sampler, SamplingSettings, generate_text};
use shears_model::{AnyModel, LanguageModel};
use shears_train::Trainer;

use crate::commands::ModelArguments;
use crate::exit::{Misuse, misuse};
use crate::input;
use crate::memory;
use crate::model::{device_of, of_generation};
use crate::output::visible;

/// Generate text with a trained model
///
/// The text is printed as it is generated, in whole characters. Tokens are not computed twice:
/// recurrent models carry their state, a Transformer caches keys and values. When its context is
/// full, a Transformer reads the second half again and continues from there, so that it always sees
/// at least half its context.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct GenerateArguments {
    /// Text to continue; `-` reads it from standard input, without the final line break [default: a
    /// line break]
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub(crate) prompt: Option<String>,

    /// File with the text to continue
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) prompt_file: Option<PathBuf>,

    /// Number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) tokens: usize,

    /// Randomness: below 1 sharpens the probabilities, above 1 flattens them, 0 always takes the
    /// likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub(crate) temperature: f64,

    /// Sample from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,

    /// Sample from the likeliest tokens that together have probability P (Holtzman et al. 2020)
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// Exclude tokens less likely than P times the likeliest one
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f64>,

    /// Make recently generated tokens less likely; 1 is off (Keskar et al. 2019)
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f64,

    /// Stop before this text; repeatable
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// Seed of the sampling; sample k has seed + k
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Number of texts to generate
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) num_samples: u64,

    #[command(flatten)]
    pub(crate) model: ModelArguments,

    /// Print one JSON object per text: prompt, text, seed
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "Examples:
  shears generate runs/mine --prompt 'ROMEO:' --tokens 300
  shears generate runs/mine --temperature 0.5 --top-k 20 --num-samples 3
  echo 'Once upon' | shears generate runs/mine --prompt - --stop '.'";

/// Refuses to sample from the one token that temperature 0 takes.
fn refuse_without_effect(arguments: &GenerateArguments) -> Result<(), Misuse> {
    let unused = [
        (arguments.top_k.is_some(), "--top-k"),
        (arguments.top_p.is_some(), "--top-p"),
        (arguments.min_p.is_some(), "--min-p"),
        (arguments.num_samples > 1, "--num-samples"),
    ];
    match unused.iter().find(|(is_given, _)| *is_given) {
        Some((_, flag)) if arguments.temperature == 0.0 => misuse!(
            "{flag} has no effect with --temperature 0, which takes the likeliest token; leave one \
             out"
        ),
        _ => Ok(()),
    }
}

pub(crate) fn run(arguments: &GenerateArguments) -> anyhow::Result<ExitCode> {
    let settings = SamplingSettings {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        min_p: arguments.min_p,
        repetition_penalty: arguments.repetition_penalty,
    };
    settings.validate()?;
    refuse_without_effect(arguments)?;
    let prompt = prompt(arguments)?;
    let mut trained = arguments.model.open()?;
    let tokens = trained.tokenizer.encode(&prompt)?;
    let mut memory = of_generation(&trained.plan, trained.vocabulary(), tokens.len());
    memory.text = trained.tokenizer.memory();
    memory::announce("generation", memory.total(), arguments.model.verbose)?;
    let (model, device) = (trained.model()?.for_generation(), device_of(&trained.plan));
    let tokenizer = &trained.tokenizer;
    let start = start_token(tokenizer);
    let mut out = Output(std::io::stdout().lock());
    for sample in 0..arguments.num_samples {
        let seed = arguments.seed.wrapping_add(sample);
        let limits = Limits {
            tokens: arguments.tokens,
            stop: arguments.stop.clone(),
            end: trained.plan.end_token,
        };
        let sampler = Sampler::new(settings.clone(), seed)?;
        let generator = Generator::new(&model, &device);
        // A trailing space of the prompt may not be a token; the decoder then prints it again.
        let mut is_doubled = prompt.ends_with(' ') && !tokenizer.decode(&tokens).ends_with(' ');
        let mut single = |piece: String| match std::mem::take(&mut is_doubled) {
            true => piece.strip_prefix(' ').unwrap_or(&piece).to_string(),
            false => piece,
        };
        let stream = generate_text(generator, sampler, tokenizer, &tokens, start, limits)?;
        if arguments.json {
            let pieces = stream.map(|piece| piece.map(&mut single));
            let text: Result<String, GenerateError> = pieces.collect();
            let line = serde_json::json!({ "prompt": prompt, "text": text?, "seed": seed });
            out.write(&format!("{line}\n"))?;
            continue;
        }
        if sample > 0 {
            out.write("\n---\n")?;
        }
        out.write(&prompt)?;
        for piece in stream {
            out.write(&single(piece?))?;
        }
        if std::io::stdout().is_terminal() || sample + 1 < arguments.num_samples {
            out.write("\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Maximum bytes of a prompt, far more than any model can use.
const LONGEST_PROMPT: u64 = 16_000_000;

fn prompt(arguments: &GenerateArguments) -> Result<String, Misuse> {
    match (arguments.prompt.as_deref(), &arguments.prompt_file) {
        (Some("-"), _) => {
            let name = "the prompt on standard input";
            let mut text = input::read(std::io::stdin().lock(), name, LONGEST_PROMPT)?;
            // The line break comes from `echo`, not from the prompt.
            if text.ends_with('\n') {
                text.pop();
                text.truncate(text.trim_end_matches('\r').len());
            }
            Ok(text)
        }
        (Some(text), _) => Ok(text.to_string()),
        (None, Some(file)) => {
            input::read_file(file, &format!("prompt {}", file.display()), LONGEST_PROMPT)
        }
        (None, None) => Ok(String::new()),
    }
}

/// Standard output, flushed after each piece.
struct Output(StdoutLock<'static>);

impl Output {
    fn write(&mut self, piece: &str) -> anyhow::Result<()> {
        let written = self.0.write_all(visible(piece).as_bytes());
        let written = written.and_then(|()| self.0.flush());
        written.context("cannot write to standard output")
    }
}

/// The token that a text without a prompt starts from: a line break, if the tokenizer has one.
fn start_token(tokenizer: &Tokenizer) -> u32 {
    let newline = tokenizer.encode("\n").ok();
    newline
        .and_then(|tokens| tokens.last().copied())
        .unwrap_or(0)
}

/// The sample at the end of a run.
pub(crate) fn write_last_sample(
    trainer: &Trainer<AnyModel>,
    tokenizer: &Tokenizer,
    device: &Device,
    stop: &AtomicBool,
) -> anyhow::Result<String> {
    let (model, end) = (trainer.model().valid(), trainer.plan().end_token);
    let plain = device.clone().without_autodiff();
    write_sample(&model, tokenizer, end, &plain, 300, stop)
}

/// A short sample during a run and at its end: temperature 0.8, seed 1. The token `end` ends it.
pub(crate) fn write_sample<M: LanguageModel>(
    model: &M,
    tokenizer: &Tokenizer,
    end: Option<u32>,
    device: &Device,
    tokens: usize,
    stop: &AtomicBool,
) -> anyhow::Result<String> {
    let limits = Limits {
        tokens,
        stop: Vec::new(),
        end,
    };
    let sampler = Sampler::new(SamplingSettings::at(0.8), 1)?;
    let (generator, start) = (Generator::new(model, device), start_token(tokenizer));
    let stream = generate_text(generator, sampler, tokenizer, &[], start, limits)?;
    let goes_on = |_: &Result<String, GenerateError>| !stop.load(Ordering::SeqCst);
    let text: String = stream
        .take_while(goes_on)
        .collect::<Result<_, GenerateError>>()?;
    Ok(text.trim_matches('\n').to_string())
}
