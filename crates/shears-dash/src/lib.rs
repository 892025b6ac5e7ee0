//! The live page of Shears: `shears dash FOLDER`.
//!
//! A server on 127.0.0.1 and one page, which is part of the program. It only reads: run folders,
//! never tensors, and it links no tensor library, so that it starts at once. What it shows of a run
//! comes from the run's own files, so it may be started before, during or after training.
//!
//! ```text
//! runs.rs      finds runs and keeps what was read     api.rs      what the page asks for
//! summary.rs   the list: state.rs                     series.rs   down-sampling, spikes kept
//! live.rs      what the page is told                  step.rs     one step
//! guard.rs     what is refused                        listen.rs   connections
//! ```
//!
//! Logs are read by `shears-run`.
#![forbid(unsafe_code)]

mod api;
mod assets;
mod checkpoints;
mod digest;
mod guard;
mod listen;
mod live;
mod runs;
mod series;
mod settings;
mod state;
mod step;
mod summary;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::routing::get;

use crate::runs::Runs;

/// What to serve, and where.
#[derive(Clone)]
pub struct Options {
    /// The folder whose runs are shown; it may itself be a run.
    pub folder: PathBuf,
    /// Address to listen on. One that other machines can reach asks for a token, which is part of
    /// the address that [`serve`] tells.
    pub host: IpAddr,
    /// Port; 0 for any free one.
    pub port: u16,
    /// Settings of each preset, by name: plan keys as TOML tables, for what differs from the
    /// preset.
    pub presets: BTreeMap<String, toml::Table>,
    /// The text of a step's batch, given the run's folder and the step: one string a row, or why it
    /// cannot be found.
    pub batch_text: Arc<BatchText>,
}

/// Finds the text of a step's batch; see [`Options::batch_text`].
pub type BatchText = dyn Fn(&Path, u64) -> Result<Vec<String>, String> + Send + Sync;

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("folder", &self.folder)
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Why the page cannot be served. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DashError {
    /// The path given for the runs is not a folder.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// There is nothing at the path given for the runs.
    #[error("there is no folder {}; `shears train` makes one for its runs", .0.display())]
    NoFolder(PathBuf),
    /// The port cannot be listened on.
    #[error(
        "cannot listen on {address}: {}; --port 0 takes any free port",
        in_words(source)
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The server could not be started or has failed.
    #[error("the server of the page failed")]
    Serve(#[source] io::Error),
}

/// What all requests share.
pub(crate) struct Dash {
    pub(crate) runs: Arc<Runs>,
    pub(crate) presets: BTreeMap<String, toml::Table>,
    pub(crate) batch_text: Arc<BatchText>,
}

/// The system's answer to a port that cannot be listened on.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses it".to_string(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_string(),
        io::ErrorKind::PermissionDenied => "this user may not use that port".to_string(),
        _ => error.to_string(),
    }
}

/// The page and its data as a router. Logs are read in the background as long as it lives.
///
/// # Errors
///
/// If the page is for other machines, and the system gives no random token for it.
pub fn app(options: Options) -> Result<App, DashError> {
    let token = match options.host.is_loopback() {
        true => None,
        false => Some(guard::new_token().map_err(DashError::Serve)?),
    };
    let runs = Arc::new(Runs::new(options.folder));
    summary::digest_in_background(&runs);
    let dash = Dash {
        runs,
        presets: options.presets,
        batch_text: options.batch_text,
    };
    let guard = axum::middleware::from_fn_with_state(token.clone(), guard::guard);
    let router = Router::new()
        .route("/api/runs", get(api::list))
        .route("/api/run", get(api::run))
        .route("/api/series", get(api::series))
        .route("/api/maps", get(api::maps))
        .route("/api/equal", get(api::equal))
        .route("/api/step", get(api::step))
        .route("/api/batch", get(api::batch))
        .route("/api/live", get(live::live))
        .route("/report", get(api::report))
        .fallback(async |uri: Uri| assets::file(uri.path()))
        .layer(guard)
        .with_state(Arc::new(dash));
    Ok(App { router, token })
}

/// The page as [`app`] makes it.
#[derive(Clone, Debug)]
pub struct App {
    /// Answers requests.
    pub router: Router,
    /// What a request has to have once in its query (`?token=`), if other machines may ask.
    pub token: Option<Arc<str>>,
}

/// Serves until the process is asked to stop; calls `ready` with the page's address once it
/// listens: that of the run's own page, if the folder is a run. Nothing is served if `ready`
/// breaks.
///
/// # Errors
///
/// If there is no such folder, or the port is taken.
pub fn serve(
    options: Options,
    ready: impl FnOnce(&str) -> ControlFlow<()>,
) -> Result<(), DashError> {
    if !options.folder.is_dir() {
        return Err(match options.folder.exists() {
            true => DashError::NotAFolder(options.folder),
            false => DashError::NoFolder(options.folder),
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DashError::Serve)?;
    let served = runtime.block_on(listen::listen(options, ready));
    // Open pages would keep it waiting for what they watch.
    runtime.shutdown_background();
    served
}
