//! Fixed blocks, whose results do not depend on the number of threads.

use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "std")]
use std::thread::{Builder, ScopedJoinHandle};

/// Elements per block: 256 KiB of f32, which fits an L2 cache. The block size is part of the
/// result: another one would sum in another order, with other last bits.
pub(crate) const BLOCK_ELEMENTS: usize = 65_536;

/// Independent accumulators inside a block. Sixteen f64 sums fill eight 128-bit registers, enough
/// to hide the latency of an addition and to let the compiler vectorise the loop.
pub(crate) const LANES: usize = 16;

/// Up to this many blocks, starting threads costs more than it saves.
const BLOCKS_FOR_ONE_THREAD: usize = 8;

/// Maps each block to a partial result and returns the partials in block order.
///
/// The blocks and the order of their partials do not depend on `threads`, so neither does any fold
/// over the partials.
pub(crate) fn map_blocks<Block: Send, Partial: Send>(
    blocks: impl ExactSizeIterator<Item = Block>,
    threads: usize,
    work: impl Fn(Block) -> Partial + Sync,
) -> Vec<Partial> {
    if threads <= 1 || blocks.len() <= BLOCKS_FOR_ONE_THREAD {
        return blocks.map(work).collect();
    }
    map_in_threads(blocks, threads, &work)
}

#[cfg(not(feature = "std"))]
fn map_in_threads<Block, Partial>(
    blocks: impl ExactSizeIterator<Item = Block>,
    _threads: usize,
    work: &impl Fn(Block) -> Partial,
) -> Vec<Partial> {
    blocks.map(work).collect()
}

#[cfg(feature = "std")]
fn map_in_threads<Block: Send, Partial: Send>(
    blocks: impl ExactSizeIterator<Item = Block>,
    threads: usize,
    work: &(impl Fn(Block) -> Partial + Sync),
) -> Vec<Partial> {
    let block_count = blocks.len();
    let threads = threads.min(block_count).max(1);
    let run_length = block_count.div_ceil(threads);
    let mut blocks = blocks;
    let mut runs: Vec<Mutex<Vec<Block>>> = Vec::with_capacity(threads);
    while blocks.len() > 0 {
        runs.push(Mutex::new(blocks.by_ref().take(run_length).collect()));
    }
    let run_blocks = |run: &Mutex<Vec<Block>>| {
        let blocks = std::mem::take(&mut *run.lock().unwrap_or_else(PoisonError::into_inner));
        blocks.into_iter().map(work).collect::<Vec<Partial>>()
    };
    let run_blocks = &run_blocks;
    std::thread::scope(|scope| {
        // This thread takes the first run instead of only waiting, and those for which the system
        // refuses a thread.
        let start = |run| Builder::new().spawn_scoped(scope, move || run_blocks(run));
        let others: Vec<_> = runs.iter().skip(1).map(|run| (run, start(run))).collect();
        let mut partials = Vec::with_capacity(block_count);
        partials.extend(runs.first().map(run_blocks).unwrap_or_default());
        for (run, thread) in others {
            match thread.map(ScopedJoinHandle::join) {
                Ok(Ok(done)) => partials.extend(done),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => partials.extend(run_blocks(run)),
            }
        }
        partials
    })
}

/// Sums the lanes as a balanced tree: a fixed order with a small rounding error.
pub(crate) fn add_pairwise(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::{add_pairwise, map_blocks};

    #[test]
    fn partials_keep_block_order_for_any_number_of_threads() {
        let expected: Vec<usize> = (0..100).collect();
        for threads in [0, 1, 2, 3, 7, 64, 1000] {
            assert_eq!(map_blocks(0..100_usize, threads, |block| block), expected);
        }
    }

    /// The test above in a process of its own, whose threads ask for a stack of 2^60 bytes.
    #[test]
    fn a_thread_that_is_refused_is_not_needed() {
        let test = "blocks::tests::partials_keep_block_order_for_any_number_of_threads";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", test])
            .env("RUST_MIN_STACK", (1_u64 << 60).to_string());
        let output = again.output().unwrap();
        let said = std::string::String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    #[test]
    fn pairwise_adds_every_lane_once() {
        let lanes = std::array::from_fn(|lane| f64::from(1_u32 << lane));
        assert_eq!(add_pairwise(lanes), 65_535.0);
    }
}
