//! `shears inspect`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Show a run: settings, history, checkpoints, and the verdict on its clipping
#[derive(Args, Debug)]
pub(crate) struct InspectArguments {
    /// Folder of the run
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
