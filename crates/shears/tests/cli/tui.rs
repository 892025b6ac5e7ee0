//! `shears train --tui`: where it is refused, and what becomes of it when its terminal goes. What
//! it draws is tested beside the code that draws.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Scratch, TINY, has};

#[test]
fn it_needs_a_terminal_of_its_own() {
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

/// A window that is closed while its run trains saves and stops it.
#[test]
fn a_run_whose_terminal_goes_ends() {
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
    let program = env!("CARGO_BIN_EXE_shears");
    let train = format!("exec {program} train {flags} --threads 1 --tui --out run");
    let window = Command::new("script")
        .args(["-q", "-c", &train, "/dev/null"])
        .current_dir(scratch.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut window) = window else {
        println!("skipped: this machine has no `script` that gives a terminal");
        return;
    };
    let until = |what: &str, is_so: &mut dyn FnMut() -> bool| {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < Duration::from_mins(5), "{what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let log = || std::fs::read_to_string(scratch.path("run/events.jsonl")).unwrap_or_default();
    let mut keyboard = window.stdin.take().unwrap();
    until("it trains", &mut || {
        // What a terminal says when it is asked where its cursor is.
        let _ = keyboard.write_all(b"\x1b[1;1R").and(keyboard.flush());
        log().contains("\"step\":10,")
    });
    window.kill().unwrap();
    window.wait().unwrap();
    until("it stops", &mut || log().contains("\"how\":\"stopped\""));
    // Its lock is free when it is gone.
    let lock = File::open(scratch.path("run/.lock")).unwrap();
    until("it is gone", &mut || lock.try_lock().is_ok());
}
