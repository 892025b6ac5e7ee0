//! Measures gradients at memory bandwidth.

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
    map_blocks(cpu, tensors, |block| cpu.run(Read(block)))
        .into_iter()
        .sum()
}

fn scan_on(cpu: Cpu, tensors: &[&[f32]]) -> Vec<Scanned> {
    let blocks = map_blocks(cpu, tensors, |block| cpu.run(ScanBlock(block)));
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

/// The results of `work` for each block of each tensor, in order.
fn map_blocks<T: Clone + Default + Send>(
    cpu: Cpu,
    tensors: &[&[f32]],
    work: impl Fn(&[f32]) -> T + Sync,
) -> Vec<T> {
    let blocks: Vec<&[f32]> = tensors.iter().flat_map(|all| all.chunks(BLOCK)).collect();
    let elements: usize = tensors.iter().map(|tensor| tensor.len()).sum();
    if cpu.threads == 1 || elements <= MAX_FOR_ONE_THREAD {
        return blocks.into_iter().map(work).collect();
    }
    let mut results = vec![T::default(); blocks.len()];
    // Groups small blocks into runs to reduce scheduling overhead.
    let mut runs = Vec::new();
    let (mut blocks, mut unassigned) = (blocks.as_slice(), results.as_mut_slice());
    while !blocks.is_empty() {
        let mut elements = 0;
        let fits = |block: &&&[f32]| {
            elements += block.len();
            elements <= BLOCK
        };
        let count = blocks.iter().take_while(fits).count();
        let (run, other_blocks) = blocks.split_at(count);
        let (slots, other_slots) = unassigned.split_at_mut(count);
        runs.push((run, Mutex::new(slots)));
        (blocks, unassigned) = (other_blocks, other_slots);
    }
    cpu.each(runs.len(), |index| {
        let (run, slots) = &runs[index];
        let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, block) in slots.iter_mut().zip(*run) {
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

    use super::{Read, map_blocks, scan_on};
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
    fn every_element_is_read_once() {
        for cpu in Cpu::all() {
            let tensors = [vec![1.0; 70_001], vec![], vec![2.0; 63], vec![0.5; 200_000]];
            let tensors: Vec<&[f32]> = tensors.iter().map(Vec::as_slice).collect();
            let sums = map_blocks(cpu, &tensors, |block| cpu.run(Read(block)));
            assert_eq!(sums.into_iter().sum::<f32>(), 170_127.0);
        }
    }
}
