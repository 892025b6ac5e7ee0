//! The signals that ask a run to stop.

/// Calls `act` on each signal that asks the program to end, in a thread of its own.
#[cfg(not(unix))]
pub(super) fn on_each(act: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(act)?)
}

/// Calls `act` on each signal that asks the program to end, in a thread of its own.
#[cfg(unix)]
pub(super) fn on_each(mut act: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(heard())?;
    std::thread::Builder::new()
        .name("signals".to_string())
        .spawn(move || {
            for _ in signals.forever() {
                act();
            }
        })
        .map_err(crate::exit::no_thread)?;
    Ok(())
}

/// The signals to handle: those that were not ignored when the program started. `nohup` ignores
/// SIGHUP, and a shell without job control ignores SIGINT for background jobs.
#[cfg(unix)]
fn heard() -> Vec<i32> {
    // `mpirun` forwards SIGUSR1 at once; after SIGTERM it only gives its processes a second.
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    use std::io::IsTerminal;

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match ignored(&status) {
        Some(mask) => [SIGINT, SIGTERM, SIGHUP, SIGUSR1]
            .into_iter()
            .filter(|signal| mask & (1 << (signal - 1)) == 0)
            .collect(),
        // Other systems do not tell; under `nohup`, standard error is not a terminal.
        None if std::io::stderr().is_terminal() => vec![SIGINT, SIGTERM, SIGHUP, SIGUSR1],
        None => vec![SIGINT, SIGTERM, SIGUSR1],
    }
}

/// The mask of ignored signals, from Linux's `/proc/self/status`.
#[cfg(unix)]
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask?.trim(), 16).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tshears\nSigBlk:\t00\nSigIgn:\t0000000000001001\nSigCgt:\t00\n";
        assert_eq!(ignored(status), Some(0x1001));
        assert_eq!(ignored("Name:\tshears\n"), None);
    }
}
