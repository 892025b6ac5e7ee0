//! The programs that are compared: how they are built or found, started, and asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::rows::{Run, Side};

/// What one program is to measure.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) preset: &'static str,
    pub(super) steps: usize,
    pub(super) threads: usize,
    pub(super) part: Option<&'static str>,
    pub(super) batch: Option<usize>,
    /// More arguments for `shears bench`.
    pub(super) shears: Vec<String>,
    /// The same for `tools/pytorch_reference.py`.
    pub(super) pytorch: Vec<String>,
}

impl Request {
    /// The request of a run of the comparison.
    pub(super) fn of(run: &Run, threads: usize) -> Request {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect();
        let [shears, pytorch] = run.model.unwrap_or_default();
        Request {
            preset: run.preset,
            steps: run.steps,
            threads,
            part: run.part,
            batch: run.batch,
            shears: words(shears),
            pytorch: words(pytorch),
        }
    }

    /// Whether a program can be asked for it at all.
    pub(super) fn concerns(&self, side: Side) -> bool {
        let trains_in_f32 = self.part.is_none() && self.pytorch.is_empty();
        let is_llama = self.preset.starts_with("llama-");
        match side {
            Side::Shears | Side::PyTorch => true,
            // Around PyTorch's fused recurrent layers there is little to compile.
            Side::PyTorchCompiled => trains_in_f32 && (is_llama || self.preset.starts_with("gpt-")),
            // They have no clipping of a whole model, no loop that generates, no bf16 and no Llama
            // here.
            Side::Burn | Side::Candle => trains_in_f32 && !is_llama,
        }
    }
}

/// Everything that can be started.
pub(super) struct Programs {
    pub(super) python: PathBuf,
    release: PathBuf,
    script: PathBuf,
}

impl Programs {
    /// Builds what is ours, and looks for PyTorch or installs it.
    pub(super) fn prepare(python: Option<&Path>, peers: &[Side]) -> Result<Programs, String> {
        let release = release_folder()?;
        build(peers)?;
        let python = match python {
            Some(python) => python.to_path_buf(),
            None => install_pytorch(&release.with_file_name("peers-python"))?,
        };
        Ok(Programs {
            python,
            release,
            script: super::root().join("tools/pytorch_reference.py"),
        })
    }

    /// The line of JSON that a program answers with.
    pub(super) fn ask(&self, side: Side, request: &Request) -> Result<Value, String> {
        let mut command = self.command(side, request);
        answer_of(command.env("RAYON_NUM_THREADS", request.threads.to_string()))
    }

    fn command(&self, side: Side, request: &Request) -> Command {
        let Request { preset, steps, .. } = request;
        let threads = request.threads.to_string();
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| word.to_string()));
        let program = match side {
            Side::Shears | Side::PyTorch | Side::PyTorchCompiled => {
                let (program, count) = match side {
                    Side::Shears => {
                        add(&["bench", "--json"]);
                        (self.release.join("shears"), "--steps")
                    }
                    _ => {
                        add(&[&self.script.to_string_lossy()]);
                        (self.python.clone(), "--bench")
                    }
                };
                add(&["--preset", preset, "--threads", &threads]);
                add(&[count, &steps.to_string()]);
                if let Some(part) = request.part {
                    add(&["--part", part]);
                }
                if let Some(batch) = request.batch {
                    add(&["--batch", &batch.to_string()]);
                }
                if side == Side::PyTorchCompiled {
                    add(&["--compile"]);
                }
                program
            }
            Side::Burn | Side::Candle => {
                // They are slow, and nothing is decided by their last digit.
                let steps = (steps / 4).max(2).to_string();
                add(&[preset, &steps, &request.batch.unwrap_or(0).to_string()]);
                let peers = self.release.with_file_name(PEERS);
                peers.join("examples").join(example(side))
            }
        };
        let mut command = Command::new(program);
        command.args(arguments).args(match side {
            Side::Shears => request.shears.as_slice(),
            Side::PyTorch | Side::PyTorchCompiled => request.pytorch.as_slice(),
            Side::Burn | Side::Candle => &[],
        });
        command
    }
}

