//! `shears`: trains text generators with gradient clipping that can be seen, trusted and tuned.
//!
//! `cargo run --release` is `shears demo`; `--help` lists the rest.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "`println!` panics on a closed pipe"
)]

mod command_line;
mod commands;
mod comparison;
mod exit;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../gradclip/tests/fuzzing.rs"]
mod fuzzing;
mod gradient_files;
mod input;
mod leave;
mod loading;
mod memory;
mod model;
mod new_file;
mod output;
mod report;
mod run_log;
mod screen;
mod settings;
mod table;
mod tensorboard;
mod training;
mod watch;
mod world;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use commands::{
    bench, clip, compare, dash, demo, eval, export, generate, inspect, replay, sweep, train,
};

#[global_allocator]
static ALLOCATOR: shears_kernels::Allocator = shears_kernels::Allocator::new(exit::out_of_memory);

/// Train text generators, and see what gradient clipping does to them.
///
/// Shears trains four kinds of model on your own text (vanilla RNN, LSTM, GRU, Transformer), clips
/// their gradients by a policy of your choice, and reports what clipping did: how often, how much,
/// to which layers, and whether the threshold suits the run. Without a command it runs `shears
/// demo`, which shows all of this in half a minute.
#[derive(Debug, Parser)]
#[command(name = "shears", version, after_help = EXIT_CODES, after_long_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 misuse, 3 a run diverged: gradients, \
loss or weights were not finite, 130 interrupted (after saving).";

const EXAMPLES: &str = "Examples:
  shears                                        the demo: a network with clipping and without
  shears train                                  train on the built-in text
  shears train book.txt --preset gru-128        train a GRU on a book
  shears train notes/ --tokenizer bpe:2000      a folder, with a trained BPE tokenizer
  shears train book.txt --clip global-norm:1    another clipping threshold
  shears train --resume                         resume the newest run
  shears generate --prompt 'Once upon'          generate text with it
  shears inspect runs/lstm-128-20260101-120000  report on an older one

Exit codes:
  0 done   1 failed   2 misuse
  3 a run diverged: its gradients, loss or weights were not finite
  130 interrupted; the run was saved and can be resumed";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArguments),
    Train(Box<train::TrainArguments>),
    Eval(eval::EvalArguments),
    Generate(generate::GenerateArguments),
    Inspect(inspect::InspectArguments),
    Replay(replay::ReplayArguments),
    Dash(dash::DashArguments),
    Compare(compare::CompareArguments),
    Sweep(sweep::SweepArguments),
    Export(export::ExportArguments),
    Clip(clip::ClipArguments),
    Bench(Box<bench::BenchArguments>),
    /// Print a completion script for a shell
    ///
    /// The script calls `shears`, which must be on the PATH, to complete commands, flags, presets,
    /// policies and runs. For example: shears completions bash >
    /// ~/.local/share/bash-completion/completions/shears
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    output::set_panic_hook();
    let command = || command_line::prepared(Arguments::command());
    // If a shell asks for completions, this answers and exits.
    CompleteEnv::with_factory(command).complete();
    let parsed = command().try_get_matches().and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or("demo").to_string();
        Ok((name, Arguments::from_arg_matches(&matches)?))
    });
    let (name, Arguments { command }) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return refuse(&error),
    };
    let command = command.unwrap_or(Command::Demo(demo::DemoArguments::default()));
    let trains = ["demo", "train", "sweep", "bench"].contains(&name.as_str());
    exit::TRAINS.store(trains, Ordering::SeqCst);
    let alone = match OF_SEVERAL.contains(&name.as_str()) {
        true => Ok(()),
        false => world::refuse_launcher(&name),
    };
    let result = alone.and_then(|()| run(command));
    output::code_of_output(result.unwrap_or_else(|error| exit::report(&error)))
}

/// Commands that several processes can share, or that decide for themselves whether they can. Under
/// a launcher, every process would repeat any other command.
const OF_SEVERAL: [&str; 4] = ["train", "sweep", "bench", "completions"];

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Train(arguments) => train::run(*arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Dash(arguments) => dash::run(&arguments),
        Command::Bench(arguments) => bench::run(*arguments),
        Command::Clip(arguments) => clip::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Completions { shell } => print_completions(shell),
    }
}

/// Prints the help, the version, or what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        world::refuse_on_all_ranks(|| {
            // The message quotes arguments, whose control characters a terminal would obey.
            exit::report(&exit::Misuse(command_line::problem(error)).into());
        });
        return ExitCode::from(exit::MISUSE);
    }
    // Of several processes only the first prints it.
    if !world::is_later_rank() {
        output::note(error.print());
    }
    output::code_of_output(ExitCode::SUCCESS)
}

/// Prints a script that calls this program for completions.
fn print_completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let completer = shells.completer(&name);
    let completer = completer.with_context(|| format!("no completions for {name}"))?;
    let mut script = Vec::new();
    completer.write_registration("COMPLETE", "shears", "shears", "shears", &mut script)?;
    output::say!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}
