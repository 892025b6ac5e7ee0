//! `shears compare`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shears_data::TokenizerKind;
use shears_train::{ClipPolicy, Preset};

use crate::settings::checked;

/// Train the same model under several clipping policies, and draw what they did
///
/// Every combination of policy, learning rate and seed is an ordinary run in the folder of the
/// comparison: with the same seed, from the same initial weights and over the same batches. Ctrl-C
/// saves and leaves; the same command goes on where it stopped, and runs that are there already are
/// not trained again. At the end it writes report.html (one file, nothing loaded from elsewhere), its
/// pictures as SVG and all numbers as report.json, and says what it recommends and how sure that is.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompareArguments {
    /// Text files or folders; without any, the text that the program carries
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) text: Vec<PathBuf>,

    /// A clipping policy to compare; can be given several times [default: none, and the preset's]
    #[arg(long = "clip", value_name = "POLICY", value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    /// Learning rates, separated by commas [default: the preset's]
    #[arg(long = "lr", value_name = "RATE,...", value_delimiter = ',')]
    pub(crate) rates: Vec<f64>,

    /// Seeds of each combination: 1, 2, ... N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,

    /// Steps of each run [default: the preset's]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,

    /// Complete setting to start from, as in `shears train` [default: lstm-128]
    #[arg(long, value_name = "NAME", value_parser = checked::<Preset>)]
    pub(crate) preset: Option<String>,

    /// How text becomes tokens, as in `shears train` [default: char]
    #[arg(long, value_name = "KIND", value_parser = checked::<TokenizerKind>)]
    pub(crate) tokenizer: Option<String>,

    /// Any other setting of `shears train` by its name; can be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,

    /// Folder of the comparison
    #[arg(long, value_name = "FOLDER", default_value = "compare", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,

    /// Threads to compute on [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

const EXAMPLES: &str = "Examples:
  shears compare book.txt --clip none --clip global-norm:1 --clip zclip --steps 500
  shears compare book.txt --preset rnn-128 --clip none --clip global-norm:1 \\
      --lr 1e-3,3e-3,1e-2 --seeds 3 --steps 500 --out clipping-of-rnn
  shears compare book.txt --preset rnn-128 --set nonlinearity=relu --set optimizer=sgd \\
      --lr 0.5,1,2 --clip none --clip global-norm:1 --clip value:0.05";
