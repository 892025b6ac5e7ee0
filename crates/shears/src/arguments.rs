//! The command line: every command and flag, with its help.

mod bench;
mod eval;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use serde::{Deserialize, Serialize};
use shears_data::TokenizerKind;
use shears_model::Architecture;
use shears_train::{ClipPolicy, NonFinite, OptimizerKind, Preset, ScheduleKind};

use crate::settings::checked;

use crate::commands::RunArgument;
use crate::commands::clip::ClipArguments;
use crate::commands::compare::CompareArguments;
use crate::commands::dash::DashArguments;
use crate::commands::export::ExportArguments;
use crate::commands::inspect::InspectArguments;
use crate::commands::replay::ReplayArguments;
use crate::commands::sweep::SweepArguments;
pub(crate) use bench::{BenchArguments, BenchPart};
pub(crate) use eval::EvalArguments;

/// Train text generators, and see what gradient clipping does to them.
///
/// Shears trains four kinds of model on your own text (vanilla RNN, LSTM, GRU, Transformer), clips
/// their gradients by a policy of your choice, and tells you what the clipping did: how often, how
/// much, to which layers, and whether the threshold is a good one. Without a command it trains an
/// LSTM on a text that it carries with it, in about a minute.
#[derive(Debug, Parser)]
#[command(name = "shears", version, after_help = EXIT_CODES, after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 misuse, 3 stopped because too many \
steps in a row had non-finite gradients, 130 interrupted (after saving).";

const EXAMPLES: &str = "Examples:
  shears                                        train on the text it carries
  shears train book.txt --preset gru-128        train a GRU on a book
  shears train notes/ --tokenizer bpe:2000      a folder, with a trained BPE tokenizer
  shears train book.txt --clip global-norm:1    another clipping threshold
  shears train --resume                         go on with the newest run
  shears generate --prompt 'Once upon'          write with it
  shears inspect runs/lstm-128-20260101-120000  look at an older one

Exit codes:
  0 done   1 failed   2 misuse
  3 stopped because too many steps in a row had non-finite gradients
  130 interrupted; the run was saved and can be resumed";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Box<TrainArguments>),
    Eval(EvalArguments),
    Generate(GenerateArguments),
    Inspect(InspectArguments),
    Replay(ReplayArguments),
    Dash(DashArguments),
    Compare(CompareArguments),
    Sweep(SweepArguments),
    Export(ExportArguments),
    Clip(ClipArguments),
    Bench(Box<BenchArguments>),
    /// Print a completion script for a shell
    ///
    /// For example: shears completions bash > ~/.local/share/bash-completion/completions/shears
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Train a model on text, or go on with a run
///
/// Settings come from the preset, then from the config file, then from flags; the resolved plan is
/// written to the run's folder as plan.toml, which serves as a config file again. Every flag has a
/// config key of the same name.
///
/// A run's folder holds plan.toml, events.jsonl (one line a step: loss, learning rate, speed, and
/// all that clipping found), tokenizer.json (Hugging Face format) and checkpoints. Ctrl-C finishes
/// the step, saves and leaves; `--resume` goes on bit for bit, also after a crash or a kill -9.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(after_long_help = TRAIN_EXAMPLES)]
pub(crate) struct TrainArguments {
    /// Text files or folders; `-` reads standard input; without any, a text that the program
    /// carries (Cicero, 49 kB)
    ///
    /// UTF-8. A folder means all .txt, .text and .md files in and below it, in the order of their
    /// paths. The last tenth of the characters is kept for validation.
    #[arg(value_hint = ValueHint::AnyPath)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) text: Vec<PathBuf>,

    /// Validation text, in place of the last tenth of the text
    #[arg(long, value_name = "FILE", help_heading = TEXT)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) val: Option<PathBuf>,

    /// How text becomes tokens: byte, char, bpe:N, or a Hugging Face tokenizer.json [default: char]
    ///
    /// `byte`: 256 symbols, any text. `char`: the characters that occur in the text. `bpe:N`: a
    /// byte-level BPE of N tokens, trained on the training text. A path: that tokenizer.
    #[arg(long, value_name = "KIND", value_parser = checked::<TokenizerKind>, help_heading = TEXT)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<String>,

    /// Complete setting to start from: rnn-128, lstm-128, gru-128, lstm-512, gru-512, gpt-128,
    /// gpt-384 [default: lstm-128]
    ///
    /// rnn-128, lstm-128, gru-128: 2 layers of 128, batch 50, window 50, Adam 2e-3, 2,000 steps
    /// (char-rnn's shape). lstm-512, gru-512: the same, 512 wide. gpt-128: 4 layers, 4 heads, 128
    /// wide, context 64, batch 12, 2,000 steps, AdamW 1e-3 to 1e-4 (nanoGPT's setting for a CPU).
    /// gpt-384: 6 layers, 6 heads, 384 wide, context 256, batch 64, dropout 0.2, 5,000 steps.
    #[arg(long, value_name = "NAME", value_parser = checked::<Preset>, help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preset: Option<String>,

