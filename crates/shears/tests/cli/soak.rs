//! A soak test: a run with its page, many slow readers and TensorBoard files, sometimes on a
//! screen, killed and resumed at random. At the end its bits are those of an undisturbed run, and
//! no process has grown.
//!
//! `SHEARS_SOAK_MINUTES=60 cargo test --release -p shears --test cli soak -- --ignored --nocapture`

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::program::{Scratch, send, wait_until};

const READERS: u64 = 200;
const TRAIN: &str = "--hidden 64 --layers 2 --batch 8 --window 16 --eval-every 97 --save-every 40 \
                     --sample-every 150";
const PATHS: &str = "live?run=run series?run=run runs maps?run=run&points=200 run?run=run";

/// A Weyl sequence that all threads share.
fn random(state: &AtomicU64, bound: u64) -> u64 {
    (state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 33) % bound
}

/// Resident megabytes of a process.
fn memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let (_, rest) = status.split_once("VmRSS:")?;
    let kilobytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1000)
}

/// Killed at the end of the test.
struct Page(Child);

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page's server, and where it listens.
fn page(scratch: &Scratch) -> (Page, String) {
    let mut page = scratch.command(["dash", "runs", "--port", "0"]);
    let mut page = page.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(page.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address = line.split("//").nth(1).unwrap();
    (
        Page(page),
        address.trim_end_matches(['/', '\n']).to_string(),
    )
}

/// Requests a path, reads slowly, and disconnects.
fn read_slowly(address: &str, state: &AtomicU64) -> Option<()> {
    let mut stream = TcpStream::connect(address).ok()?;
    let path = PATHS.split(' ').nth(random(state, 5) as usize)?;
    write!(
        stream,
        "GET /api/{path} HTTP/1.1\r\nHost: {address}\r\n\r\n"
    )
    .ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    for _ in 0..random(state, 40) {
        let _ = stream.read(&mut [0; 64]);
        sleep(Duration::from_millis(50));
    }
    Some(())
}

/// The only child of a process.
fn started_by(parent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Starts training, on a screen if asked; also returns its process number.
fn start(scratch: &Scratch, screen: bool) -> (Child, u32) {
    let (arguments, shown) = match scratch.path("runs/run/plan.toml").exists() {
        true => (String::from("train --resume runs/run"), screen),
        false => (
            format!("train {TRAIN} --steps 100000000 --out runs/run"),
            false,
        ),
    };
    let flag = if shown { "--tui" } else { "--quiet" };
    let arguments = format!("{arguments} --tensorboard --threads 1 {flag}");
    if shown && let Some(window) = scratch.on_a_screen(&arguments) {
        wait_until("it starts", || started_by(window.id()).is_some());
        let process = started_by(window.id()).unwrap();
        return (window, process);
    }
    let mut command = scratch.command(arguments.split(' '));
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    let process = child.id();
    (child, process)
}

/// Trains until `end`, killed again and again; returns the megabytes before each kill.
fn train_and_kill(scratch: &Scratch, end: Instant, state: &AtomicU64) -> Vec<u64> {
    let has_screen = Command::new("script").arg("--version").output().is_ok();
    let mut taken = Vec::new();
    while Instant::now() < end {
        let (mut child, process) = start(scratch, has_screen && random(state, 4) == 0);
        sleep(Duration::from_millis(500 + random(state, 8000)));
        taken.extend(memory(process));
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        send(process, "-KILL");
        child.wait().unwrap();
    }
    taken
}

/// The median speed of a run's steps, in tokens per second.
fn speed(scratch: &Scratch, run: &str) -> f64 {
    let log = fs::read_to_string(scratch.path(format!("{run}/events.jsonl"))).unwrap();
    let speeds = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("\"tokens_per_second\":")?;
        rest.split([',', '}']).next()?.parse().ok()
    });
    let mut speeds: Vec<f64> = speeds.collect();
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}

#[test]
#[ignore = "takes as many minutes as SHEARS_SOAK_MINUTES (2) says, and as long again"]
fn a_watched_and_killed_run_has_the_bits_of_an_undisturbed_one() {
    let minutes = std::env::var("SHEARS_SOAK_MINUTES").unwrap_or_else(|_| "2".to_string());
    let soak = Duration::from_secs_f64(60.0 * minutes.parse::<f64>().unwrap());
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("runs")).unwrap();
    let (mut page, address) = page(&scratch);

    let state = Arc::new(AtomicU64::new(7));
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (address, state) = (address.clone(), state.clone());
            let (over, asked) = (over.clone(), asked.clone());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let read = read_slowly(&address, &state);
                    asked.fetch_add(u64::from(read.is_some()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let started = Instant::now();
    let mut taken = train_and_kill(&scratch, started + soak / 4, &state);
    let page_early = memory(page.0.id()).unwrap();
    let early = taken.iter().copied().max().unwrap();
    taken.extend(train_and_kill(&scratch, started + soak, &state));
    let (page_late, late) = (
        memory(page.0.id()).unwrap(),
        taken.iter().copied().max().unwrap(),
    );
    over.store(true, Ordering::Relaxed);
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
    assert_eq!(page.0.try_wait().unwrap(), None, "the page has ended");
    drop(page);

    let newest = scratch.checkpoints("runs/run").pop().unwrap();
    // The log is at most one save ahead.
    let steps = newest["step-".len()..].parse::<u64>().unwrap() + 50;
    let resume = "train --resume runs/run --quiet --tensorboard --threads 1 --steps";
    scratch.run(&format!("{resume} {steps}")).succeeded();
    scratch
        .run(&format!(
            "train {TRAIN} --tensorboard --quiet --threads 1 --steps {steps} --out runs/alone"
        ))
        .succeeded();
    for file in ["model", "optimizer", "carried"].map(|name| format!("{name}.safetensors")) {
        let same = scratch.newest("runs/run", &file) == scratch.newest("runs/alone", &file);
        assert!(same, "{file}");
    }
    println!(
        "{steps} steps, {} kills, {} requests; megabytes of training {early} early, {late} at \
         most; of the page {page_early} and {page_late}; tokens per second {:.0}, left alone {:.0}",
        taken.len(),
        asked.load(Ordering::Relaxed),
        speed(&scratch, "runs/run"),
        speed(&scratch, "runs/alone")
    );
    // A trainer that resumes reads its log into columns, some 100 bytes for each step, and so does
    // the page, into memory that grows by doubling.
    let of_steps = steps * 150 / 1_000_000;
    assert!(
        late <= early + early / 4 + 10 + of_steps,
        "training grew from {early} to {late} MB"
    );
    assert!(
        page_late <= page_early + page_early / 4 + 10 + 2 * of_steps,
        "the page grew from {page_early} to {page_late} MB"
    );
}
