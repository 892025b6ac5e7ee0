//! `cargo xtask bench ranks`: one process with two threads against two processes with one thread
//! each, the same batch.

use std::path::{Path, PathBuf};
use std::process::Command;

use gradclip_judge::statistics::median;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::Machine;
use super::options::Options;
use super::programs::{answer, build_shears_with_mpi};
use super::statistics::ratio;

/// The file that the measurements are kept in.
pub(super) const FILE: &str = "ranks.json";

/// The presets, and how many steps of each are timed in a round.
const PRESETS: [(&str, usize); 9] = [
    ("rnn-128", 40),
    ("lstm-128", 40),
    ("gru-128", 40),
    ("lstm-512", 8),
    ("gru-512", 8),
    ("gpt-128", 40),
    ("gpt-384", 3),
    ("llama-128", 40),
    ("llama-384", 3),
];

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ranks {
    pub(super) machine: Machine,
    pub(super) mpi: String,
    pub(super) rounds: usize,
    pub(super) presets: Vec<Preset>,
}

/// Milliseconds a step, one number a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Preset {
    pub(super) preset: String,
    /// One process with two threads.
    pub(super) threads: Vec<f64>,
    /// Two processes with one thread each, in shared memory.
    pub(super) ranks: Vec<f64>,
    /// The exchange within those steps.
    pub(super) exchange: Vec<f64>,
    /// Two processes on two hosts that are namespaces of this machine, over TCP; empty where that
    /// cannot be.
    pub(super) hosts: Vec<f64>,
}

/// Measures all presets, in rounds that take turns.
pub(super) fn run(options: &Options) -> Result<(), String> {
    let shears = build_shears_with_mpi()?;
    let mut measured = Ranks {
        machine: Machine::without_pytorch()?,
        mpi: version()?,
        rounds: options.rounds,
        presets: PRESETS.iter().map(|(preset, _)| empty(preset)).collect(),
    };
    let two_hosts = super::root().join("tools/two_hosts.sh");
    let has_hosts = Command::new(&two_hosts).arg("true").output();
    let has_hosts = has_hosts.is_ok_and(|output| output.status.success());
    for round in 1..=options.rounds {
        for ((preset, steps), found) in PRESETS.iter().zip(&mut measured.presets) {
            let arguments = |threads: &str| -> Vec<String> {
                let words = format!("bench --json --preset {preset} --steps {steps}");
                let words = format!("{words} --threads {threads}");
                words.split(' ').map(str::to_string).collect()
            };
            let alone = ask(Command::new(&shears).args(arguments("2")))?;
            found.threads.push(step(&alone)?);
            let mut two = Command::new("mpirun");
            two.args(["-n", "2", "--bind-to", "core"]).arg(&shears);
            let two = ask(two.args(arguments("1")))?;
            found.ranks.push(step(&two)?);
            found
                .exchange
                .push(number(&two["phases"]["exchange"]["median"])?);
            if has_hosts {
                let mut hosts = Command::new(&two_hosts);
                let hosts = ask(hosts.arg(&shears).args(arguments("1")))?;
                found.hosts.push(step(&hosts)?);
            }
            println!("round {round}: {preset} measured");
        }
    }
    println!("{}", table(&measured));
    let text = serde_json::to_string_pretty(&measured).map_err(|error| error.to_string())?;
    super::write(&super::baseline(FILE), &format!("{text}\n"))?;
    println!("`cargo xtask bench report` writes it into docs/parallel.md");
    Ok(())
}

fn empty(preset: &str) -> Preset {
    Preset {
        preset: preset.to_string(),
        threads: Vec::new(),
        ranks: Vec::new(),
        exchange: Vec::new(),
        hosts: Vec::new(),
    }
}

fn version() -> Result<String, String> {
    let output = Command::new("mpirun").arg("--version").output();
    let output = output.map_err(|error| format!("cannot start mpirun: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_string())
}

/// The answer of `shears bench --json`.
fn ask(command: &mut Command) -> Result<Value, String> {
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let program = PathBuf::from(command.get_program());
    let name = || Path::new(&program).display().to_string();
    let output = command
        .output()
        .map_err(|error| format!("cannot start {}: {error}", name()))?;
    match output.status.success() {
        true => answer(&String::from_utf8_lossy(&output.stdout)),
        false => Err(format!(
            "{} failed: {}",
            name(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

fn step(answer: &Value) -> Result<f64, String> {
    number(&answer["ms_per_step"]["median"])
}

fn number(value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| "`shears bench` gave no number".to_string())
}

/// What the documentation has of it.
pub(super) fn table(measured: &Ranks) -> String {
    let mut lines = vec![
        "| preset | 1 process, 2 threads | 2 processes, 1 thread each | of that exchange | \
         efficiency | over TCP |"
            .to_string(),
        "|---|---:|---:|---:|---:|---:|".to_string(),
    ];
    let ms = |values: &[f64]| {
        let middle = median(values.iter().copied());
        middle.map_or("-".to_string(), |ms| format!("{ms:.1} ms"))
    };
    let share = |of: &[f64], preset: &Preset| {
        let quotient = ratio(&preset.threads, of);
        quotient.map_or("-".to_string(), |it| format!("{:.2}", it.median))
    };
    for preset in &measured.presets {
        lines.push(format!(
            "| `{}` | {} | {} | {} | {} | {} |",
            preset.preset,
            ms(&preset.threads),
            ms(&preset.ranks),
            ms(&preset.exchange),
            share(&preset.ranks, preset),
            share(&preset.hosts, preset),
        ));
    }
    let Machine {
        processor,
        cores,
        system,
        ..
    } = &measured.machine;
    format!(
        "{}\n\nMedians of {} rounds; efficiency is the time of one process over that of two, round by \
         round, in shared memory and between two network namespaces. {processor} with {cores} \
         cores, {system}, {}; {}.",
        lines.join("\n"),
        measured.rounds,
        measured.mpi,
        measured.machine.when()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efficiency_is_of_rounds() {
        let preset = Preset {
            threads: vec![10.0, 40.0, 10.0],
            ranks: vec![20.0, 80.0, 20.0],
            exchange: vec![1.0, 4.0, 2.0],
            ..empty("gpt-128")
        };
        let measured = Ranks {
            machine: crate::bench::peers::tests::machine(),
            mpi: "mpirun (Open MPI) 4.1.4".to_string(),
            rounds: 3,
            presets: vec![preset],
        };
        let table = table(&measured);
        let row = "| `gpt-128` | 10.0 ms | 20.0 ms | 2.0 ms | 0.50 | - |";
        assert!(table.contains(row), "{table}");
    }
}