    /// Kind of model: rnn, lstm, gru, transformer [default: the preset's]
    #[arg(long, value_name = "KIND", value_parser = checked::<Architecture>, help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,

    /// Recurrent layers or Transformer blocks
    #[arg(long, value_name = "N", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<u64>,

    /// Width of the hidden state, or of the Transformer
    #[arg(long, value_name = "N", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hidden: Option<u64>,

    /// Width of the token embedding of recurrent models [default: hidden]
    #[arg(long, value_name = "N", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) embedding: Option<u64>,

    /// Attention heads of the Transformer
    #[arg(long, value_name = "N", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heads: Option<u64>,

    /// Probability with which dropout leaves an activation out
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropout: Option<f64>,

    /// Use the embedding's weights for the output layer [default: false; true for the Transformer]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tied: Option<bool>,

    /// Start the bias of the LSTM's forget gate at 1
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forget_bias: Option<bool>,

    /// Activation of the vanilla RNN: tanh, relu
    #[arg(long, value_name = "NAME", value_parser = ["tanh", "relu"], help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonlinearity: Option<String>,

    /// Precision of the products with weights: f32, bf16 [default: f32]
    ///
    /// With bf16, factors are rounded to bfloat16 and summed in f32: faster on processors with AMX or AVX512-BF16.
    /// Parameters, moments, gradients and clipping stay f32, and no loss scale is needed. Generation reads weights in
    /// bf16, and everything else in f32.
    #[arg(long, value_name = "NAME", value_parser = ["f32", "bf16"], help_heading = MODEL)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) precision: Option<String>,

    /// Sequences in a micro-batch
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<u64>,

    /// Tokens in a sequence; for the Transformer also its context
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<u64>,

    /// Micro-batches whose gradients are averaged, then clipped once, for one update [default: 1]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accumulate: Option<u64>,

    /// Update rule: sgd, momentum, rmsprop, adam, adamw [default: adam; adamw for the Transformer]
    ///
    /// PyTorch's formulas and defaults. AdamW decays matrices only, not biases and norms.
    #[arg(long, value_name = "NAME", value_parser = checked::<OptimizerKind>, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) optimizer: Option<String>,

    /// Highest learning rate
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lr: Option<f64>,

    /// Factor of momentum [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) momentum: Option<f64>,

    /// Nesterov's variant of momentum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nesterov: Option<bool>,

    /// Decay of RMSprop's mean square [default: 0.99]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alpha: Option<f64>,

    /// Decay of Adam's first moment [default: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beta1: Option<f64>,

    /// Decay of Adam's second moment [default: 0.999; 0.99 for the Transformer]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beta2: Option<f64>,

    /// Epsilon of RMSprop and Adam [default: 1e-8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epsilon: Option<f64>,

    /// Weight decay [default: 0; 0.01 with adamw; 0.1 for the Transformer]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight_decay: Option<f64>,

    /// Learning rate over time: constant, cosine, linear, step
    #[arg(long, value_name = "NAME", value_parser = checked::<ScheduleKind>, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<String>,

    /// Steps over which the learning rate rises to its highest
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warmup: Option<u64>,

    /// Where the cosine and linear schedules end, and the floor of step
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_lr: Option<f64>,

    /// Steps between two decays of the step schedule [default: 1000]
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decay_every: Option<u64>,

    /// Factor of each decay of the step schedule [default: 0.5]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decay_factor: Option<f64>,

    /// Clipping policy: none, value:C, norm:C[,p=P], global-norm:C[,p=P]
    /// [default: global-norm:5; global-norm:1 for the Transformer]
    ///
    /// `global-norm:C` scales the whole gradient to norm C when its norm is greater (Pascanu et
    /// al. 2013). `norm:C` does so for each tensor by itself, `value:C` limits each element; both
    /// change the direction. `p=P` takes the p-norm, P any number above 0 or `inf`. The defaults
    /// are those of the field: published recurrent models use thresholds from 0.2 to 10, char-rnn
    /// and Zaremba et al. 5; nearly every Transformer uses 1. CLIPPING.md has all others (agc,
    /// autoclip, zclip, adagc, median, skip, ...), chains and thresholds that change.
    #[arg(long, value_name = "POLICY", value_parser = checked::<ClipPolicy>, help_heading = CLIPPING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clip: Option<String>,

