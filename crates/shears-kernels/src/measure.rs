//! Measures and scales gradients at memory bandwidth.

use std::sync::{Mutex, PoisonError};

use gradclip::Scanned;
use pulp::{Simd, WithSimd};

use crate::cpu::Cpu;
use crate::vector::prefetch;

/// Elements per block, part of the contract of [`gradclip::Scan`].
const BLOCK: usize = 65_536;

/// Accumulators per block, part of the same contract.
const LANES: usize = 16;

/// Prefetch distance in elements. The conversions to `f64` fill the reorder buffer, so the
/// processor itself loads less far ahead than in a plain sum.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "prefetching is a no-op there")
)]
const AHEAD: usize = 1024;

/// Up to this many elements, waking another thread costs more than it saves.
const MAX_FOR_ONE_THREAD: usize = 65_536;

/// [`gradclip::scan`] with the vector instructions of this machine and the threads of the pool:
/// the same bits, for [`gradclip::Clipper::with_scan`].
///
/// The blocks of all tensors are divided among the threads together, so that many small tensors
/// cost as much as one large tensor.
#[must_use]
pub fn scan(tensors: &[&[f32]], threads: usize) -> Vec<Scanned> {
    let threads = threads.clamp(1, rayon::current_num_threads());
    scan_on(Cpu::current().on(threads), tensors)
}

/// Sums the elements in `f32`, in any order: the cost of reading on the given number of threads, as
/// a baseline for [`scan`].
#[must_use]
pub fn read(tensors: &[&[f32]], threads: usize) -> f32 {
    let threads = threads.clamp(1, rayon::current_num_threads());
    let cpu = Cpu::current().on(threads);
    map_blocks(
        cpu,
        blocks_of(tensors),
        |block| block.len(),
        |block| cpu.run(Read(block)),
    )
    .into_iter()
    .sum()
}

/// [`gradclip::scale`] with the vector instructions of this machine and the threads of the pool: the
/// same bits, for [`gradclip::Clipper::with_scale`].
///
/// # Panics
///
/// If there is not one factor for each tensor.
#[must_use = "the result is how many elements underflowed to zero"]
pub fn scale(tensors: Vec<&mut [f32]>, factors: &[f64], threads: usize) -> u64 {
    let threads = threads.clamp(1, rayon::current_num_threads());
    scale_on(Cpu::current().on(threads), tensors, factors)
}

fn scale_on(cpu: Cpu, tensors: Vec<&mut [f32]>, factors: &[f64]) -> u64 {
    assert_eq!(tensors.len(), factors.len(), "one factor for each tensor");
    let tensors = tensors.into_iter().zip(factors);
    let changed = tensors.filter(|(_, factor)| **factor != 1.0);
    let blocks = changed.flat_map(|(values, factor)| {
        let blocks = values.chunks_mut(BLOCK);
        blocks.map(|block| ScaleBlock(block, *factor))
    });
    let len = |block: &ScaleBlock<'_>| block.0.len();
    let counts = map_blocks(cpu, blocks.collect(), len, |ScaleBlock(block, factor)| {
        cpu.run(ScaleBlock(block, *factor))
    });
    counts.into_iter().sum()
}

fn scan_on(cpu: Cpu, tensors: &[&[f32]]) -> Vec<Scanned> {
    let blocks = map_blocks(
        cpu,
        blocks_of(tensors),
        |block| block.len(),
        |block| cpu.run(ScanBlock(block)),
    );
    let mut blocks = blocks.into_iter();
    let scanned = tensors.iter().map(|tensor| {
        let blocks = blocks.by_ref().take(tensor.len().div_ceil(BLOCK));
        blocks.fold(Scanned::default(), |total, block| Scanned {
            sum_of_squares: total.sum_of_squares + block.sum_of_squares,
            max_magnitude: larger(total.max_magnitude, block.max_magnitude),
            non_finite: total.non_finite + block.non_finite,
        })
    });
    scanned.collect()
}

