//! `shears dash`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Show runs on a live page in your browser: loss, gradient norms, clipping, samples
///
/// The page only reads: it changes nothing, listens on this computer alone (127.0.0.1) and loads
/// nothing from elsewhere. Runs appear as they are started and grow as they train.
#[derive(Args, Debug)]
pub(crate) struct DashArguments {
    /// Folder that holds runs
    #[arg(default_value = "runs", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,

    /// Port to listen on; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 7878)]
    pub(crate) port: u16,
}
