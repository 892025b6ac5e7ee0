//! `shears export`: a run in the files of other programs: its steps as a table, its model.

mod columns;
mod model;
mod parquet_file;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum, ValueHint};

use super::RunArgument;
use crate::exit::misuse;

/// Write a run's steps as a table, or its model for another program
///
/// A table is for a spreadsheet, pandas, polars, R. One row a step: step, loss, lr,
/// tokens_per_second, action, norm_before, norm_after, coefficient, threshold, clipped_share,
/// cosine, non_finite, skip_reason, first_non_finite, and val_loss, bits_per_char and perplexity
/// where the step was followed by an evaluation. Empty (in parquet: null) is what there is none of.
/// NaN is what was not finite. Numbers have all their digits. A run that is still going on can be
/// exported, too.
///
/// A model goes into a new folder, with its tokenizer and a model card (README.md) that has the
/// text's hash, the settings, the loss, the clipping and its verdict.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// What to write [default: by the ending of --out, else csv]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<ExportFormat>,

    /// File to write a table to, or new folder for a model; a table is written to standard output
    /// unless it is parquet
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) out: Option<PathBuf>,

    /// One more column for each tensor, with its norm before clipping: norm:layers.0.weight_hh
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Overwrite the file of a table if it is there already
    #[arg(long, requires = "out")]
    pub(crate) force: bool,

    /// How gguf stores the matrices [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<Dtype>,

    /// Which checkpoint's model: best, last, or the number of a step [default: best]
    #[arg(long, value_name = "WHICH")]
    pub(crate) checkpoint: Option<String>,
}

/// What a run is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A table: text, one line a row
    Csv,
    /// A table: Apache Parquet, compressed by Snappy
    Parquet,
    /// A Transformer of GPT-2's or Llama's block: the folder that `transformers` loads
    Huggingface,
    /// The same: model.gguf, which llama.cpp loads
    Gguf,
    /// An RNN, LSTM or GRU: safetensors under PyTorch's names, and the lines that load them
    Pytorch,
}

/// How a GGUF file stores its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As they were trained
    F32,
    /// Half precision
    F16,
    /// 8 bits, and a scale for each 32 elements
    #[value(name = "q8_0")]
    Q8,
}

const EXAMPLES: &str = "Examples:
  shears export runs/mine > steps.csv
  shears export runs/mine --out steps.parquet --tensors
  shears export runs/mine --format huggingface --out mine-hf
  shears export runs/mine --format gguf --dtype f16 --out mine-gguf";

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<ExitCode> {
    let format = format(arguments);
    let is_table = matches!(format, ExportFormat::Csv | ExportFormat::Parquet);
    let is_gguf = format == ExportFormat::Gguf;
    let flags = [
        (arguments.tensors && !is_table, "--tensors is about a table"),
        (arguments.force && !is_table, "--force is about a table"),
        (
            arguments.checkpoint.is_some() && is_table,
            "--checkpoint is about a model",
        ),
        (
            arguments.dtype.is_some() && !is_gguf,
            "--dtype is about gguf",
        ),
    ];
    if let Some((_, problem)) = flags.into_iter().find(|(is_stray, _)| *is_stray) {
        misuse!("{problem}; leave it out");
    }
    let run = arguments.run.open()?;
    match is_table {
        true => table::export(arguments, &run, format)?,
        false => model::export(arguments, run, format)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The format that was asked for, or that the file's name tells.
fn format(arguments: &ExportArguments) -> ExportFormat {
    let ending = arguments
        .out
        .as_deref()
        .and_then(std::path::Path::extension);
    arguments.format.unwrap_or(match ending {
        Some(ending) if ending.eq_ignore_ascii_case("parquet") => ExportFormat::Parquet,
        _ => ExportFormat::Csv,
    })
}
