//! The one read of single precision, as a function that a caller can replace by a faster one.

use alloc::vec::Vec;

use crate::measure::scan_values;

/// What one read of a tensor of single precision tells. Non-finite elements are counted, and stand
/// for zeros in the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scanned {
    /// The sum of the squares, added in the order that [`scan`] describes.
    pub sum_of_squares: f64,
    /// The largest magnitude, zero without elements.
    pub max_magnitude: f32,
    /// How many elements are NaN or infinite.
    pub non_finite: u64,
}

/// A function that reads all of some tensors, on up to so many threads, and gives what it found in
/// each, in their order.
///
/// # Contract
///
/// The result has the bits of [`scan`], for any number of threads. `gradclip-suite` has a check
/// of that (`check_scan`).
pub type Scan = fn(tensors: &[&[f32]], threads: usize) -> Vec<Scanned>;

/// The scan that a [`Clipper`](crate::Clipper) has unless told otherwise: plain loops, which are
/// compiled for the processor that the whole program is compiled for.
///
/// A faster one, with vector instructions that are chosen at run time or with a pool of threads,
/// has to add in the same order. All sums are in `f64`, where the square of an `f32` is exact:
///
/// * A tensor is cut into blocks of 65,536 elements, the last one shorter. The sums of the blocks
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
    tensors.map(|values| scan_values(values, threads)).collect()
}
