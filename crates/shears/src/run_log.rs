//! Reading the log of a run, with a warning about damage.

use std::time::{Duration, Instant};

use shears_run::{Columns, Log};
use shears_train::RunFolder;

use crate::output::complain;

/// Reads the log of a run, and warns on standard error about lines that cannot be read.
pub(crate) fn read(run: &RunFolder) -> anyhow::Result<Log> {
    let log = run.log()?;
    warn_of_damage(&log);
    Ok(log)
}

fn warn_of_damage(log: &Log) {
    if let Some(damage) = log.problem() {
        complain!("shears: warning: {}: {damage}", log.path().display());
    }
}

/// Bytes between two looks at the clock: some milliseconds.
const PART: u64 = 1 << 21;

/// As [`read`]; none if it takes longer than `patience`, or has more than `most` steps.
pub(crate) fn read_within(
    run: &RunFolder,
    patience: Duration,
    most: u64,
) -> anyhow::Result<Option<Log>> {
    let since = Instant::now();
    let mut log = Log::new(run.events_path());
    while !log.advance(PART)?.complete {
        if since.elapsed() > patience || log.columns.rows() as u64 > most {
            return Ok(None);
        }
    }
    warn_of_damage(&log);
    Ok(Some(log))
}

/// Explains why `what` is missing if the log has no header.
pub(crate) fn without_header(columns: &Columns, what: &str) -> Option<String> {
    let missing = columns.header.is_none() && columns.rows() > 0;
    missing.then(|| {
        format!(
            "this log does not describe the model, because an earlier version wrote it or its first \
             line is damaged: no {what}"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_long_log_is_not_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("plan.toml"), "").unwrap();
        let line = r#"{"event":"sample","step":1,"text":"a"}"#;
        let run = RunFolder::open_to_read(folder.path()).unwrap();
        let read = |lines: usize, patience: Duration| {
            fs::write(path("events.jsonl"), format!("{line}\n").repeat(lines)).unwrap();
            read_within(&run, patience, u64::MAX).unwrap().is_some()
        };
        assert!(read(1, Duration::ZERO));
        assert!(!read(1_000_000, Duration::ZERO));
        assert!(read(1_000_000, Duration::MAX));
    }
}
