//! Processes that train one model together, as few operations as that takes.
//!
//! [`Ranks`] is all that the trainer knows of other processes: a sum, a gather, a broadcast and a
//! barrier, in which all of them take part in the same order. [`Alone`] is a single process,
//! [`Threads`] are ranks within one, for tests, and `Mpi` (feature `mpi`) are the processes of an
//! MPI launcher, on one machine or many. Launching them, finding each other and the network are
//! MPI's.
//!
//! There is no error of an exchange to handle: a process that cannot go on ends all of them
//! ([`Ranks::abort`]), and so does the MPI library if the network fails.

mod alone;
mod launcher;
mod meeting;
#[cfg(feature = "mpi")]
mod mpi;
mod ranks;
mod start;
mod threads;
mod tree;
mod watchdog;

pub use alone::Alone;
pub use launcher::Launcher;
pub use meeting::first_does;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use ranks::{Ranks, agree, keeps_bits};
pub use start::{MEMORY, StartError, start};
pub use threads::Threads;
pub use tree::{Tree, tree_sum};
pub use watchdog::{Heartbeat, Patience, Phase, STEPS};
