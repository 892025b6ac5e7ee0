//! `cargo xtask bench`: this system against PyTorch, Burn's own modules and Candle, on this
//! machine.
//!
//! All tasks but `report` write their measurements to `benches/baselines`; `report` measures
//! nothing.

use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;

mod cores;
mod machine;
mod peers;
mod plot;
mod programs;
mod ranks;
mod report;
mod rows;
mod scaling;
mod statistics;

pub(crate) use programs::{build_shears, built_shears};

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Measure the rows of a table of goals
    Peers(peers::Options),
    /// Measure how the time of a training step grows with the size of the work
    Scaling {
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one(),
              help = ROUNDS)]
        rounds: usize,

        #[command(flatten)]
        against: Against,
    },
    /// Measure what two processes lose compared with two threads
    Ranks {
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one(),
              help = ROUNDS)]
        rounds: usize,
    },
    /// Write the tables and plots of the documentation from what was measured
    Report,
}

const ROUNDS: &str = "How often every program runs";

/// The programs to compare with.
#[derive(Args, Debug)]
pub(crate) struct Against {
    /// Threads of every program; `scaling` also tries fewer and more
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one())]
    threads: usize,

    /// A Python that has PyTorch [default: one that is made in target/]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Runs a task.
pub(crate) fn run(task: Task) -> Result<(), String> {
    match task {
        Task::Peers(options) => peers::run(&options),
        Task::Scaling { rounds, against } => scaling::run(rounds, &against),
        Task::Ranks { rounds } => ranks::run(rounds),
        Task::Report => report::run(),
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file of a measurement.
fn baseline(name: &str) -> PathBuf {
    root().join("benches/baselines").join(name)
}

/// Writes a measurement, from which `report` makes the documentation.
fn save(name: &str, measured: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(measured).map_err(|error| error.to_string())?;
    write(&baseline(name), &(text + "\n"))?;
    println!("`cargo xtask bench report` shows it in the documentation");
    Ok(())
}

/// Writes a file and its folder, and prints its path.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let shown = path.strip_prefix(root()).unwrap_or(path);
    println!("wrote {}", shown.display());
    Ok(())
}
