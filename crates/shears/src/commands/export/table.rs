//! The steps of a run as a table.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};

use anyhow::Context;
use shears_train::RunFolder;

use super::columns::Rows;
use super::{ExportArguments, ExportFormat, parquet_file};
use crate::exit::misuse;
use crate::new_file::{self, NewFile};
use crate::output::visible;
use crate::run_log;
use crate::watch::remove_when_asked;

pub(super) fn export(
    arguments: &ExportArguments,
    run: &RunFolder,
    format: ExportFormat,
) -> anyhow::Result<()> {
    if format == ExportFormat::Parquet && arguments.out.is_none() {
        misuse!("parquet is not for a terminal or a pipe; give a file with --out FILE");
    }
    if let Some(out) = &arguments.out {
        new_file::check(out, arguments.force)?;
    }
    let log = run_log::read(run)?;
    if log.columns.rows() == 0 {
        return Err(crate::commands::nothing_recorded(run, "export").into());
    }
    let tensors = match arguments.tensors {
        true => log.columns.tensors.names.as_slice(),
        false => &[],
    };
    let rows = Rows::of(&log)?;
    let Some(out) = &arguments.out else {
        return write_csv(rows, tensors, io::stdout().lock(), visible)
            .context("cannot write to standard output");
    };
    let file = NewFile::beside(out)?;
    remove_when_asked(file.path())?;
    let written = match format {
        ExportFormat::Parquet => parquet_file::write(rows, tensors, file.writer()),
        _ => write_csv(rows, tensors, file.writer(), |text| Cow::Borrowed(text)),
    };
    written.with_context(|| format!("cannot write {}", out.display()))?;
    file.put_in_place(out, arguments.force)
}

/// A header line, then one line per row; `shown` gives each text as it is to be written.
fn write_csv(
    rows: Rows<'_>,
    tensors: &[String],
    out: impl Write,
    shown: impl Fn(&str) -> Cow<'_, str>,
) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(BufWriter::new(out));
    for (number, row) in rows.enumerate() {
        let row = row?;
        if number == 0 {
            let names = row.names(tensors);
            let names = names.iter().map(|name| shown(name).into_owned());
            table.write_record(names).map_err(csv_error)?;
        }
        let cells = row.cells(tensors).into_iter();
        let fields = cells.map(|cell| shown(&cell.text()).into_owned());
        table.write_record(fields).map_err(csv_error)?;
    }
    table.flush()?;
    Ok(())
}

/// The system's error inside an error of the `csv` crate, which does not report it as its source.
fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
