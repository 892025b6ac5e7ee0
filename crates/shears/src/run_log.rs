//! Reading the log of a run, with a warning about damage.

use shears_run::{Columns, Log};
use shears_train::RunFolder;

use crate::output::complain;

/// Reads the log of a run, and warns on standard error about lines that cannot be read.
pub(crate) fn read(run: &RunFolder) -> anyhow::Result<Log> {
    let log = run.log()?;
    if let Some(damage) = &log.damage {
        complain!("shears: warning: {}: {damage}", log.path().display());
    }
    Ok(log)
}

/// Explains why `what` is missing if the log has no header.
pub(crate) fn without_header(columns: &Columns, what: &str) -> Option<String> {
    let missing = columns.header.is_none() && columns.rows() > 0;
    missing.then(|| {
        format!("an earlier version wrote this log, which does not describe the model: no {what}")
    })
}