fn blocks_of<'a>(tensors: &[&'a [f32]]) -> Vec<&'a [f32]> {
    tensors.iter().flat_map(|all| all.chunks(BLOCK)).collect()
}

/// The results of `work` for blocks of the given lengths, in order.
fn map_blocks<Block: Send, T: Clone + Default + Send>(
    cpu: Cpu,
    mut blocks: Vec<Block>,
    len: impl Fn(&Block) -> usize,
    work: impl Fn(&mut Block) -> T + Sync,
) -> Vec<T> {
    let elements: usize = blocks.iter().map(&len).sum();
    if cpu.threads == 1 || elements <= MAX_FOR_ONE_THREAD {
        return blocks.iter_mut().map(work).collect();
    }
    let mut results = vec![T::default(); blocks.len()];
    // Groups small blocks into runs to reduce scheduling overhead.
    let mut runs = Vec::new();
    let (mut blocks, mut unassigned) = (blocks.as_mut_slice(), results.as_mut_slice());
    while !blocks.is_empty() {
        let mut elements = 0;
        let fits = |block: &&Block| {
            elements += len(block);
            elements <= BLOCK
        };
        let count = blocks.iter().take_while(fits).count();
        let (run, other_blocks) = blocks.split_at_mut(count);
        let (slots, other_slots) = unassigned.split_at_mut(count);
        runs.push(Mutex::new((run, slots)));
        (blocks, unassigned) = (other_blocks, other_slots);
    }
    cpu.each(runs.len(), |index| {
        let mut run = runs[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (run, slots) = &mut *run;
        for (slot, block) in slots.iter_mut().zip(run.iter_mut()) {
            *slot = work(block);
        }
    });
    drop(runs);
    results
}

struct ScanBlock<'a>(&'a [f32]);

impl WithSimd for ScanBlock<'_> {
    type Output = Scanned;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Scanned {
        let scanned = scan_block(self.0, |value| value);
        // Any NaN or infinity makes the sum non-finite, which keeps branches out of the hot loop.
        if scanned.sum_of_squares.is_finite() {
            return scanned;
        }
        let non_finite = self.0.iter().filter(|value| !value.is_finite()).count() as u64;
        let finite_or_zero = |value: f32| if value.is_finite() { value } else { 0.0 };
        Scanned {
            non_finite,
            ..scan_block(self.0, finite_or_zero)
        }
    }
}

/// Squares are exact in `f64`, so a fused multiply-add would change no bit.
#[inline(always)]
fn scan_block(block: &[f32], filter: impl Fn(f32) -> f32) -> Scanned {
    let mut sums = [0.0_f64; LANES];
    let mut maxima = [0.0_f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        prefetch(chunk.as_ptr().wrapping_add(AHEAD));
        add(chunk, &filter, &mut sums, &mut maxima);
    }
    // Zeros change neither sum nor maximum. A scalar remainder loop would also make the compiler
    // scalarise the loop above.
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    add(&last, &filter, &mut sums, &mut maxima);
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    Scanned {
        sum_of_squares: sums[0],
        max_magnitude: maxima.into_iter().fold(0.0, larger),
        non_finite: 0,
    }
}

/// One loop per operation: the compiler vectorises each of them, but not a single loop that does
/// everything.
#[inline(always)]
fn add(
    chunk: &[f32; LANES],
    filter: &impl Fn(f32) -> f32,
    sums: &mut [f64; LANES],
    maxima: &mut [f32; LANES],
) {
    let mut values = [0.0_f32; LANES];
    for lane in 0..LANES {
        values[lane] = filter(chunk[lane]);
    }
    for lane in 0..LANES {
        let wide = f64::from(values[lane]);
        sums[lane] += wide * wide;
    }
    for lane in 0..LANES {
        maxima[lane] = larger(maxima[lane], values[lane].abs());
    }
}

