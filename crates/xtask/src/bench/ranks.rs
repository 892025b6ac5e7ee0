//! `cargo xtask bench ranks`: one process with two threads against two processes with one thread
//! each, on the same batch.

use std::path::Path;
use std::process::Command;

use gradclip_judge::statistics::median;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{Machine, first_line};
use super::programs::{answer_of, build_shears_with_mpi, number};
use super::statistics::ratio;
use crate::markdown;

/// The file of the measurements.
pub(super) const FILE: &str = "ranks.json";

/// The presets with changed settings, and the timed steps per round. A step of the largest takes
/// seconds; with a quarter of the batch, the exchange weighs four times as much.
const PRESETS: [(&str, usize); 9] = [
    ("rnn-128", 40),
    ("lstm-128", 40),
    ("gru-128", 40),
    ("lstm-512", 8),
    ("gru-512", 8),
    ("gpt-128", 40),
    ("llama-128", 40),
    ("gpt-384 --batch 16", 4),
    ("llama-384 --batch 16", 4),
];

/// The minimum efficiency of two processes, by preset: in shared memory, and over TCP.
const GOALS: [(&str, f64, f64); 2] = [("lstm-512", 0.9, 0.85), ("gpt-384 --batch 16", 0.9, 0.85)];

/// All measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ranks {
    pub(super) machine: Machine,
    pub(super) mpi: String,
    pub(super) rounds: usize,
    pub(super) presets: Vec<Preset>,
}

/// The head of the table.
const HEAD: [&str; 6] = [
    "preset",
    "1 process, 2 threads",
    "2 processes, 1 thread each",
    "exchange, including waiting",
    "efficiency",
    "over TCP",
];

/// Milliseconds per step, one number per round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Preset {
    pub(super) preset: String,
    /// One process with two threads.
    pub(super) threads: Vec<f64>,
    /// Two processes with one thread each, in shared memory.
    pub(super) ranks: Vec<f64>,
    /// The exchange within those steps.
    pub(super) exchange: Vec<f64>,
    /// Two processes in two network namespaces of this machine, over TCP; empty if that is
    /// impossible.
    pub(super) hosts: Vec<f64>,
}

/// Measures all presets, in rounds that take turns.
pub(super) fn run(rounds: usize) -> Result<(), String> {
    let shears = build_shears_with_mpi()?;
    let mut measured = Ranks {
        machine: Machine::without_pytorch()?,
        mpi: first_line(Command::new("mpirun").arg("--version"))?,
        rounds,
        presets: PRESETS.iter().map(|(preset, _)| empty(preset)).collect(),
    };
    let two_hosts = super::root().join("tools/two_hosts.sh");
    let has_hosts = Command::new(&two_hosts).arg("true").output();
    let has_hosts = has_hosts.is_ok_and(|output| output.status.success());
    let mut ways = vec![Way::Threads, Way::Ranks];
    if has_hosts {
        ways.push(Way::Hosts(&two_hosts));
    }
    for round in 1..=rounds {
        for ((preset, steps), found) in PRESETS.iter().zip(&mut measured.presets) {
            for way in &ways {
                found.take(*way, &answer_of(&mut way.command(&shears, preset, *steps))?)?;
            }
            // An interrupted measurement has shown something.
            println!("round {round}: {}", found.cells().join(" | "));
        }
        // The order changes, so that none always runs after the slowest.
        ways.rotate_left(1);
    }
    for preset in &measured.presets {
        preset.judge().iter().for_each(|line| println!("{line}"));
    }
    println!("{}", table(&measured));
    super::save(FILE, &measured)
}

/// How a preset is trained.
#[derive(Clone, Copy)]
enum Way<'a> {
    Threads,
    Ranks,
    /// With the script that makes two hosts of this machine.
    Hosts(&'a Path),
}

impl Way<'_> {
    fn command(self, shears: &Path, preset: &str, steps: usize) -> Command {
        let (mut command, threads) = match self {
            Way::Threads => (Command::new(shears), 2),
            Way::Ranks => {
                let mut command = Command::new("mpirun");
                command.args(["-n", "2", "--bind-to", "core"]).arg(shears);
                (command, 1)
            }
            Way::Hosts(script) => {
                let mut command = Command::new(script);
                command.arg(shears);
                (command, 1)
            }
        };
        let words = format!("bench --json --steps {steps} --threads {threads} --preset {preset}");
        command.args(words.split(' '));
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
        command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command
    }
}

