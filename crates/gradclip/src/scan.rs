//! The single read of every element, which a caller can replace with a faster one for `f32`.

use alloc::vec::Vec;

use crate::blocks::{BLOCK_ELEMENTS, LANES, add_pairwise, map_blocks};
use crate::element::Element;

/// The result of one read of a tensor, of `f32` unless `Magnitude` says otherwise. Non-finite
/// elements are counted, and treated as zeros otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scanned<Magnitude = f32> {
    /// The sum of squares, in the summation order of [`scan`].
    pub sum_of_squares: f64,
    /// The largest magnitude; zero if there are no elements.
    pub max_magnitude: Magnitude,
    /// The number of NaN or infinite elements.
    pub non_finite: u64,
}

/// A function that reads tensors on up to `threads` threads and returns one result per tensor, in
/// order.
///
/// # Contract
///
/// The result equals that of [`scan`] bit for bit with any number of threads; `check_scan` of
/// `gradclip-suite` tests this.
pub type Scan = fn(tensors: &[&[f32]], threads: usize) -> Vec<Scanned>;

/// The default scan of a [`Clipper`](crate::Clipper): plain loops, compiled for the target CPU of
/// the program.
///
/// A faster scan, with SIMD chosen at run time or with a thread pool, must add in the same order.
/// All sums are in `f64`, where the square of an `f32` is exact:
///
/// * A tensor is split into blocks of 65,536 elements, the last one shorter. The sums of the blocks
///   are added from left to right, starting from 0.
/// * A block has 16 sums, each starting from 0. Element `i` of the block is squared and added to
///   sum `i mod 16`, in the order of the elements.
/// * The 16 sums are added in four rounds: sum `k + 8` to sum `k`, then `k + 4`, `k + 2`, `k + 1`.
///
/// ```
/// let scanned = gradclip::scan(&[&[3.0, -4.0, f32::NAN]], 1)[0];
/// assert_eq!((scanned.sum_of_squares, scanned.max_magnitude), (25.0, 4.0));
/// assert_eq!(scanned.non_finite, 1);
/// ```
#[must_use]
pub fn scan(tensors: &[&[f32]], threads: usize) -> Vec<Scanned> {
    let tensors = tensors.iter();
    tensors.map(|values| scan_any(values, threads)).collect()
}

/// The plain scan, for any storage type.
pub(crate) fn scan_any<E: Element>(values: &[E], threads: usize) -> Scanned<E::Wide> {
    let blocks = map_blocks(values.chunks(BLOCK_ELEMENTS), threads, scan_block);
    let nothing = Scanned::<E::Wide>::default();
    blocks.into_iter().fold(nothing, |all, block| Scanned {
        sum_of_squares: all.sum_of_squares + block.sum_of_squares,
        max_magnitude: larger(all.max_magnitude, block.max_magnitude),
        non_finite: all.non_finite + block.non_finite,
    })
}

/// Compiles to a single `max` instruction, unlike `f32::max`.
#[inline(always)]
fn larger<T: PartialOrd>(left: T, right: T) -> T {
    if right > left { right } else { left }
}

/// Reads a block assuming that it is finite, and again with filtering if it may not be.
fn scan_block<E: Element>(block: &[E]) -> Scanned<E::Wide> {
    let scanned = scan_block_with(block, |value| value);
    // Any NaN or infinity makes the sum non-finite, so checking the sum keeps branches out of the
    // hot loop.
    if scanned.sum_of_squares.is_finite() {
        return scanned;
    }
    let non_finite = block.iter().filter(|value| !value.is_finite()).count() as u64;
    let finite_or_zero = |value: E| {
        if value.is_finite() {
            value
        } else {
            E::default()
        }
    };
    Scanned {
        non_finite,
        ..scan_block_with(block, finite_or_zero)
    }
}

#[inline(always)]
fn scan_block_with<E: Element>(block: &[E], filter: impl Fn(E) -> E) -> Scanned<E::Wide> {
    let mut sums = [0.0_f64; LANES];
    let mut maxima = [E::Wide::default(); LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        let magnitudes = chunk.map(|value| filter(value).magnitude());
        for (maximum, magnitude) in maxima.iter_mut().zip(magnitudes) {
            *maximum = larger(*maximum, magnitude);
        }
        let wide: [f64; LANES] = magnitudes.map(Into::into);
        for (sum, wide) in sums.iter_mut().zip(wide) {
            *sum += wide * wide;
        }
    }
    for ((&value, sum), maximum) in rest.iter().zip(&mut sums).zip(&mut maxima) {
        let magnitude = filter(value).magnitude();
        let wide: f64 = magnitude.into();
        *sum += wide * wide;
        *maximum = larger(*maximum, magnitude);
    }
    Scanned {
        sum_of_squares: add_pairwise(sums),
        max_magnitude: maxima.into_iter().fold(E::Wide::default(), larger),
        non_finite: 0,
    }
}
