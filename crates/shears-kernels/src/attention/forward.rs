//! The forward pass.

use pulp::{Simd, WithSimd};

use super::{Arena, Attention, Buffer, Cpu, Head, QUERY_BLOCK, Rows, Shared, from_row};
use crate::math::exp;
use crate::matmul::{Initial, Left, Panels};

/// Writes the output to `mixed` `[batch, time, heads x width]`, and for each query the largest
/// score and the reciprocal of the softmax's denominator to `softmax` `[batch, heads, time, 2]`.
pub(crate) fn forward(
    cpu: Cpu,
    attention: Attention,
    parts: [Rows<'_>; 3],
    mixed: &mut [f32],
    softmax: &mut [f32],
) {
    let (mixed, softmax) = (Shared::new(mixed), Shared::new(softmax));
    cpu.each(attention.batch * attention.heads, |index| {
        let count = 2 * attention.time;
        // SAFETY: each head has its own part.
        let softmax = unsafe { softmax.part(index * count..(index + 1) * count) };
        cpu.run(HeadForward {
            attention,
            head: attention.head(index, parts),
            mixed,
            softmax,
        });
    });
}

struct HeadForward<'a, 'b> {
    attention: Attention,
    head: Head<'a>,
    /// Each head writes its own columns.
    mixed: Shared<'b, f32>,
    softmax: &'a mut [f32],
}

impl WithSimd for HeadForward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let attention = self.attention;
        let (time, width, heads) = (attention.time, attention.width, attention.heads);
        let head = self.head;
        let (keys, stride) = (self.attention.keys(), self.attention.score_stride());
        let sizes = [
            Panels::len::<S>(width, keys),
            Panels::len::<S>(keys, width),
            QUERY_BLOCK * stride,
            QUERY_BLOCK * width,
        ];
        let mut buffer = Buffer::uninitialised(sizes.iter().sum());
        let mut scratch = Arena(&mut buffer);
        let [key_part, value_part, scores, block] = sizes.map(|size| scratch.take(size));
        let key_panels = Panels::transposed(simd, head.keys, keys, width, key_part);
        let value_panels = Panels::plain(simd, head.values, keys, width, value_part);
        for first in (0..time).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(time - first);
            // The numbers of keys visible to the block's first and last query.
            let seen = self.attention.past + first + 1;
            let seen_by_last = seen + rows - 1;
            let queries = from_row(head.queries, first);
            causal_product(simd, key_panels, queries, (scores, stride), rows, seen);
            for row in 0..rows {
                let scores = &mut scores[row * stride..(row + 1) * stride];
                let scale = self.attention.scale();
                let (most, sum) = exponentials(simd, scores, seen + row, seen_by_last, scale);
                let softmax = &mut self.softmax[2 * (first + row)..][..2];
                softmax.copy_from_slice(&[most, 1.0 / sum]);
                if let Some(mask) = self.attention.mask {
                    let number = head.index * time + first + row;
                    mask.multiply(simd, number, &mut scores[..seen + row]);
                }
            }
            let left = Left::rows(scores, stride);
            let (out, sizes) = ((&mut *block, width), (rows, seen_by_last));
            value_panels.multiply_all(simd, left, out, sizes, Initial::Zero);
            for (row, block) in block.chunks_exact(width).take(rows).enumerate() {
                let (element, column) = (head.index / heads, head.index % heads * width);
                let start = (element * time + first + row) * heads * width + column;
                // SAFETY: each row of each head is written once.
                let mixed = unsafe { self.mixed.part(start..start + width) };
                let factor = self.softmax[2 * (first + row) + 1];
                for (mixed, value) in mixed.iter_mut().zip(block) {
                    *mixed = value * factor;
                }
            }
        }
    }
}

/// A product with keys or values, `seen` of which are visible to the block's first row, and one
/// more to each following row. Masked columns get arbitrary values.
#[inline(always)]
pub(super) fn causal_product<S: Simd>(
    simd: S,
    panels: Panels<'_>,
    (a, a_stride): (&[f32], usize),
    (c, c_stride): (&mut [f32], usize),
    rows: usize,
    seen: usize,
) {
    let inner = panels.inner();
    for panel in 0..(seen + rows - 1).div_ceil(2 * S::F32_LANES) {
        // Earlier rows see nothing of the panel.
        let first = (panel * 2 * S::F32_LANES + 1).saturating_sub(seen);
        let a = Left::rows(&a[first * a_stride..], a_stride);
        let c = (&mut c[first * c_stride..], c_stride);
        panels.multiply(
            simd,
            panel..panel + 1,
            a,
            c,
            (rows - first, inner),
            Initial::Zero,
        );
    }
}

/// Replaces a row of scores by `exp(scale score - most)`, where `most` is the largest `scale
/// score`, and zeros from `seen` to `end`. Returns `most` and the sum.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(
    simd: S,
    scores: &mut [f32],
    seen: usize,
    end: usize,
    scale: f32,
) -> (f32, f32) {
    let padded = seen.next_multiple_of(S::F32_LANES);
    scores[seen..padded].fill(f32::NEG_INFINITY);
    let (vectors, _) = S::as_mut_simd_f32s(&mut scores[..padded]);
    let mut most = simd.splat_f32s(f32::NEG_INFINITY);
    for x in &*vectors {
        most = simd.max_f32s(*x, most);
    }
    let most = scale * simd.reduce_max_f32s(most);
    let (factor, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-most));
    let mut sum = simd.splat_f32s(0.0);
    for x in vectors {
        *x = exp(simd, simd.mul_add_e_f32s(*x, factor, shift));
        sum = simd.add_f32s(sum, *x);
    }
    // The exponentials of the padding are zero, or too small to change the sum.
    scores[seen..end.max(seen)].fill(0.0);
    (most, simd.reduce_sum_f32s(sum))
}
