//! `shears eval`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::commands::RunArgument;

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

    /// Text to measure on [default: the run's validation text]
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

    /// Print one JSON object: val_loss, bits_per_char, perplexity, tokens, checkpoint
    #[arg(long)]
    pub(crate) json: bool,
}
