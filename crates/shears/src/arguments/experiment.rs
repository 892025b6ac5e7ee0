//! `shears experiment`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};
use shears_train::ClipPolicy;

use crate::settings::checked;

/// Reproduce a classic result on gradient clipping
#[derive(Args, Debug)]
pub(crate) struct ExperimentArguments {
    #[command(subcommand)]
    pub(crate) experiment: Experiment,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Experiment {
    TemporalOrder(TemporalOrderArguments),
}

/// How often a vanilla RNN learns the temporal-order task, with and without clipping
///
/// Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks", section 4.1:
/// a sequence of distractors has one of two symbols in its second tenth, and one again in its sixth;
/// at the end the network says which, in their order. 50 tanh units, batches of 20 new sequences,
/// plain gradient descent. A trial is solved when fewer than 1 % of 10,000 new sequences are
/// wrong.
///
/// Trials run side by side, one a thread. Each is written to results.json when it ends: after Ctrl-C
/// the same command goes on with those that are missing.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct TemporalOrderArguments {
    /// A clipping policy; can be given several times [default: none, and global-norm:1]
    #[arg(long = "clip", value_name = "POLICY", value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    /// Lengths of the sequences, at least 10, separated by commas
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [20, 30, 40, 50],
          value_parser = clap::value_parser!(u64).range(10..=100_000))]
    pub(crate) lengths: Vec<u64>,

    /// Trials of each length and policy, with seeds 1, 2, ... N
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,

    /// Updates after which a trial is given up
    #[arg(long, value_name = "N", default_value_t = 250_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) updates: u64,

    /// Learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub(crate) lr: f64,

    /// How the weights begin
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Initialization::BasicTanh)]
    pub(crate) initialization: Initialization,

    /// Folder of the results
    #[arg(long, value_name = "FOLDER", default_value = "temporal-order", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,

    /// Trials at the same time [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// The initialisations of the paper's section 4.1.1 that are for tanh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Initialization {
    /// All weights normal with standard deviation 0.1
    BasicTanh,
    /// 15 recurrent weights a unit, scaled to spectral radius 0.95; the others normal with 0.01
    SmartTanh,
}

const EXAMPLES: &str = "Examples:
  shears experiment temporal-order
  shears experiment temporal-order --initialization smart-tanh --lengths 50,100 --seeds 3 --updates 1000000
  shears experiment temporal-order --clip none --clip global-norm:1 --clip value:0.05";
