//! `shears`: trains text generators with gradient clipping that can be seen, trusted and tuned.
//!
//! `cargo run --release` is `shears demo`; `--help` lists the rest.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "`println!` panics on a closed pipe"
)]

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
mod table;
mod tensorboard;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use commands::bench::BenchArguments;
use commands::clip::ClipArguments;
use commands::compare::CompareArguments;
use commands::dash::DashArguments;
use commands::demo::DemoArguments;
use commands::eval::EvalArguments;
use commands::export::ExportArguments;
use commands::generate::GenerateArguments;
use commands::inspect::InspectArguments;
use commands::replay::ReplayArguments;
use commands::sweep::SweepArguments;
use commands::train::TrainArguments;

#[global_allocator]
static ALLOCATOR: shears_kernels::Allocator = shears_kernels::Allocator::new(exit::out_of_memory);

/// Train text generators, and see what gradient clipping does to them.
///
/// Shears trains four kinds of model on your own text (vanilla RNN, LSTM, GRU, Transformer), clips
/// their gradients by a policy of your choice, and tells you what the clipping did: how often, how
/// much, to which layers, and whether the threshold is a good one. Without a command it is `shears
/// demo`, which shows that in half a minute.
#[derive(Debug, Parser)]
#[command(name = "shears", version, after_help = EXIT_CODES, after_long_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 misuse, 3 stopped because too many \
steps in a row had non-finite gradients, 130 interrupted (after saving).";

const EXAMPLES: &str = "Examples:
  shears                                        the demo: a network with clipping and without
  shears train                                  train on the text it carries
  shears train book.txt --preset gru-128        train a GRU on a book
  shears train notes/ --tokenizer bpe:2000      a folder, with a trained BPE tokenizer
  shears train book.txt --clip global-norm:1    another clipping threshold
  shears train --resume                         go on with the newest run
  shears generate --prompt 'Once upon'          write with it
  shears inspect runs/lstm-128-20260101-120000  look at an older one

Exit codes:
  0 done   1 failed   2 misuse
  3 stopped because too many steps in a row had non-finite gradients
  130 interrupted; the run was saved and can be resumed";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(DemoArguments),
    Train(Box<TrainArguments>),
    Eval(EvalArguments),
    Generate(GenerateArguments),
    Inspect(InspectArguments),
    Replay(ReplayArguments),
    Dash(DashArguments),
    Compare(CompareArguments),
    Sweep(SweepArguments),
    Export(ExportArguments),
    Clip(ClipArguments),
    Bench(Box<BenchArguments>),
    /// Print a completion script for a shell
    ///
    /// For example: shears completions bash > ~/.local/share/bash-completion/completions/shears
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    output::set_panic_hook();
    let command = std::env::args_os().nth(1);
    if let Some(renamed) = command.and_then(|name| renamed(name.to_str()?)) {
        return exit::report(&exit::Misuse(renamed).into());
    }
    let arguments = Arguments::parse();
    let result = match arguments
        .command
        .unwrap_or(Command::Demo(DemoArguments::default()))
    {
        Command::Demo(arguments) => commands::demo::run(&arguments),
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
    output::code_of_output(result.unwrap_or_else(|error| exit::report(&error)))
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
