//! `shears advise`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Say which clipping policy and threshold the norms of a run speak for, with the reasons
///
/// Everything comes from the run's own log. `shears replay` shows what a policy would have done with
/// each of its steps, `shears compare` trains and tells what it does to the loss.
#[derive(Args, Debug)]
pub(crate) struct AdviseArguments {
    /// Folder of the run
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
