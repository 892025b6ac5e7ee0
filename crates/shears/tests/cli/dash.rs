//! `shears dash` with real runs, and a browser that watches one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::chromium::Chromium;
use crate::program::{Scratch, TINY, TINY_TRANSFORMER, has};

/// The page's server while it runs.
struct Page {
    server: Child,
    /// `127.0.0.1:PORT`
    address: String,
    _output: BufReader<ChildStdout>,
}

impl Page {
    fn of(scratch: &Scratch, folder: &str) -> Page {
        let mut command = scratch.command(["dash", folder, "--port", "0"]);
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line
            .trim_end()
            .trim_end_matches('/')
            .rsplit_once("http://")
            .map(|(_, it)| it);
        Page {
            address: address.expect(&line).to_string(),
            server,
            _output: output,
        }
    }

    /// The JSON that is at a path.
    fn ask(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The system refuses threads from the first request on.
#[cfg(target_os = "linux")]
#[test]
fn a_page_without_further_threads_answers() {
    use std::process::Command;
    use std::time::Duration;
    use std::{fs, thread};
    let scratch = Scratch::trained();
    let page = Page::of(&scratch, ".");
    let process = page.server.id().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "trace.txt", "-e", "trace=clone,clone3"]);
    strace.args(["-e", "inject=clone,clone3:error=EAGAIN", "-p", &process]);
    strace.current_dir(scratch.path("")).stderr(Stdio::null());
    let skipped = || println!("skipped: there is no strace that may look");
    let Ok(mut strace) = strace.spawn() else {
        return skipped();
    };
    let is_watched = || {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut threads = threads.map(|thread| thread.unwrap().path().join("status"));
        let is_traced = |status: String| !status.contains("TracerPid:\t0\n");
        threads.all(|status| fs::read_to_string(status).is_ok_and(is_traced))
    };
    while !is_watched() {
        if strace.try_wait().unwrap().is_some() {
            return skipped();
        }
        thread::sleep(Duration::from_millis(5));
    }
    for path in ["runs", "run?run=run", "batch?run=run&step=3", "runs"] {
        page.ask(&format!("/api/{path}"));
    }
    drop(page);
    strace.wait().unwrap();
}

#[test]
fn the_page_knows_presets_and_the_text_of_a_batch() {
    let scratch = Scratch::new();
    let numbers: Vec<String> = (1000..1600).map(|number| number.to_string()).collect();
    let text = numbers.join(" ");
    scratch.write("numbers.txt", &text);
    let settings = "--preset gru-128 --clip global-norm:0.25 --out runs/one";
    scratch
        .run(&format!("train numbers.txt {TINY} {settings}"))
        .succeeded();
    let page = Page::of(&scratch, "runs");

    let run = page.ask("/api/run?run=one");
    assert_eq!(run["preset_known"], true, "{run}");
    assert!(
        run["judgement"]["verdict"]["numbers"]
            .as_str()
            .unwrap()
            .contains("of 40 steps"),
        "{run}"
    );
    let settings = run["settings"].as_array().unwrap();
    let differing = settings
        .iter()
        .filter(|setting| !setting["preset"].is_null());
    let differing: Vec<&str> = differing
        .map(|setting| setting["name"].as_str().unwrap())
        .collect();
    for name in ["clip", "hidden", "steps"] {
        assert!(differing.contains(&name), "{differing:?}");
    }
    assert!(!differing.contains(&"model"), "{differing:?}");

    // Windows of 8 characters in streams: the second step continues where the first ended.
    let rows = |step: u64| -> Vec<String> {
        let batch = page.ask(&format!("/api/batch?run=one&step={step}"));
        assert_eq!(batch["problem"], Value::Null);
        let rows = batch["rows"].as_array().unwrap();
        rows.iter()
            .map(|row| row.as_str().unwrap().to_string())
            .collect()
    };
    let (first, second) = (rows(1), rows(2));
    assert_eq!(first.len(), 4);
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first.chars().count(), 8);
        let both = format!("{first}{second}");
        assert!(text.contains(&both), "{both:?}");
    }
    for step in [0, 41, u64::MAX] {
        let batch = page.ask(&format!("/api/batch?run=one&step={step}"));
        assert_eq!(batch["rows"].as_array().unwrap().len(), 0);
        let problem = batch["problem"].as_str().unwrap();
        has(&problem, "its steps are 1 to 40");
    }
}