    /// What to do with a gradient that has a NaN or an infinity: error, skip, zero [default: skip]
    ///
    /// `skip` leaves the step out: parameters, moments and schedule keep their bits. `zero` sets
    /// those elements to zero. `error` ends the run.
    #[arg(long, value_name = "RULE", value_parser = checked::<NonFinite>, help_heading = CLIPPING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) non_finite: Option<String>,

    /// Skipped steps in a row after which the run stops, with exit code 3 [default: 10]
    #[arg(long, value_name = "N", help_heading = CLIPPING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_skips: Option<u64>,

    /// Steps of the run
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<u64>,

    /// Seed of weights, data order and dropout [default: 1]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,

    /// Steps between evaluations on the whole validation text; 0 is only at the end [default: 500]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eval_every: Option<u64>,

    /// Steps between checkpoints; 0 is only at the end [default: 250]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) save_every: Option<u64>,

    /// Steps between samples of text; 0 is only at the end [default: 0]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample_every: Option<u64>,

    /// Evaluations without improvement after which the run stops; 0 is never [default: 0]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) patience: Option<u64>,

    /// Newest checkpoints to keep, besides the best one; at least 2 [default: 3]
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<u64>,

    /// Where to compute: cpu [default: cpu]
    #[arg(long, value_name = "NAME", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,

    /// CPU threads [default: all cores]; the result has the same bits for any number
    #[arg(long, value_name = "N", help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,

    /// Folder of the run [default: runs/ and a name from preset and time]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = RUN)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,

    /// Settings from a TOML file; every flag has a key of the same name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RUN)]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// Go on with a run, bit for bit, from its newest whole checkpoint
    ///
    /// Without DIR, the newest run in runs/. The run's settings stay as they are: one that is given and
    /// differs is refused.
    #[arg(long, value_name = "DIR", num_args = 0..=1, value_hint = ValueHint::DirPath, help_heading = RUN)]
    #[serde(skip)]
    pub(crate) resume: Option<Option<PathBuf>>,

    /// Print one JSON object a line instead of text
    #[arg(long, help_heading = OUTPUT)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) json: bool,

    /// Print nothing but errors
    #[arg(long, short, help_heading = OUTPUT)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) quiet: bool,

    /// Write TensorBoard event files to the run's folder: losses, norms, samples, settings
    #[arg(long, help_heading = OUTPUT)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tensorboard: bool,

    /// Draw losses, norms and clipping on the whole terminal while the run goes
    #[arg(long, help_heading = OUTPUT)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tui: bool,
}

const TEXT: &str = "Text";
const MODEL: &str = "Model";
const TRAINING: &str = "Training";
const CLIPPING: &str = "Clipping";
const RUN: &str = "Run";
const OUTPUT: &str = "Output";

const TRAIN_EXAMPLES: &str = "Examples:
  shears train                                            the text it carries, an LSTM
  shears train book.txt --preset gpt-128                  a Transformer
  shears train book.txt --clip value:1 --optimizer sgd --lr 0.5
  cat *.txt | shears train - --tokenizer bpe:1000 --out runs/mine
  shears train --resume runs/mine";

/// Write new text with a trained model
///
/// The text appears as it is written, in whole characters. What was written is never computed
/// again: recurrent models carry their state, the Transformer its keys and values. When the
/// Transformer's context is full, it reads the last half of it again and goes on from there, so
/// that it looks back on at least half its context.
#[derive(Args, Debug)]
#[command(after_long_help = GENERATE_EXAMPLES)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Text to go on from; `-` reads it from standard input [default: a new line]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,

    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) tokens: usize,

    /// How daring: below 1 sharpens the probabilities, above 1 flattens them, 0 always takes the
    /// likeliest token
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    pub(crate) temperature: f64,

    /// Choose among the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,

    /// Choose among the likeliest tokens that together reach probability P (Holtzman et al. 2020)
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,

    /// Leave out tokens less likely than P times the likeliest one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,

    /// Make tokens that were just written less likely; 1 is off (Keskar et al. 2019)
    #[arg(
        long,
        value_name = "X",
        allow_negative_numbers = true,
        default_value_t = 1.0
    )]
    pub(crate) repetition_penalty: f64,

    /// Stop before this text; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// Seed of the choices [default: 1]; sample k of several has seed + k
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How many texts to write
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) num_samples: u64,

    /// Which checkpoint: best, last, or the number of a step
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub(crate) checkpoint: String,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Print one JSON object a text: prompt, text, seed
    #[arg(long)]
    pub(crate) json: bool,
}

const GENERATE_EXAMPLES: &str = "Examples:
  shears generate runs/mine --prompt 'ROMEO:' --tokens 300
  shears generate runs/mine --temperature 0.5 --top-k 20 --num-samples 3
  echo 'Once upon' | shears generate runs/mine --prompt - --stop '.'";
