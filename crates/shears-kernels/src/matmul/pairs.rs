//! bf16 factors: two neighbours along the inner dimension form one element the size of an `f32`.
//! Layouts, blocks and loops are the same as for `f32` with half the inner dimension.

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::vector::prefetch_row;

use super::panels::{ROWS_AHEAD, transpose_panel};

/// The inner dimension is padded to a multiple of this many pairs, the row of an AMX tile register.
const GRAIN: usize = 16;

/// The rows of a left factor are padded to a multiple of this, which the tallest AMX tile reads.
const ROWS: usize = 32;

/// The number of pairs of an inner dimension, with zero pairs as padding.
pub(super) fn count(inner: usize) -> usize {
    inner.div_ceil(2).next_multiple_of(GRAIN)
}

/// Rounds two neighbours to bf16, to nearest and ties to even. The `f32` only carries the bits.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
}

/// The bits of an `f32`, rounded such that the upper half is its bf16. NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let is_odd = bits >> 16 & 1;
    match x.is_nan() {
        true => bits | 0x0040_0000,
        false => bits.wrapping_add(0x7fff + is_odd),
    }
}

/// Converts rows `[rows, inner]`, `stride` elements apart, to rows of pairs. Returns them and their
/// stride.
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

/// Interleaves rows `2 k` and `2 k + 1`, of `inner` rows, into pairs; missing rows count as zeros.
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

/// Packs rows `2 k` and `2 k + 1` of `B`, `stride` elements apart, as a row of pairs; missing rows
/// count as zeros.
pub(super) struct InterleaveRows<'a> {
    pub(super) b: &'a [f32],
    pub(super) stride: usize,
    pub(super) inner: usize,
    /// The indices of the row pairs.
    pub(super) range: std::ops::Range<usize>,
    pub(super) valid: usize,
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
                let row = &self.b[row * self.stride..][..self.valid];
                prefetch_row(row, ROWS_AHEAD * self.stride);
                row
            };
            let (valid, padding) = out.split_at_mut(self.valid);
            interleave(k, self.inner, row, valid);
            padding.fill(0.0);
        }
    }
}

/// Transposes the first `valid` rows of a weight, of `inner` elements and `stride` apart, into the
/// columns of a panel.
pub(super) struct TransposeRows<'a> {
    pub(super) weight: &'a [f32],
    pub(super) stride: usize,
    pub(super) inner: usize,
    pub(super) valid: usize,
    /// `[count(inner), width]`
    pub(super) panel: &'a mut [f32],
    pub(super) width: usize,
}

impl WithSimd for TransposeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (pairs, count) = rows(simd, (self.weight, self.stride), self.valid, self.inner);
        transpose_panel(&pairs, count, count, self.valid, self.width, self.panel);
    }
}