/// Compiles to a single `max` instruction, unlike `f32::max`.
#[inline(always)]
fn larger(left: f32, right: f32) -> f32 {
    if right > left { right } else { left }
}

/// A block and its factor.
struct ScaleBlock<'a>(&'a mut [f32], f64);

impl WithSimd for ScaleBlock<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u64 {
        let ScaleBlock(block, factor) = self;
        let mut rounded_to_zero = [0_u32; LANES];
        let (chunks, rest) = block.as_chunks_mut::<LANES>();
        for chunk in chunks {
            prefetch(chunk.as_ptr().wrapping_add(AHEAD));
            scale_chunk(chunk, factor, &mut rounded_to_zero);
        }
        // Zeros stay zeros.
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        scale_chunk(&mut last, factor, &mut rounded_to_zero);
        rest.copy_from_slice(&last[..rest.len()]);
        rounded_to_zero.into_iter().map(u64::from).sum()
    }
}

/// One loop per operation, as in [`add`].
#[inline(always)]
fn scale_chunk(chunk: &mut [f32; LANES], factor: f64, rounded_to_zero: &mut [u32; LANES]) {
    let mut scaled = [0.0_f32; LANES];
    for lane in 0..LANES {
        scaled[lane] = (f64::from(chunk[lane]) * factor) as f32;
    }
    for lane in 0..LANES {
        rounded_to_zero[lane] += u32::from((scaled[lane] == 0.0) & (chunk[lane] != 0.0));
    }
    *chunk = scaled;
}

struct Read<'a>(&'a [f32]);

impl WithSimd for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        // Enough accumulators to hide the latency of additions.
        let mut sums = [0.0_f32; 64];
        let (chunks, rest) = self.0.as_chunks::<64>();
        for chunk in chunks {
            for line in chunk.as_chunks::<LANES>().0 {
                prefetch(line.as_ptr().wrapping_add(AHEAD));
            }
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value;
            }
        }
        sums.iter().chain(rest).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use gradclip::Scanned;

    use super::{Read, blocks_of, map_blocks, scale_on, scan_on};
    use crate::cpu::Cpu;

    /// Tests every configuration through a plain function, as a clipper takes it.
    #[test]
    fn every_configuration_matches_the_plain_scan() {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        fn scan(tensors: &[&[f32]], threads: usize) -> Vec<Scanned> {
            let cpu = Cpu::all()[NEXT.load(Ordering::SeqCst)];
            scan_on(cpu.on(threads.max(1)), tensors)
        }
        gradclip_suite::check_scan(super::scan);
        for index in 0..Cpu::all().len() {
            NEXT.store(index, Ordering::SeqCst);
            gradclip_suite::check_scan(scan);
        }
    }

    #[test]
    fn every_configuration_matches_the_plain_scaling() {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        fn scale(tensors: Vec<&mut [f32]>, factors: &[f64], threads: usize) -> u64 {
            let cpu = Cpu::all()[NEXT.load(Ordering::SeqCst)];
            scale_on(cpu.on(threads.max(1)), tensors, factors)
        }
        gradclip_suite::check_scale(super::scale);
        for index in 0..Cpu::all().len() {
            NEXT.store(index, Ordering::SeqCst);
            gradclip_suite::check_scale(scale);
        }
    }

    #[test]
    fn every_element_is_read_once() {
        for cpu in Cpu::all() {
            let tensors = [vec![1.0; 70_001], vec![], vec![2.0; 63], vec![0.5; 200_000]];
            let tensors: Vec<&[f32]> = tensors.iter().map(Vec::as_slice).collect();
            let len = |block: &&[f32]| block.len();
            let sums = map_blocks(cpu, blocks_of(&tensors), len, |block| cpu.run(Read(block)));
            assert_eq!(sums.into_iter().sum::<f32>(), 170_127.0);
        }
    }
}
