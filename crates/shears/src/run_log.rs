//! The log of a run, as commands read it.

use shears_run::{Columns, Log};
use shears_train::RunFolder;

use crate::output::complain;

/// Reads the log of a run, and says on standard error what of it cannot be read.
pub(crate) fn read(run: &RunFolder) -> anyhow::Result<Log> {
    let log = run.log()?;
    if let Some(damage) = &log.damage {
        complain!("shears: warning: {}: {damage}", log.path().display());
    }
    Ok(log)
}

/// Why `what` is missing, if that is because the log has no header.
pub(crate) fn without_header(columns: &Columns, what: &str) -> Option<String> {
    let missing = columns.header.is_none() && columns.rows() > 0;
    missing.then(|| {
        format!("an earlier version wrote this log, which does not describe the model: no {what}")
    })
}
