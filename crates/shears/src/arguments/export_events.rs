//! The command line of `shears export-events`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// Write a run's steps as a table, for a spreadsheet, pandas, polars, R
///
/// One row a step: step, loss, lr, tokens_per_second, action, norm_before, norm_after, coefficient,
/// threshold, clipped_share, cosine, non_finite, skip_reason, first_non_finite, and val_loss,
/// bits_per_char and perplexity where the step was followed by an evaluation.
///
/// Empty (in parquet: null) is what there is none of. NaN is what was not finite. Numbers have all
/// their digits. A run that is still going on can be exported, too.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ExportEventsArguments {
    /// Folder of the run
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,

    /// What to write [default: by the ending of --out, else csv]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<TableFormat>,

    /// File to write to; parquet needs one [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,

    /// One more column for each tensor, with its norm before clipping: norm:layers.0.weight_hh
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Overwrite the file if it is there already
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
}

/// What a table is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// Text, one line a row
    Csv,
    /// Apache Parquet, compressed by Snappy
    Parquet,
}

const EXAMPLES: &str = "Examples:
  shears export-events runs/mine > steps.csv
  shears export-events runs/mine --out steps.parquet --tensors";
