//! `shears export`: writes the steps of a run as a table, or its model, for other programs.

mod columns;
mod model;
mod parquet_file;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum, ValueHint};
use shears_train::Which;

use super::RunArgument;
use crate::exit::misuse;

/// Export a run's steps as a table, or its model for another program
///
/// The table is for spreadsheets, pandas, polars or R. It has one row per step: step, loss, lr,
/// tokens_per_second, action, norm_before, norm_after, coefficient, threshold, clipped_share,
/// cosine, non_finite, skip_reason, first_non_finite, and val_loss, bits_per_char and perplexity if
/// an evaluation followed the step. clipped_share is the share of elements that `value` clamped.
/// Missing values are empty (null in parquet), values that were not finite are NaN. Numbers keep
/// all their digits. A run can be exported while it trains.
///
/// A model is written to a new folder, with its tokenizer and a model card (README.md) that lists
/// the hash of the text, the settings, the loss, and the clipping with its verdict.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Format [default: from the extension of --out, otherwise csv]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<ExportFormat>,

    /// File for the table, or new folder for the model [default: csv goes to standard output]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) out: Option<PathBuf>,

    /// Add a column for each tensor with its norm before clipping, such as norm:layers.0.weight_hh
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Overwrite an existing file
    #[arg(long, requires = "out")]
    pub(crate) force: bool,

    /// Type of the matrices in gguf [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<Dtype>,

    /// Which checkpoint: best, last, or the number of a step [default: best]
    #[arg(long, value_name = "WHICH")]
    pub(crate) checkpoint: Option<Which>,
}

/// The formats of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Table as text, one line per row
    Csv,
    /// Table as Apache Parquet, compressed with Snappy
    Parquet,
    /// Transformer with GPT-2's or Llama's block: a folder that `transformers` loads
    Huggingface,
    /// The same as model.gguf, which llama.cpp loads
    Gguf,
    /// RNN, LSTM or GRU: safetensors with PyTorch's names, and the code that loads them
    Pytorch,
}

/// The type of the matrices in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// As trained
    F32,
    /// Half precision
    F16,
    /// 8 bits, with a scale for every 32 elements
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
        (arguments.tensors && !is_table, "--tensors is for tables"),
        (arguments.force && !is_table, "--force is for tables"),
        (
            arguments.checkpoint.is_some() && is_table,
            "--checkpoint is for models",
        ),
        (arguments.dtype.is_some() && !is_gguf, "--dtype is for gguf"),
    ];
    if let Some((_, problem)) = flags.into_iter().find(|(is_stray, _)| *is_stray) {
        misuse!("{problem}; leave it out");
    }
    if arguments.out.as_deref() == Some(Path::new("-")) {
        misuse!("--out - is no file; tables are printed as CSV without --out");
    }
    let run = arguments.run.open()?;
    match is_table {
        true => table::export(arguments, &run, format)?,
        false => model::export(arguments, run, format)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The format that was given, or that the extension of the file implies.
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
