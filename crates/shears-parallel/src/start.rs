//! Finding the other ranks.

use std::sync::Arc;

use crate::alone::Alone;
use crate::launcher::Launcher;
use crate::ranks::Ranks;

/// Why the processes that a launcher has started cannot train together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// This program was built without MPI.
    #[error(
        "{} has started {} processes, and this build has no MPI: each would train the same run; \
         build it with `cargo build --release --features mpi`, or start it without the launcher",
        .0.name, .0.size
    )]
    NoMpi(Launcher),
    /// It was built for another MPI than that of the launcher, and finds no other process.
    #[error(
        "{} has started {} processes, but the MPI of this build ({library}) finds {found}: each \
         would train a run of its own; start it with the launcher of that MPI",
        .launcher.name, .launcher.size
    )]
    AnotherMpi {
        /// Who has started it.
        launcher: Launcher,
        /// How many processes the library knows of.
        found: usize,
        /// The library's name and version.
        library: String,
    },
    /// Its MPI can be called from one thread alone.
    #[error(
        "the MPI of this build ({0}) cannot be called from several threads, one at a time; build \
         it with another one"
    )]
    OneThread(String),
}

/// What the library of MPI takes in a program that is built with it, used or not, in bytes, about.
pub const MEMORY: u64 = if cfg!(feature = "mpi") { 4_000_000 } else { 0 };

/// The ranks that this process is one of; [`Alone`] without a launcher, or if it has started a
/// single process. MPI is initialised here, once, and finalised when the last copy of the result is
/// dropped.
///
/// # Errors
///
/// If a launcher has started several processes that do not find each other.
pub fn start() -> Result<Arc<dyn Ranks>, StartError> {
    match Launcher::here() {
        Some(launcher) if launcher.size > 1 => start_by(launcher),
        _ => Ok(Arc::new(Alone)),
    }
}

#[cfg(feature = "mpi")]
fn start_by(launcher: Launcher) -> Result<Arc<dyn Ranks>, StartError> {
    let mpi = crate::Mpi::start();
    match mpi {
        Some(mpi) if mpi.size() == launcher.size && mpi.takes_threads() => Ok(Arc::new(mpi)),
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