/// The profile of cargo that the peers are built with, and the feature of this crate: all of their
/// dependencies optimised, which our own programs have no use for.
const PEERS: &str = "peers";

fn example(side: Side) -> &'static str {
    match side {
        Side::Burn => "stock_burn",
        _ => "candle",
    }
}

/// Builds `shears`, as users do, and says where it is.
pub(crate) fn build_shears() -> Result<PathBuf, String> {
    build(&[])?;
    built_shears()
}

/// The same with MPI.
pub(super) fn build_shears_with_mpi() -> Result<PathBuf, String> {
    let package = ["build", "--release", "--package", "shears"];
    cargo(&[&package[..], &["--features", "mpi"]].concat())?;
    built_shears()
}

/// Where the program is, once it is built.
pub(crate) fn built_shears() -> Result<PathBuf, String> {
    Ok(release_folder()?.join("shears"))
}

/// Where cargo puts what it builds: this program is there too.
fn release_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = program.parent().ok_or("this program is in no folder")?;
    Ok(folder.to_path_buf())
}

fn build(peers: &[Side]) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "shears"])?;
    let crates: Vec<_> = peers
        .iter()
        .filter(|side| matches!(side, Side::Burn | Side::Candle))
        .flat_map(|side| ["--example", example(*side)])
        .collect();
    if crates.is_empty() {
        return Ok(());
    }
    let package = ["build", "--profile", PEERS, "--package", "xtask"];
    cargo(&[&package[..], &["--features", PEERS], &crates].concat())
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    crate::execute(cargo.args(arguments).current_dir(super::root()))
}

/// A Python environment with PyTorch in the given folder, made if it is not there.
fn install_pytorch(folder: &Path) -> Result<PathBuf, String> {
    let python = folder.join("bin/python");
    let has_torch = |python: &Path| {
        let mut check = Command::new(python);
        check.args(["-c", "import torch, numpy"]);
        check.output().is_ok_and(|output| output.status.success())
    };
    if has_torch(&python) {
        return Ok(python);
    }
    println!("installing PyTorch in {}", folder.display());
    let run = |command: &mut Command| {
        let remedy = "`--python PATH` takes any Python that has PyTorch";
        crate::execute(command).map_err(|problem| format!("{problem}; {remedy}"))
    };
    // An interrupted installation leaves a folder that is not an environment.
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| error.to_string())?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "torch", "numpy"]))?;
    Ok(python)
}

