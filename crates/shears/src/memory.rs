//! Refuses what cannot fit into memory before anything is taken, where the system tells what there is
//! (Linux).

use std::fs;

use crate::exit::Misuse;
use crate::report;

/// Refuses a training that cannot fit.
pub(crate) fn refuse_too_large(bytes: u64) -> Result<(), Misuse> {
    check(
        "training",
        "a smaller --batch, --window or --hidden fits",
        bytes,
    )
}

/// Refuses what takes more than the computer has, or than this process may take.
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
    Err(Misuse(format!(
        "{what} would take about {}, and {whose} {}; {remedy}",
        report::bytes(bytes),
        report::bytes(limit)
    )))
}

/// Bytes of memory of the computer.
fn installed() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes = line.trim().strip_suffix(" kB")?.trim().parse::<u64>();
    kilobytes.ok()?.checked_mul(1024)
}

/// Bytes of addresses that the process may have, if `ulimit -v` bounds them.
fn allowed() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}
