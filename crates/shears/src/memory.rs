//! Refuses work that cannot fit into memory before allocating anything, where the system reports
//! its memory (Linux).

use std::fs;

use crate::exit::{Misuse, misuse};
use crate::output::complain;
use crate::report;

/// Refuses a training run that cannot fit, if each of `processes` on this computer takes `bytes`.
pub(crate) fn refuse_too_large(bytes: u64, processes: usize) -> Result<(), Misuse> {
    let remedy = "a smaller --batch, --window or --hidden fits";
    check("training", remedy, bytes)?;
    let all = bytes.saturating_mul(processes as u64);
    match installed() {
        Some(installed) if all > installed => {
            let [all, installed] = [all, installed].map(report::bytes);
            misuse!(
                "training would take about {all} in {processes} processes, and this computer has \
                 {installed}; {remedy}, or fewer processes"
            )
        }
        _ => Ok(()),
    }
}

/// Prints how much memory a command takes, if asked or if it is a lot; refuses what cannot fit.
pub(crate) fn announce(what: &str, bytes: u64, is_asked: bool) -> Result<(), Misuse> {
    check(
        what,
        "a model with a smaller --hidden or --layers fits",
        bytes,
    )?;
    if is_asked || bytes >= WORTH_SAYING {
        complain!("memory: about {}", report::bytes(bytes));
    }
    Ok(())
}

/// An amount worth mentioning unasked; most computers have several times as much.
const WORTH_SAYING: u64 = 2_000_000_000;

/// Refuses more bytes than the computer has, or than this process may allocate.
pub(crate) fn check(what: &str, remedy: &str, bytes: u64) -> Result<(), Misuse> {
    let (whose, limit) = match (installed(), allowed()) {
        (installed, Some(allowed)) if installed.is_none_or(|installed| allowed < installed) => {
            ("this process may have", allowed)
        }
        (Some(installed), _) => ("this computer has", installed),
        (None, _) => return Ok(()),
    };
    if bytes <= limit {
        return Ok(());
    }
    let [bytes, limit] = [bytes, limit].map(report::bytes);
    misuse!("{what} would take about {bytes}, and {whose} {limit}; {remedy}")
}

/// Bytes of memory that are installed.
fn installed() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes = line.trim().strip_suffix(" kB")?.trim().parse::<u64>();
    kilobytes.ok()?.checked_mul(1024)
}

/// Bytes of address space that `ulimit -v` allows, if it sets a limit.
fn allowed() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}
