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
//! guard.rs     what is refused
//! ```
//!
//! Logs are read by `shears-run`.
#![forbid(unsafe_code)]

mod api;
mod assets;
mod checkpoints;
mod digest;
mod guard;
mod live;
mod runs;
mod series;
mod settings;
mod state;
mod step;
mod summary;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::routing::get;

use crate::runs::Runs;

/// What to serve, and where.
#[derive(Clone)]
pub struct Options {
    /// The folder whose runs are shown. It need not exist yet; it may itself be a run.
    pub folder: PathBuf,
    /// Port on 127.0.0.1; 0 for any free one.
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
    /// The port cannot be listened on.
    #[error(
        "cannot listen on 127.0.0.1:{port}; another program may use it, --port 0 takes any free one"
    )]
    Listen {
        /// The port that was asked for.
        port: u16,
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

/// The page and its data as a router. Logs are read in the background as long as it lives.
pub fn app(options: Options) -> Router {
    let runs = Arc::new(Runs::new(options.folder));
    summary::digest_in_background(&runs);
    let dash = Dash {
        runs,
        presets: options.presets,
        batch_text: options.batch_text,
    };
    Router::new()
        .route("/api/runs", get(api::list))
        .route("/api/run", get(api::run))
        .route("/api/series", get(api::series))
        .route("/api/maps", get(api::maps))
        .route("/api/step", get(api::step))
        .route("/api/batch", get(api::batch))
        .route("/api/live", get(live::live))
        .fallback(async |uri: Uri| assets::file(uri.path()))
        .layer(axum::middleware::from_fn(guard::guard))
        .with_state(Arc::new(dash))
}

/// Serves until the process is asked to stop; calls `ready` with the address once it listens.
///
/// # Errors
///
/// If the folder is a file, or the port is taken.
pub fn serve(options: Options, ready: impl FnOnce(SocketAddr)) -> Result<(), DashError> {
    if options.folder.exists() && !options.folder.is_dir() {
        return Err(DashError::NotAFolder(options.folder));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DashError::Serve)?;
    let served = runtime.block_on(listen(options, ready));
    // Open pages would keep it waiting for what they watch.
    runtime.shutdown_background();
    served
}

async fn listen(options: Options, ready: impl FnOnce(SocketAddr)) -> Result<(), DashError> {
    let port = options.port;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|source| DashError::Listen { port, source })?;
    let address = listener.local_addr().map_err(DashError::Serve)?;
    let asked_to_stop = stop_signal().map_err(DashError::Serve)?;
    ready(address);
    tokio::select! {
        served = async { axum::serve(listener, app(options)).await } => served.map_err(DashError::Serve),
        () = asked_to_stop => Ok(()),
    }
}

/// Ends when Ctrl-C is pressed or the system asks the process to end.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Ends when Ctrl-C is pressed.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Where nobody can ask, the server goes on until it is ended.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
