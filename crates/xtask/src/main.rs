//! Automation: `cargo xtask ci` runs all checks, `bench` compares with peers, `valgrind` checks
//! memory accesses, `neon` tests the kernels for ARM, `asm` checks the machine code of the kernels,
//! `package` tests the published crates, `lines` counts lines.

use std::path::Path;
use std::process::{Command, ExitCode};

mod asm;
mod bench;
mod ci;
mod lines;
mod markdown;
mod neon;
mod package;
mod valgrind;

const USAGE: &str = "usage: cargo xtask ci
       cargo xtask bench peers|scaling [OPTION]...
       cargo xtask bench report
       cargo xtask valgrind
       cargo xtask neon
       cargo xtask package
       cargo xtask asm [PROGRAM]
       cargo xtask lines [BEFORE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let task = arguments.first().map_or("", String::as_str);
    let done = match task {
        "ci" => ci::run(),
        "valgrind" => valgrind::run(),
        "neon" => neon::run(),
        "package" => package::run(),
        "asm" => asm::run(arguments.get(1).map(Path::new)),
        "lines" => lines::run(arguments.get(1).map(String::as_str)),
        "bench" => match bench::options(&arguments[1..]) {
            Ok((task, options)) => bench::run(&task, &options),
            Err(usage) => return misuse(&usage),
        },
        _ => return misuse(USAGE),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems.lines() {
                eprintln!("xtask {task}: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn misuse(usage: &str) -> ExitCode {
    eprintln!("{usage}");
    ExitCode::from(2)
}

/// Runs a program that has to succeed.
fn execute(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