impl Preset {
    /// Takes the answer of a program.
    fn take(&mut self, way: Way<'_>, answer: &Value) -> Result<(), String> {
        let step = number(answer, "/ms_per_step/median")?;
        match way {
            Way::Threads => self.threads.push(step),
            Way::Hosts(_) => self.hosts.push(step),
            Way::Ranks => {
                self.ranks.push(step);
                let exchange = number(answer, "/phases/exchange/median")?;
                self.exchange.push(exchange);
            }
        }
        Ok(())
    }

    /// Its cells under [`HEAD`].
    fn cells(&self) -> [String; HEAD.len()] {
        let ms = |values: &[f64]| {
            let middle = median(values.iter().copied());
            middle.map_or("-".to_string(), |ms| format!("{ms:.1} ms"))
        };
        let share = |of: &[f64]| {
            let quotient = ratio(&self.threads, of);
            quotient.map_or("-".to_string(), |it| {
                format!("{:.2} ({:.2} to {:.2})", it.median, it.min, it.max)
            })
        };
        [
            format!("`{}`", self.preset),
            ms(&self.threads),
            ms(&self.ranks),
            ms(&self.exchange),
            share(&self.ranks),
            share(&self.hosts),
        ]
    }

    /// Whether the goals of the preset are reached.
    fn judge(&self) -> Vec<String> {
        let goals = GOALS.iter().filter(|(preset, ..)| *preset == self.preset);
        let ways = goals.flat_map(|(_, memory, tcp)| {
            [
                ("in shared memory", &self.ranks, memory),
                ("over TCP", &self.hosts, tcp),
            ]
        });
        let lines = ways.map(|(way, times, goal)| {
            let found = ratio(&self.threads, times).map(|found| found.median);
            let verdict = match found {
                Some(found) if found >= *goal => "reached",
                Some(_) => "not reached",
                None => "not measured",
            };
            let found = found.map_or("-".to_string(), |found| format!("{found:.2}"));
            format!(
                "{} {way}: efficiency {found}, goal {goal}: {verdict}",
                self.preset
            )
        });
        lines.collect()
    }
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

/// The table in the documentation.
pub(super) fn table(measured: &Ranks) -> String {
    let rows = measured.presets.iter().map(Preset::cells);
    let table = markdown::table(HEAD, "|---|---:|---:|---:|---:|---:|", rows);
    let Machine {
        processor,
        cores,
        system,
        ..
    } = &measured.machine;
    format!(
        "{table}\n\nMedians of {} rounds; efficiency is the time of one process over that of two, round \
         by round, in shared memory and between two network namespaces. {processor} with {cores} \
         cores, {system}, {}; {}.",
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
        let row = "| `gpt-128` | 10.0 ms | 20.0 ms | 2.0 ms | 0.50 (0.50 to 0.50) | - |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn all_programs_get_the_same_task_and_are_compared() {
        let script = Path::new("two_hosts.sh");
        let words = |way: Way<'_>| {
            let command = way.command(Path::new("shears"), "gpt-384 --batch 16", 4);
            let arguments = command
                .get_args()
                .map(|word| word.to_string_lossy().into_owned());
            arguments.collect::<Vec<_>>().join(" ")
        };
        let bench = |threads| {
            format!("bench --json --steps 4 --threads {threads} --preset gpt-384 --batch 16")
        };
        assert_eq!(words(Way::Threads), bench(2));
        let bound = format!("-n 2 --bind-to core shears {}", bench(1));
        assert_eq!(words(Way::Ranks), bound);
        assert_eq!(words(Way::Hosts(script)), format!("shears {}", bench(1)));

        let mut preset = empty("gpt-384 --batch 16");
        let answer = |ms: f64| {
            serde_json::json!({
                "ms_per_step": {"median": ms},
                "phases": {"exchange": {"median": 5.0}},
            })
        };
        preset.take(Way::Threads, &answer(90.0)).unwrap();
        preset.take(Way::Ranks, &answer(101.0)).unwrap();
        let lines = preset.judge();
        assert!(
            lines[0].ends_with("0.89, goal 0.9: not reached"),
            "{lines:?}"
        );
        assert!(lines[1].ends_with("over TCP: efficiency -, goal 0.85: not measured"));
        preset.take(Way::Hosts(script), &answer(100.0)).unwrap();
        assert!(preset.judge()[1].ends_with("0.90, goal 0.85: reached"));
        assert!(empty("rnn-128").judge().is_empty());
    }
}
