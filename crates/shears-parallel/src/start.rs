//! Connects to the other ranks.

use std::sync::Arc;

use crate::alone::Alone;
use crate::launcher::Launcher;
use crate::ranks::Ranks;

/// Why the processes started by a launcher cannot train together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// This program was built without MPI.
    #[error(
        "{} started {} processes, but this build has no MPI, so each would train the same run; \
         build with `cargo build --release --features mpi`, or start it without the launcher",
        .0.name, .0.size
    )]
    NoMpi(Launcher),
    /// It was built for another MPI than the launcher's, and finds no other process.
    #[error(
        "{} started {} processes, but the MPI of this build ({library}) finds {found}, so each \
         would train a run of its own; start it with the launcher of that MPI",
        .launcher.name, .launcher.size
    )]
    AnotherMpi {
        /// The launcher.
        launcher: Launcher,
        /// How many processes the library finds.
        found: usize,
        /// The library's name and version.
        library: String,
    },
    /// Its MPI may only be called from one thread.
    #[error(
        "the MPI of this build ({0}) cannot be called from several threads, one at a time; build \
         with another one"
    )]
    OneThread(String),
}

/// The approximate memory that the MPI library takes in a program built with it, used or not, in
/// bytes.
pub const MEMORY: u64 = if cfg!(feature = "mpi") { 4_000_000 } else { 0 };

/// Connects to the other ranks. Without a launcher, or if it started a single process, this is
/// [`Alone`]. Initialises MPI, once, and finalises it when the last copy of the result is dropped.
///
/// # Errors
///
/// If a launcher started several processes that do not find each other.
pub fn start() -> Result<Arc<dyn Ranks>, StartError> {
    match Launcher::detect() {
        Some(launcher) if launcher.size > 1 => start_by(launcher),
        _ => Ok(Arc::new(Alone)),
    }
}

#[cfg(feature = "mpi")]
fn start_by(launcher: Launcher) -> Result<Arc<dyn Ranks>, StartError> {
    let mpi = crate::Mpi::start();
    match mpi {
        Some(mpi) if mpi.size() == launcher.size && mpi.allows_threads() => Ok(Arc::new(mpi)),
        Some(mpi) if mpi.size() == launcher.size => {
            Err(StartError::OneThread(crate::Mpi::library()))
        }
        mpi => Err(StartError::AnotherMpi {
            launcher,
            found: mpi.map_or(0, |mpi| mpi.size()),
            library: crate::Mpi::library(),
        }),
    }
}

#[cfg(not(feature = "mpi"))]
fn start_by(launcher: Launcher) -> Result<Arc<dyn Ranks>, StartError> {
    Err(StartError::NoMpi(launcher))
}
