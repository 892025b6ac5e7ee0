//! `shears`: trains text generators with gradient clipping that can be seen, trusted and tuned.
//!
//! `cargo run --release` trains on the text that the program carries; `--help` lists the rest.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "`println!` panics on a closed pipe"
)]

mod arguments;
mod commands;
mod comparison;
mod exit;
mod gradient_files;
mod model;
mod new_file;
mod output;
mod report;
mod run_log;
mod screen;
mod settings;
mod tensorboard;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    output::set_panic_hook();
    if let Some(renamed) = std::env::args().nth(1).and_then(|name| renamed(&name)) {
        return exit::report(&exit::Misuse(renamed).into());
    }
    let arguments = Arguments::parse();
    let result = match arguments.command.unwrap_or(Command::Train(Box::default())) {
        Command::Train(arguments) => commands::train::run(*arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Generate(arguments) => commands::generate::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Dash(arguments) => commands::dash::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(*arguments),
        Command::Clip(arguments) => commands::clip::run(&arguments),
        Command::Compare(arguments) => commands::compare::run(&arguments),
        Command::Sweep(arguments) => commands::sweep::run(&arguments),
        Command::Replay(arguments) => commands::replay::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "shears", &mut script);
            output::say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| exit::report(&error))
}

/// What is said to somebody who uses a command by the name that it had before.
fn renamed(name: &str) -> Option<String> {
    let now = match name {
        "advise" => "part of `shears inspect RUN`",
        "experiment" => {
            "`cargo run --release -p shears-train --example temporal-order`, in a clone"
        }
        "export-events" => "`shears export RUN`",
        _ => return None,
    };
    Some(format!("`{name}` is now {now}"))
}
