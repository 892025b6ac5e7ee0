//! `shears export`: the steps of a run as a table.

mod columns;
mod parquet_file;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};

use super::RunArgument;
use crate::exit::Misuse;
use crate::new_file::{self, NewFile};
use crate::run_log;
use columns::{Column, Rows, columns};

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
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

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
  shears export runs/mine > steps.csv
  shears export runs/mine --out steps.parquet --tensors";

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<ExitCode> {
    let run = arguments.run.open()?;
    let format = format(arguments)?;
    if let Some(out) = &arguments.out {
        new_file::check(out, arguments.force)?;
    }
    let log = run_log::read(&run)?;
    if log.columns.rows() == 0 {
        return Err(super::nothing_recorded(&run, "export").into());
    }
    let columns = columns(&log, arguments.tensors);
    let rows = Rows::of(&log)?;
    match &arguments.out {
        None => write_csv(&columns, rows, io::stdout().lock())
            .context("cannot write to standard output")?,
        Some(out) => {
            let file = NewFile::beside(out)?;
            let written = match format {
                TableFormat::Csv => write_csv(&columns, rows, file.writer()),
                TableFormat::Parquet => parquet_file::write(&columns, rows, file.writer()),
            };
            written.with_context(|| format!("cannot write {}", out.display()))?;
            file.put_in_place(out, arguments.force)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The format that was asked for, or that the file's name tells.
fn format(arguments: &ExportArguments) -> Result<TableFormat, Misuse> {
    let ending = arguments.out.as_deref().and_then(Path::extension);
    let format = arguments.format.unwrap_or(match ending {
        Some(ending) if ending.eq_ignore_ascii_case("parquet") => TableFormat::Parquet,
        _ => TableFormat::Csv,
    });
    if format == TableFormat::Parquet && arguments.out.is_none() {
        let problem = "parquet is not for a terminal or a pipe; give a file by --out FILE";
        return Err(Misuse(problem.into()));
    }
    Ok(format)
}

/// A line of names, then a line for each row.
fn write_csv(columns: &[Column], rows: Rows<'_>, out: impl Write) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(BufWriter::new(out));
    let names = columns.iter().map(|column| column.name.as_str());
    table.write_record(names).map_err(csv_error)?;
    for row in rows {
        let row = row?;
        let fields = columns.iter().map(|column| column.text(&row));
        table.write_record(fields).map_err(csv_error)?;
    }
    table.flush()?;
    Ok(())
}

/// The system's error inside that of the `csv` crate, which does not name it as its source.
fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
