//! Automation around the code; `cargo xtask help` lists the tasks.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

mod asm;
mod bench;
mod ci;
mod lines;
mod markdown;
mod neon;
mod package;
mod valgrind;

/// Automation around the code of Shears
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Run everything that continuous integration checks
    Ci,
    /// Compare with PyTorch, Burn's own modules and Candle on this machine
    #[command(subcommand)]
    Bench(bench::Task),
    /// Run the kernels' unit tests with every memory access checked
    Valgrind,
    /// Run the kernels' unit tests for ARM on an emulated processor
    Neon,
    /// Test the published crates as they are packaged
    Package,
    /// Check the machine code of the kernels
    Asm {
        /// The program that contains them [default: `shears`, which is built]
        program: Option<PathBuf>,
    },
    /// Count the lines of each crate
    Lines {
        /// An earlier commit to compare with
        before: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Ci => ci::run(),
        Task::Bench(task) => bench::run(task),
        Task::Valgrind => valgrind::run(),
        Task::Neon => neon::run(),
        Task::Package => package::run(),
        Task::Asm { program } => asm::run(program.as_deref()),
        Task::Lines { before } => lines::run(before.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems.lines() {
                eprintln!("xtask: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs a program that has to succeed.
fn execute(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
