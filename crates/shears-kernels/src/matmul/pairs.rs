//! Factors in bf16: two neighbours along the inner dimension are one element, which takes the place
//! of an `f32`. Layouts, blocks and loops are then those of `f32` with half the inner dimension.

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::vector::prefetch_row;

use super::panels::ROWS_AHEAD;

/// The inner dimension is a multiple of this many pairs: what a tile register of AMX holds of a
/// row.
const GRAIN: usize = 16;

/// Rows of a left factor for which there is room: the tallest tile of AMX may read them all.
const ROWS: usize = 32;

/// How many pairs the inner dimension of a product has; those behind its end are zeros.
pub(super) fn count(inner: usize) -> usize {
    inner.div_ceil(2).next_multiple_of(GRAIN)
}

/// Two neighbours, each rounded to the nearest bf16, ties to even; as an `f32` the bits have no
/// meaning.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
}

/// The bits of an `f32`, rounded so that their upper half is its bf16. A NaN stays one.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let is_odd = bits >> 16 & 1;
    match x.is_nan() {
        true => bits | 0x0040_0000,
        false => bits.wrapping_add(0x7fff + is_odd),
    }
}

/// Rows `[rows, inner]`, which lie `stride` elements apart, as rows of pairs in scratch: gives it,
/// and the distance between its rows.
#[inline(always)]
pub(super) fn rows<S: Simd>(
    simd: S,
    (a, stride): (&[f32], usize),
    rows: usize,
    inner: usize,
) -> (Buffer, usize) {
    let count = count(inner);
    let mut pairs = Buffer::uninitialised(rows.next_multiple_of(ROWS) * count);
    simd.vectorize(ConvertRows {
        a,
        stride,
        inner,
        pairs: &mut pairs[..rows * count],
        count,
    });
    (pairs, count)
}

struct ConvertRows<'a> {
    a: &'a [f32],
    stride: usize,
    inner: usize,
    pairs: &'a mut [f32],
    count: usize,
}

impl WithSimd for ConvertRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if self.count == 0 {
            return;
        }
        for (row, pairs) in self.pairs.chunks_exact_mut(self.count).enumerate() {
            let row = &self.a[row * self.stride..][..self.inner];
            let (neighbours, last) = row.as_chunks::<2>();
            for (out, [first, second]) in pairs.iter_mut().zip(neighbours) {
                *out = pair(*first, *second);
            }
            let mut rest = neighbours.len();
            if let [last] = last {
                pairs[rest] = pair(*last, 0.0);
                rest += 1;
            }
            pairs[rest..].fill(0.0);
        }
    }
}

/// Rows `2 k` and `2 k + 1` of `inner` ones, element by element as pairs; a row that is not there
/// is zeros.
#[inline(always)]
pub(super) fn interleave<'a>(
    k: usize,
    inner: usize,
    row: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    if 2 * k + 1 < inner {
        for ((out, first), second) in out.iter_mut().zip(row(2 * k)).zip(row(2 * k + 1)) {
            *out = pair(*first, *second);
        }
    } else if 2 * k < inner {
        for (out, first) in out.iter_mut().zip(row(2 * k)) {
            *out = pair(*first, 0.0);
        }
    } else {
        out.fill(0.0);
    }
}

/// Rows `2 k` and `2 k + 1` of `B`, which lie `stride` elements apart, as a row of pairs; a row
/// that is not there is zeros.
pub(super) struct InterleaveRows<'a> {
    pub(super) b: &'a [f32],
    pub(super) stride: usize,
    pub(super) inner: usize,
    /// The pairs of rows.
    pub(super) range: std::ops::Range<usize>,
    pub(super) given: usize,
    /// `[range, width]`
    pub(super) panel: &'a mut [f32],
    pub(super) width: usize,
}

impl WithSimd for InterleaveRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.range.zip(self.panel.chunks_exact_mut(self.width));
        for (k, out) in rows {
            let row = |row: usize| {
                let row = &self.b[row * self.stride..][..self.given];
                prefetch_row(row, ROWS_AHEAD * self.stride);
                row
            };
            let (given, padding) = out.split_at_mut(self.given);
            interleave(k, self.inner, row, given);
            padding.fill(0.0);
        }
    }
}

/// The first `given` rows of `inner` elements of a weight, which lie `stride` elements apart, as
/// the columns of a panel.
pub(super) struct TransposeRows<'a> {
    pub(super) weight: &'a [f32],
    pub(super) stride: usize,
    pub(super) inner: usize,
    pub(super) given: usize,
    /// `[count(inner), width]`
    pub(super) panel: &'a mut [f32],
    pub(super) width: usize,
}

impl WithSimd for TransposeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.panel.fill(0.0);
        if self.inner == 0 {
            return;
        }
        for column in 0..self.given {
            let row = &self.weight[column * self.stride..][..self.inner];
            let (neighbours, last) = row.as_chunks::<2>();
            let out = self.panel[column..].iter_mut().step_by(self.width);
            let last = last.iter().map(|last| pair(*last, 0.0));
            let pairs = neighbours
                .iter()
                .map(|[first, second]| pair(*first, *second));
            for (out, pair) in out.zip(pairs.chain(last)) {
                *out = pair;
            }
        }
    }
}