/// Runs a program, and returns the JSON that it answers with.
pub(super) fn answer_of(command: &mut Command) -> Result<Value, String> {
    let output = command.env("RUST_BACKTRACE", "0").output();
    let program = command.get_program().display();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    match output.status.success() {
        true => answer(&String::from_utf8_lossy(&output.stdout)),
        false => Err(complaint(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// The last line that a program printed, as JSON.
fn answer(stdout: &str) -> Result<Value, String> {
    let line = stdout.lines().rfind(|line| !line.trim().is_empty());
    let line = line.ok_or("the program printed nothing")?;
    serde_json::from_str(line).map_err(|error| format!("`{line}` is not JSON: {error}"))
}

/// What a program said when it failed: the line that calls itself an error, or the last one.
fn complaint(stderr: &str) -> String {
    let mut lines = stderr.lines();
    let marked = lines.find_map(|line| {
        let after = line.strip_prefix("error: ");
        after.or_else(|| line.strip_prefix("Error: "))
    });
    // PyTorch's compiler writes advice after its exception.
    let raised = || {
        let named = |line: &str| {
            line.split(' ')
                .next()
                .is_some_and(|name| name.ends_with("Error:"))
        };
        stderr.lines().rfind(|line| named(line))
    };
    let last = || stderr.lines().rfind(|line| !line.trim().is_empty());
    let line = marked.or_else(raised).or_else(last);
    line.unwrap_or("the program failed and said nothing")
        .trim()
        .to_string()
}

/// A number in a program's answer.
pub(super) fn number(answer: &Value, pointer: &str) -> Result<f64, String> {
    let value = answer.pointer(pointer).and_then(Value::as_f64);
    value.ok_or_else(|| format!("the answer has no number at {pointer}: {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::RUNS;

    fn words(side: Side, request: &Request) -> Vec<String> {
        let programs = Programs {
            python: "python".into(),
            release: "release".into(),
            script: "reference.py".into(),
        };
        let command = programs.command(side, request);
        let program = [command.get_program()].into_iter();
        let words = program.chain(command.get_args());
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn both_programs_get_the_same_task() {
        let run = RUNS
            .iter()
            .find(|run| run.model.is_some() && run.part.is_some());
        let request = Request::of(run.unwrap(), 2);
        let ours = words(Side::Shears, &request).join(" ");
        assert_eq!(
            ours,
            "release/shears bench --json --preset gpt-384 --threads 2 --steps 6 --part clip \
             --vocabulary 50257 --layers 12 --hidden 768 --heads 12 --window 1024 \
             --tied=false"
        );
        let theirs = words(Side::PyTorch, &request).join(" ");
        assert_eq!(
            theirs,
            "python reference.py --preset gpt-384 --threads 2 --bench 6 --part clip \
             --vocabulary 50257 --layers 12 --hidden 768 --heads 12 --window 1024 --untied"
        );
        assert!(!request.concerns(Side::Candle));
    }

    #[test]
    fn transformers_are_compiled_as_well() {
        let of = |preset: &str| RUNS.iter().find(|run| run.preset == preset).unwrap();
        let request = Request::of(of("gpt-128"), 2);
        assert!(request.concerns(Side::PyTorchCompiled));
        let words = words(Side::PyTorchCompiled, &request).join(" ");
        let expected = "python reference.py --preset gpt-128 --threads 2 --bench 40 --compile";
        assert_eq!(words, expected);
        assert!(!Request::of(of("lstm-128"), 2).concerns(Side::PyTorchCompiled));
        let llama = Request::of(of("llama-128"), 2);
        assert!(llama.concerns(Side::PyTorchCompiled) && !llama.concerns(Side::Burn));
        let mut others = RUNS
            .iter()
            .filter(|run| run.part.is_some() || run.model.is_some());
        assert!(others.all(|run| !Request::of(run, 2).concerns(Side::PyTorchCompiled)));
    }

    #[test]
    fn other_crates_take_fewer_steps() {
        let run = RUNS.iter().find(|run| run.batch.is_some()).unwrap();
        let request = Request::of(run, 2);
        assert!(request.concerns(Side::Burn));
        let burn = words(Side::Burn, &request);
        assert_eq!(burn, ["peers/examples/stock_burn", "gpt-384", "2", "16"]);
    }

    #[test]
    fn an_answer_is_the_last_line() {
        let line = "loading\n{\"ms_per_step\": {\"median\": 1.5}}\n\n";
        let answer = answer(line).unwrap();
        assert_eq!(number(&answer, "/ms_per_step/median"), Ok(1.5));
        let error = number(&answer, "/ms/clip/median").unwrap_err();
        assert!(error.contains("/ms/clip/median"), "{error}");
        assert!(super::answer("").unwrap_err().contains("nothing"));
        assert!(super::answer("oops").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn an_error_message_is_found_in_longer_output() {
        let candle = "warning: slow\nError: candle_nn has no vanilla RNN\n";
        assert_eq!(complaint(candle), "candle_nn has no vanilla RNN");
        let clap = "error: unexpected argument '--part' found\n\nUsage: shears bench\n";
        assert_eq!(complaint(clap), "unexpected argument '--part' found");
        let python = "Traceback (most recent call last):\nRuntimeError: no memory\n";
        assert_eq!(complaint(python), "RuntimeError: no memory");
        let compiler = "Traceback:\n  raise\ntorch.exc.InductorError: no g++\n\nSet VERBOSE=1\n";
        assert_eq!(complaint(compiler), "torch.exc.InductorError: no g++");
        assert!(complaint("").contains("said nothing"));
    }
}
