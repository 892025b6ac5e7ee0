//! Data parallelism: the few operations that processes need to train one model.
//!
//! [`Ranks`] is all that the trainer knows of other processes: a sum, a gather, a broadcast and a
//! barrier, which all of them call in the same order. [`Alone`] is a single process, [`Threads`]
//! are ranks within one process, for tests, and `Mpi` (feature `mpi`) the processes of an MPI
//! launcher, on one machine or many. MPI launches and connects them.
//!
//! Exchanges return no errors: a process that cannot continue ends all of them ([`Ranks::abort`]),
//! and so does the MPI library if the network fails.

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
pub use meeting::on_first_rank;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use ranks::{Ranks, agree, sums_like_tree};
pub use start::{MEMORY, StartError, start};
pub use threads::Threads;
pub use tree::{Tree, tree_sum};
pub use watchdog::{Heartbeat, Phase, STEPS, Timeouts};
