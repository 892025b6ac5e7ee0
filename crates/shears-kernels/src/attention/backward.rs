//! From the gradient of the mixture to those of queries, keys and values.

use pulp::{Simd, WithSimd};

use super::forward::causal_product;
use super::{Attention, Buffer, Cpu, QUERIES_AT_ONCE, Rows, Scratch, Shared};
use crate::math::exp;
use crate::matmul::{Initial, Left, Panels};

/// What the forward pass has saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixture<'a> {
    /// `[batch, time, heads x width]`
    pub(crate) mixed: Rows<'a>,
    /// Its gradient.
    pub(crate) gradient: Rows<'a>,
    /// See [`super::forward()`].
    pub(crate) softmax: &'a [f32],
}

/// Writes the gradients of queries, keys and values, in this order, side by side in rows
/// `[batch, time, 3 x heads x width]`.
pub(crate) fn backward(
    cpu: Cpu,
    attention: Attention,
    [queries, keys, values]: [Rows<'_>; 3],
    Mixture {
        mixed,
        gradient,
        softmax,
    }: Mixture<'_>,
    out: &mut [f32],
) {
    assert_eq!(attention.past, 0, "gradients stop at earlier windows");
    let out = Shared::new(out);
    attention.each_head(cpu, |index| {
        cpu.run(HeadBackward {
            attention,
            index,
            queries: queries.head(attention, index),
            keys: keys.head(attention, index),
            values: values.head(attention, index),
            mixed: mixed.head(attention, index),
            gradient: gradient.head(attention, index),
            softmax: &softmax[2 * index * attention.time..][..2 * attention.time],
            out,
        });
    });
}

/// One head of one element of the batch.
struct HeadBackward<'a, 'b> {
    attention: Attention,
    index: usize,
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
    mixed: (&'a [f32], usize),
    gradient: (&'a [f32], usize),
    softmax: &'a [f32],
    /// Of which each head writes its own columns.
    out: Shared<'b, f32>,
}

impl WithSimd for HeadBackward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Attention { time, width, .. } = self.attention;
        let stride = self.attention.score_stride();
        let sizes = [
            Panels::len::<S>(width, time),
            Panels::len::<S>(time, width),
            Panels::len::<S>(width, time),
            Panels::len::<S>(QUERIES_AT_ONCE, width),
            QUERIES_AT_ONCE * stride,
            QUERIES_AT_ONCE * stride,
            QUERIES_AT_ONCE * width,
            time * width,
            time * width,
        ];
        let mut buffer = Buffer::uninitialised(sizes.iter().sum());
        let mut scratch = Scratch(&mut buffer);
        let parts = sizes.map(|size| scratch.take(size));
        let [
            transposed,
            plain,
            values,
            right,
            weights,
            scores,
            block,
            keys_sum,
            values_sum,
        ] = parts;
        keys_sum.fill(0.0);
        values_sum.fill(0.0);
        let transposed_keys = Panels::transposed(simd, self.keys, time, width, transposed);
        let plain_keys = Panels::plain(simd, self.keys, time, width, plain);
        let transposed_values = Panels::transposed(simd, self.values, time, width, values);
        for first in (0..time).step_by(QUERIES_AT_ONCE) {
            let rows = QUERIES_AT_ONCE.min(time - first);
            let end = first + rows;
            let queries = from_row(self.queries, first);
            let gradient = from_row(self.gradient, first);
            let products = [
                (transposed_keys, queries, &mut *weights),
                (transposed_values, gradient, &mut *scores),
            ];
            for (right, left, out) in products {
                causal_product(simd, right, left, (out, stride), rows, first + 1);
            }
            for row in 0..rows {
                let weights = &mut weights[row * stride..(row + 1) * stride];
                let scores = &mut scores[row * stride..(row + 1) * stride];
                self.differentiate(simd, first + row, end, weights, scores);
            }
            // Queries: the scores' gradients times the keys.
            let left = Left::rows(scores, stride);
            let out = (&mut *block, width);
            plain_keys.multiply_all(simd, left, out, (rows, end), Initial::Zero);
            self.write(0, first, &block[..rows * width]);
            // Keys and values: sums over the queries, to which this block adds.
            let blocks = [
                (&*weights, gradient, &mut *values_sum),
                (&*scores, queries, &mut *keys_sum),
            ];
            for (left, source, sum) in blocks {
                let panels = Panels::plain(simd, source, rows, width, right);
                let left = Left::columns(left, stride);
                panels.multiply_all(simd, left, (sum, width), (end, rows), Initial::Result);
            }
        }
        self.write(1, 0, keys_sum);
        self.write(2, 0, values_sum);
    }
}

fn from_row((elements, stride): (&[f32], usize), row: usize) -> (&[f32], usize) {
    (&elements[row * stride..], stride)
}

impl HeadBackward<'_, '_> {
    /// For one query, turns scores into the weights of the values and, in place of the weights'
    /// gradients, writes those of the scores. Zeros beyond what the query may look at.
    #[inline(always)]
    fn differentiate<S: Simd>(
        &self,
        simd: S,
        query: usize,
        end: usize,
        weights: &mut [f32],
        scores: &mut [f32],
    ) {
        let width = self.attention.width;
        let seen = query + 1;
        // The weights' gradients, averaged with the weights, are this product (Dao et al. 2022,
        // appendix B.2).
        let mean = dot(
            simd,
            &self.mixed.0[query * self.mixed.1..][..width],
            &self.gradient.0[query * self.gradient.1..][..width],
        );
        let scale = self.attention.scale();
        let padded = seen.next_multiple_of(S::F32_LANES);
        let (factor, shift) = (
            simd.splat_f32s(scale),
            simd.splat_f32s(-self.softmax[2 * query]),
        );
        let share = simd.splat_f32s(self.softmax[2 * query + 1]);
        let minus_mean = simd.splat_f32s(-mean);
        if let Some(mask) = self.attention.mask {
            let number = self.index * self.attention.time + query;
            for (group, gradients) in scores[..padded].chunks_mut(64).enumerate() {
                let factors = mask.factors(simd, number, group);
                let weights = &mut weights[64 * group..][..gradients.len()];
                let (factors, _) = S::as_simd_f32s(&factors);
                let (weights, _) = S::as_mut_simd_f32s(weights);
                let (gradients, _) = S::as_mut_simd_f32s(gradients);
                for ((weight, gradient), kept) in weights.iter_mut().zip(gradients).zip(factors) {
                    let p = exp(simd, simd.mul_add_e_f32s(*weight, factor, shift));
                    let p = simd.mul_f32s(p, share);
                    let difference = simd.mul_add_e_f32s(*gradient, *kept, minus_mean);
                    *weight = simd.mul_f32s(p, *kept);
                    *gradient = simd.mul_f32s(simd.mul_f32s(p, factor), difference);
                }
            }
        } else {
            let (weights, _) = S::as_mut_simd_f32s(&mut weights[..padded]);
            let (gradients, _) = S::as_mut_simd_f32s(&mut scores[..padded]);
            for (weight, gradient) in weights.iter_mut().zip(gradients) {
                let p = exp(simd, simd.mul_add_e_f32s(*weight, factor, shift));
                let p = simd.mul_f32s(p, share);
                let difference = simd.add_f32s(*gradient, minus_mean);
                *weight = p;
                *gradient = simd.mul_f32s(simd.mul_f32s(p, factor), difference);
            }
        }
        weights[seen..end.max(padded)].fill(0.0);
        scores[seen..end.max(padded)].fill(0.0);
    }

    /// Writes rows of the result from row `first` on; part 0 are queries, 1 keys, 2 values.
    #[inline(always)]
    fn write(&self, part: usize, first: usize, rows: &[f32]) {
        let Attention { heads, width, .. } = self.attention;
        for (row, values) in rows.chunks_exact(width).enumerate() {
            let place = (self.attention).place(self.index, first + row, 3 * heads * width);
            let start = place.start + part * heads * width;
            // SAFETY: each row of each part of each head is written once.
            let out = unsafe { self.out.part(start..start + width) };
            out.copy_from_slice(values);
        }
    }
}

/// The inner product of two rows.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest = a_rest.iter().zip(b_rest);
    rest.fold(simd.reduce_sum_f32s(sum), |sum, (a, b)| sum + a * b)
}
