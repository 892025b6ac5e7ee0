//! Ranks as processes of an MPI launcher.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::{Universe, initialize_with_threading, library_version, processor_name};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};

use crate::ranks::Ranks;

/// Elements summed at a time. The binding cannot sum in place, so the result goes through scratch
/// memory; this much stays in the cache.
const CHUNK: usize = 1 << 18;

/// Bytes that all ranks together exchange at a time, far below the largest C integer.
const MOST_BYTES: usize = 1 << 28;

/// One process of an MPI job.
///
/// An error within MPI ends the job, which is the library's default.
pub struct Mpi {
    /// Finalises MPI when dropped.
    _universe: Universe,
    world: World,
    allows_threads: bool,
    scratch: Mutex<Vec<f32>>,
}

/// Rank and size. The communicator itself is created at each call: with Open MPI it is a pointer,
/// and could not move to another thread with the trainer.
#[derive(Clone, Copy, Debug)]
struct World {
    rank: usize,
    size: usize,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.world.fmt(formatter)
    }
}

impl Mpi {
    /// Initialises MPI; `None` if that was done before.
    pub fn start() -> Option<Mpi> {
        let (universe, threading) = initialize_with_threading(Threading::Serialized)?;
        let world = universe.world();
        Some(Mpi {
            world: World {
                rank: usize::try_from(world.rank()).ok()?,
                size: usize::try_from(world.size()).ok()?,
            },
            allows_threads: matches!(threading, Threading::Serialized | Threading::Multiple),
            _universe: universe,
            scratch: Mutex::default(),
        })
    }

    /// Whether the library may be called from several threads, one at a time.
    pub fn allows_threads(&self) -> bool {
        self.allows_threads
    }

    /// Name and version of the library, on one line.
    pub fn library() -> String {
        let text = library_version().unwrap_or_default();
        let line = text.trim_matches('\0').lines().next().unwrap_or_default();
        let name = line.split(',').next().unwrap_or_default().trim();
        name.to_string()
    }

    /// The name of this process's machine.
    pub fn host() -> Option<String> {
        processor_name().ok()
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.world.rank
    }

    fn size(&self) -> usize {
        self.world.size
    }

    fn sum(&self, values: &mut [f32]) {
        let world = SimpleCommunicator::world();
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = CHUNK.min(values.len()).max(scratch.len());
        scratch.resize(needed, 0.0);
        for chunk in values.chunks_mut(CHUNK) {
            let sums = &mut scratch[..chunk.len()];
            world.all_reduce_into(&*chunk, sums, SystemOperation::sum());
            chunk.copy_from_slice(sums);
        }
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let mut lengths = vec![0_u64; self.world.size];
        world.all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|_| Vec::new()).collect();
        let part = (MOST_BYTES / self.world.size).max(1);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        for begin in (0..longest).step_by(part) {
            let within = |length: usize| begin.min(length)..(begin + part).min(length);
            let counts: Vec<i32> = lengths
                .iter()
                .map(|&length| within(length).len() as i32)
                .collect();
            let offsets = counts.iter().scan(0, |end, count| {
                let begin = *end;
                *end += count;
                Some(begin)
            });
            let offsets: Vec<i32> = offsets.collect();
            let mut received = vec![0_u8; counts.iter().sum::<i32>() as usize];
            {
                let mut parts = PartitionMut::new(&mut received[..], &counts[..], &offsets[..]);
                world.all_gather_varcount_into(&bytes[within(bytes.len())], &mut parts);
            }
            let mut received = &received[..];
            for (whole, count) in all.iter_mut().zip(counts) {
                let (own, others) = received.split_at(count as usize);
                whole.extend_from_slice(own);
                received = others;
            }
        }
        all
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) {
        let root = SimpleCommunicator::world();
        let root = root.process_at_rank(0);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        for part in bytes.chunks_mut(MOST_BYTES) {
            root.broadcast_into(part);
        }
    }

    fn barrier(&self) {
        SimpleCommunicator::world().barrier();
    }

    fn abort(&self, code: u8) -> ! {
        SimpleCommunicator::world().abort(i32::from(code))
    }
}
