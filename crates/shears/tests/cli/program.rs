//! Runs the program, and reads its results.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A tiny LSTM on a short text: what most tests train.
pub(crate) const TINY: &str =
    "--hidden 16 --layers 1 --batch 4 --window 8 --steps 40 --eval-every 20 --save-every 10";

/// A tiny Transformer.
pub(crate) const TINY_TRANSFORMER: &str = "--model transformer --heads 2 --hidden 16 --layers 1 \
     --batch 4 --window 16 --steps 40 --eval-every 20 --save-every 10";

/// The same with Llama's block, and no default values.
pub(crate) const LLAMA: &str = "--norm rms --position rope --mlp swiglu --bias=false --kv-heads 1 \
     --inner 20 --norm-epsilon 0.001 --rope-theta 500";

/// The rows of a table written as text, with `|` between cells.
pub(crate) fn rows<const N: usize>(table: &str) -> impl Iterator<Item = [&str; N]> {
    table.lines().map(|row| {
        let cells: Vec<&str> = row.splitn(N, '|').map(str::trim).collect();
        cells.try_into().unwrap_or_else(|_| panic!("{row}"))
    })
}

/// Asserts that the text contains all `parts`, which ` & ` separates.
#[track_caller]
pub(crate) fn has(text: &(impl AsRef<str> + ?Sized), parts: &str) {
    let text = text.as_ref();
    for part in parts.split(" & ") {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// The result of a run of the program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// The signal that ended it; none on Windows.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Invalid UTF-8 is replaced.
impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran {
            code: output.status.code(),
            signal: signal_of(output.status),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

impl Ran {
    /// Asserts that the program neither panicked nor was ended by a signal that says it is broken:
    /// whatever a test accepts, never that.
    #[track_caller]
    pub(crate) fn checked(self) -> Self {
        for panic in ["panicked", "internal error"] {
            assert!(!self.stderr.contains(panic), "{self:#?}");
        }
        // SIGILL, SIGABRT, SIGBUS (Linux, macOS), SIGFPE, SIGSEGV.
        let is_broken = matches!(self.signal, Some(4 | 6 | 7 | 10 | 8 | 11));
        assert!(!is_broken, "{self:#?}");
        self
    }

    /// Standard output of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The one line of standard error of a run that must have ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.starts_with("shears: "), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        self.stderr.trim_end().to_string()
    }

    /// Standard output of a run that must have succeeded, one JSON value a line.
    #[track_caller]
    pub(crate) fn json(self) -> Vec<Value> {
        let lines = self.succeeded();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// A folder in which the program runs, removed at the end of the test.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    /// With a finished run of forty steps, in `run`.
    pub(crate) fn trained() -> Self {
        let scratch = Scratch::new();
        scratch.train(TINY, "run");
        scratch
    }

    /// With a run of a tiny Transformer, exported to `hf` for `transformers`.
    pub(crate) fn exported(flags: impl Display, how: &str) -> Self {
        let scratch = Scratch::new();
        scratch.train(format!("{TINY_TRANSFORMER} {flags}"), "run");
        let export = format!("export run --format huggingface --out hf {how}");
        scratch.run(&export).succeeded();
        scratch
    }

    /// Trains quietly into the folder `out`.
    #[track_caller]
    pub(crate) fn train(&self, flags: impl Display, out: &str) {
        let train = format!("train {flags} --quiet --out {out}");
        self.run(&train).succeeded();
    }

    /// Asserts that the program ends with `code` and one line that has all `parts`, and writes no
    /// file.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, arguments: &str, parts: &str) {
        let before = self.listing();
        let ran = self.run(arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(code), ""),
            "{arguments}: {ran:#?}"
        );
        has(&ran.stderr, parts);
        ran.failed(code);
        assert_eq!(self.listing(), before, "{arguments} wrote something");
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn read_json(&self, name: impl AsRef<Path>) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    /// Runs the program with arguments that have no spaces in them.
    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.run_with(arguments.split_whitespace(), b"")
    }

    /// Runs the program with any arguments and this on its standard input.
    pub(crate) fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Ran {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that refuses its arguments closes its input without reading it.
        let _ = child.stdin.take().unwrap().write_all(input);
        finished(child)
    }

    /// Runs the program with a closed reader of its standard output.
    pub(crate) fn run_unread(&self, arguments: &str) -> Ran {
        let mut command = self.command(arguments.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        finished(child)
    }

    /// Starts the program and waits until the run in `out` has `lines` events.
    pub(crate) fn start(&self, arguments: &str, out: &str, lines: usize) -> Running {
        let events = self.path(out).join("events.jsonl");
        let count = || fs::read(&events).map_or(0, |b| b.iter().filter(|b| **b == b'\n').count());
        self.start_and_wait(arguments, || count() >= lines)
    }

    /// Starts the program and waits until `so_far`.
    pub(crate) fn start_and_wait(&self, arguments: &str, so_far: impl Fn() -> bool) -> Running {
        let mut command = self.command(arguments.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running(Some(command.spawn().unwrap()));
        let given_up = Instant::now() + Duration::from_secs(60);
        while !so_far() {
            if running.0.as_mut().unwrap().try_wait().unwrap().is_some() {
                panic!("it ended too early: {:#?}", running.wait());
            }
            assert!(
                Instant::now() < given_up,
                "it did not come so far in a minute"
            );
            sleep(Duration::from_millis(1));
        }
        running
    }

    /// Starts the program on a terminal of its own; where that is impossible, says that the test
    /// is skipped.
    pub(crate) fn on_a_screen(&self, arguments: &str) -> Option<Child> {
        let program = env!("CARGO_BIN_EXE_shears");
        let line = format!("stty rows 30 cols 100; exec {program} {arguments}");
        let mut script = Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm");
        script.current_dir(self.0.path()).env_remove("CARGO");
        script
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let Ok(mut window) = script.spawn() else {
            println!("skipped: this machine has no `script` that gives a terminal");
            return None;
        };
        // The answer of a terminal to the query for its cursor.
        let keyboard = window.stdin.as_mut().unwrap();
        keyboard.write_all(b"\x1b[1;1R").unwrap();
        Some(window)
    }

    /// Makes a named pipe; where that is impossible, says that the test is skipped.
    pub(crate) fn named_pipe(&self, name: &str) -> bool {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        let made = Command::new("mkfifo").arg(path).status();
        let made = made.is_ok_and(|status| status.success());
        if !made {
            println!("skipped: there is no mkfifo");
        }
        made
    }

    /// The program in the folder, not yet started.
    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shears"));
        command.args(arguments).current_dir(self.0.path());
        // Cargo sets this for tests, and the program would react to it.
        command.env_remove("CARGO");
        command
    }

    /// The names of a run's checkpoints, oldest first.
    pub(crate) fn checkpoints(&self, run: &str) -> Vec<String> {
        let folder = self.path(run).join("checkpoints");
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("step-"))
            .collect();
        names.sort();
        names
    }

    /// A file of a run's newest checkpoint.
    pub(crate) fn newest(&self, run: &str, file: &str) -> Vec<u8> {
        let newest = self.checkpoints(run).pop().unwrap();
        fs::read(self.path(run).join("checkpoints").join(newest).join(file)).unwrap()
    }

    /// The events of a run.
    pub(crate) fn events(&self, run: &str) -> Vec<Value> {
        let text = self.read(Path::new(run).join("events.jsonl"));
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        events.collect()
    }

    /// The plan of a run.
    pub(crate) fn plan(&self, run: &str) -> toml::Table {
        self.read(Path::new(run).join("plan.toml")).parse().unwrap()
    }

    /// Everything in the folder, by path.
    pub(crate) fn listing(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// The running program, killed when a test fails.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(self) -> Ran {
        self.end_by("-TERM")
    }

    /// Sends a signal such as `-INT`, and waits until it has ended.
    pub(crate) fn end_by(self, signal: &str) -> Ran {
        self.send(signal);
        self.wait()
    }

    fn wait(mut self) -> Ran {
        finished(self.0.take().unwrap())
    }

    /// Sends a signal.
    pub(crate) fn send(&self, signal: &str) {
        send(self.0.as_ref().unwrap().id(), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal such as `-KILL` to a process.
pub(crate) fn send(process: u32, signal: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.args([signal, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits for something that takes less than a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let given_up = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < given_up, "{what}: not in a minute");
        sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn finished(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert!(std::str::from_utf8(text).is_ok(), "{output:?}");
    }
    Ran::from(output).checked()
}

#[cfg(unix)]
#[test]
#[should_panic(expected = "signal: Some(\n        6,\n    )")]
fn an_aborted_program_fails_its_test() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -ABRT $$"]);
    finished(shell.stdout(Stdio::piped()).spawn().unwrap());
}
