//! The command line: every command and flag, with its help.

use clap::{Parser, Subcommand};

use crate::commands::bench::BenchArguments;
use crate::commands::clip::ClipArguments;
use crate::commands::compare::CompareArguments;
use crate::commands::dash::DashArguments;
use crate::commands::eval::EvalArguments;
use crate::commands::export::ExportArguments;
use crate::commands::generate::GenerateArguments;
use crate::commands::inspect::InspectArguments;
use crate::commands::replay::ReplayArguments;
use crate::commands::sweep::SweepArguments;
use crate::commands::train::TrainArguments;

/// Train text generators, and see what gradient clipping does to them.
///
/// Shears trains four kinds of model on your own text (vanilla RNN, LSTM, GRU, Transformer), clips
/// their gradients by a policy of your choice, and tells you what the clipping did: how often, how
/// much, to which layers, and whether the threshold is a good one. Without a command it trains an
/// LSTM on a text that it carries with it, in about a minute.
#[derive(Debug, Parser)]
#[command(name = "shears", version, after_help = EXIT_CODES, after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 misuse, 3 stopped because too many \
steps in a row had non-finite gradients, 130 interrupted (after saving).";

const EXAMPLES: &str = "Examples:
  shears                                        train on the text it carries
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
pub(crate) enum Command {
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
