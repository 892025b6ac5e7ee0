//! `shears`: trains text generators with gradient clipping that can be seen, trusted and tuned.
//!
//! `cargo run --release` trains on the text that the program carries; `--help` lists the rest.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "`println!` panics on a closed pipe"
)]

mod arguments;
mod chart;
mod commands;
mod exit;
mod figure;
mod gradient_files;
mod model;
mod new_file;
mod output;
mod report;
mod screen;
mod settings;
mod tensorboard;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    output::set_panic_hook();
    let arguments = Arguments::parse();
    let result = match arguments.command.unwrap_or(Command::Train(Box::default())) {
        Command::Train(arguments) => commands::train::run(*arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Generate(arguments) => commands::generate::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Advise(arguments) => commands::advise::run(&arguments),
        Command::Dash(arguments) => commands::dash::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(*arguments),
        Command::Clip(arguments) => commands::clip::run(&arguments),
        Command::Compare(arguments) => commands::compare::run(&arguments),
        Command::Experiment(arguments) => commands::experiment::run(&arguments),
        Command::Replay(arguments) => commands::replay::run(&arguments),
        Command::ExportEvents(arguments) => commands::export_events::run(&arguments),
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