/// A plan from elsewhere may contain anything; what is shown of it is bounded.
#[test]
fn a_plan_of_a_quintillion_micro_batches_is_refused_quickly() {
    let scratch = Scratch::new();
    scratch
        .run(&format!("train {TINY} --out runs/one"))
        .succeeded();
    let plan = scratch.path("runs/one/plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    let foreign = text.replace("accumulate = 1\n", "accumulate = 1000000000000000000\n");
    assert_ne!(text, foreign);
    std::fs::write(&plan, foreign).unwrap();
    let batch = Page::of(&scratch, "runs").ask("/api/batch?run=one&step=2");
    let rows = batch["rows"].as_array().unwrap();
    assert!(rows.len() == 256 || !batch["problem"].is_null(), "{batch}");
}

/// All rows of the batch would take 80 GB.
#[test]
fn of_a_huge_batch_only_the_rows_that_are_shown_are_read() {
    let scratch = Scratch::new();
    scratch.write("text.txt", "some words and more of them. ".repeat(5000));
    scratch.train(format!("text.txt {TINY_TRANSFORMER}"), "runs/one");
    let plan = scratch.path("runs/one/plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    let line = |name: &str| {
        let mut lines = text.lines();
        lines.find(|line| line.starts_with(name)).unwrap()
    };
    let foreign = text.replace(line("batch = "), "batch = 1000000");
    let foreign = foreign.replace(line("window = "), "window = 10000");
    std::fs::write(&plan, foreign).unwrap();
    let batch = Page::of(&scratch, "runs").ask("/api/batch?run=one&step=2");
    assert_eq!(batch["problem"], Value::Null);
    let rows = batch["rows"].as_array().unwrap();
    assert_eq!(rows.len(), (1 << 20) / 10_000);
    assert!(rows.iter().all(|row| row.as_str().unwrap().len() == 10_000));
}

#[test]
fn a_single_run_is_opened_by_its_own_page() {
    let scratch = Scratch::trained();
    for (folder, what, end) in [
        ("run", "the run run is at http://127.0.0.1:", "/#/run/."),
        (".", "the runs in . are at http://127.0.0.1:", "/"),
    ] {
        let mut command = scratch.command(["dash", folder, "--port", "0"]);
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(server.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(
            line.starts_with(what) && line.trim_end().ends_with(end),
            "{line}"
        );
    }
    // It is the run that the page calls by that name.
    let page = Page::of(&scratch, ".");
    assert_eq!(page.ask("/api/runs")["runs"][0]["name"], "run");
}

#[test]
fn the_address_of_all_addresses_can_be_opened() {
    let scratch = Scratch::trained();
    let mut command = scratch.command(["dash", "run", "--port", "0", "--host", "0.0.0.0"]);
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let [first, second] = [lines.next(), lines.next()].map(|line| line.unwrap().unwrap());
    server.kill().unwrap();
    server.wait().unwrap();
    has(&first, "the run run is at http://127.0.0.1: & /?token=");
    has(&second, "listening on all addresses (0.0.0.0)");
}

#[test]
fn a_folder_that_is_not_there_is_misuse() {
    let output = Scratch::new().run("dash none --port 0");
    output.failed(2);
}

/// A run that really trains, one that has ended, and no error on the console.
#[test]
fn a_browser_watches_a_real_run() {
    let Some(mut browser) = Chromium::start() else {
        return;
    };
    let scratch = Scratch::new();
    let long = TINY.replace("--steps 40", "--steps 1000000");
    let train = |settings: &str, out: &str| {
        format!("train {settings} --clip global-norm:0.1 --out runs/{out}")
    };
    scratch.run(&train(TINY, "other")).succeeded();
    let growing = scratch.start(&train(&long, "growing"), "runs/growing", 5);
    let page = Page::of(&scratch, "runs");
    browser.open(&format!("http://{}/", page.address));
    browser.until("document.querySelectorAll('tr[data-run]').length === 2");
    browser.see_state("growing", "running");
    browser.see_state("other", "finished");
    browser.see_a_point_arrive("growing");
    browser.switch_to_log_scale();

    // A step, with the text that was in its batch.
    browser.value("location.hash = '#/run/other/step/20'");
    browser.until("document.getElementById('page').dataset.step === '20'");
    browser.until("document.querySelectorAll('.batch li').length === 4");

    browser.compare("growing", "other");

    growing.terminate();
    browser.value("location.hash = '#/'");
    browser.see_state("growing", "stopped");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}
