//! The live page of Shears: `shears dash FOLDER`.
//!
//! A server on 127.0.0.1 and one page, embedded in the program. It only reads run folders, never
//! tensors, and links no tensor library, so that it starts at once. What it shows comes from the
//! runs' own files, so it may be started before, during or after training.
//!
//! ```text
//! runs.rs      finds runs, caches what was read     api.rs        the page's requests
//! digest.rs    a whole log in brief, cached         series.rs     down-sampling that keeps spikes
//! summary.rs   a row of the list                    step.rs       one step
//! live.rs      server-sent events                   settings.rs   settings against the preset
//! guard.rs     refused requests, headers            checkpoints.rs  checkpoints of a run
//! listen.rs    connections                          assets.rs     the page's files
//! ```
//!
//! `shears-run` reads the logs.
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
mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Uri;
use axum::routing::get;

use crate::runs::Runs;

/// What to serve, and where.
#[derive(Clone)]
pub struct Options {
    /// The folder whose runs are shown; it may itself be a run.
    pub folder: PathBuf,
    /// Address to listen on. If other machines can reach it, requests need a token, which is part
    /// of the address passed to `ready` by [`serve`].
    pub host: IpAddr,
    /// Port; 0 for any free one.
    pub port: u16,
    /// The settings of each preset by name, as tables with the keys of a plan.
    pub presets: BTreeMap<String, toml::Table>,
    /// Returns the text of a step's batch, given the run's folder and the step: one string per row,
    /// or why there is none.
    pub batch_text: Arc<BatchText>,
}

/// Returns the text of a step's batch; see [`Options::batch_text`].
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
    /// The path given for the runs does not exist.
    #[error("there is no folder {}; `shears train` makes one for its runs", .0.display())]
    NoFolder(PathBuf),
    /// Listening on the port failed.
    #[error("cannot listen on {address}: {}", listen_problem(source))]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system refuses this process the threads that serve the page.
    #[error(
        "the system refuses this process the threads of the page; end other programs, or raise the \
         limit (ulimit -u)"
    )]
    NoThreads,
    /// The server could not start or has failed.
    #[error("the server of the page failed")]
    Serve(#[source] io::Error),
}

/// Threads for connections; those that read logs come on top.
const WORKERS: usize = 2;

/// The state shared by all requests.
pub(crate) struct Dash {
    pub(crate) runs: Arc<Runs>,
    pub(crate) presets: BTreeMap<String, toml::Table>,
    pub(crate) batch_text: Arc<BatchText>,
}

/// The system's error for a port that cannot be listened on, in plain words.
fn listen_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program uses it; --port 0 takes any free port".to_string()
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_string(),
        io::ErrorKind::PermissionDenied => {
            "this user may not use that port; --port 0 takes any free port".to_string()
        }
        _ => error.to_string(),
    }
}

/// The page and its data as a router. While it lives, a thread reads logs in the background.
///
/// # Errors
///
/// If other machines can reach the page, and the system provides no random token.
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
    /// The routes of page and data.
    pub router: Router,
    /// The token that a first request needs in its query (`?token=`), if other machines can reach
    /// the page.
    pub token: Option<Arc<str>>,
}

/// Serves until the process is asked to stop. Once it listens, it calls `ready` with the address of
/// the page, or of the run's own page if the folder is a run. Nothing is served if `ready` breaks.
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
    // The runtime would panic if its threads were refused.
    let sleep = || std::thread::sleep(Duration::from_millis(10));
    std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, sleep);
        (0..=WORKERS).try_for_each(|number| start(number).map(drop))
    })
    .map_err(|_| DashError::NoThreads)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(turns::AT_ONCE)
        // The thread that is started below stays.
        .thread_keep_alive(Duration::MAX)
        .enable_all()
        .build()
        .map_err(DashError::Serve)?;
    let served = runtime.block_on(async {
        // Where the system refuses a further thread, requests wait for one that reads files; without
        // any, they would panic.
        let _ = tokio::task::spawn_blocking(|| ()).await;
        listen::listen(options, ready).await
    });
    // Waiting for open pages would take as long as they stay open.
    runtime.shutdown_background();
    served
}
