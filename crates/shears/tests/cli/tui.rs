//! `shears train --tui`: where it is refused, and what happens when its terminal closes. Drawing is
//! tested next to its code.

use std::fs::File;

use crate::program::{Scratch, TINY, has, wait_until};

#[test]
fn the_screen_needs_a_terminal() {
    let scratch = Scratch::new();
    for (flags, part) in [
        ("--tui", "standard output is not one"),
        ("--tui --json", "--tui and --json exclude each other"),
        ("--tui --quiet", "--tui and --quiet exclude each other"),
    ] {
        let message = scratch
            .run(&format!("train {TINY} {flags} --out run"))
            .failed(2);
        has(&message, part);
        assert!(scratch.listing().is_empty());
    }
}

/// Closing the window of a run saves and stops it.
#[test]
fn a_run_ends_when_its_terminal_closes() {
    let ignored = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_some_and(|mask| mask & 1 == 1) {
        println!("skipped: these tests run under nohup, and so does the run");
        return;
    }
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 100000000");
    let train = format!("train {flags} --threads 1 --tui --out run");
    let Some(mut window) = scratch.on_a_screen(&train) else {
        return;
    };
    let log = || std::fs::read_to_string(scratch.path("run/events.jsonl")).unwrap_or_default();
    wait_until("it trains", || log().contains("\"step\":10,"));
    window.kill().unwrap();
    window.wait().unwrap();
    wait_until("it stops", || log().contains("\"how\":\"stopped\""));
    // Its lock is free when it is gone.
    let lock = File::open(scratch.path("run/.lock")).unwrap();
    wait_until("it is gone", || lock.try_lock().is_ok());
}
