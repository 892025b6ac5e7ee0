//! The backward pass: the gradients of queries, keys and values.

use pulp::{Simd, WithSimd};

use super::forward::causal_product;
use super::{Arena, Attention, Buffer, Cpu, Head, QUERY_BLOCK, Rows, Shared, from_row};
use crate::math::exp;
use crate::matmul::{Initial, Left, Panels};

/// The output of the attention, its gradient, and what the forward pass saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixture<'a> {
    /// `[batch, time, heads x width]`
    pub(crate) mixed: Rows<'a>,
    /// Its gradient.
    pub(crate) gradient: Rows<'a>,
    /// See [`super::forward()`].
    pub(crate) softmax: &'a [f32],
}

/// Writes the gradients of queries, keys and values, in this order, to rows `[batch, time, (heads +
/// 2 x key heads) x width]`.
pub(crate) fn backward(
    cpu: Cpu,
    attention: Attention,
    parts: [Rows<'_>; 3],
    mixture: Mixture<'_>,
    out: &mut [f32],
) {
    assert_eq!(attention.past, 0, "gradients stop at earlier windows");
    let out = Shared::new(out);
    cpu.each(attention.batch * parts[1].heads, |index| {
        cpu.run(Group {
            attention,
            index,
            parts,
            mixture,
            out,
        });
    });
}

/// A key and value head of one sequence, and the query heads that read it.
struct Group<'a, 'b> {
    attention: Attention,
    index: usize,
    parts: [Rows<'a>; 3],
    mixture: Mixture<'a>,
    /// Each group writes its own columns.
    out: Shared<'b, f32>,
}

/// Keys and values, packed for the products.
#[derive(Clone, Copy)]
struct Packed<'a> {
    keys: Panels<'a>,
    transposed_keys: Panels<'a>,
    transposed_values: Panels<'a>,
}

/// Scratch that the heads of a group reuse: a block of queries, and the accumulated gradients of
/// keys and values.
struct GroupScratch<'a> {
    right: &'a mut [f32],
    weights: &'a mut [f32],
    scores: &'a mut [f32],
    block: &'a mut [f32],
    keys_sum: &'a mut [f32],
    values_sum: &'a mut [f32],
}

impl WithSimd for Group<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let attention = self.attention;
        let (time, width, heads) = (attention.time, attention.width, attention.heads);
        let stride = self.attention.score_stride();
        let sizes = [
            Panels::len::<S>(width, time),
            Panels::len::<S>(time, width),
            Panels::len::<S>(width, time),
            Panels::len::<S>(QUERY_BLOCK, width),
            QUERY_BLOCK * stride,
            QUERY_BLOCK * stride,
            QUERY_BLOCK * width,
            time * width,
            time * width,
        ];
        let mut buffer = Buffer::uninitialised(sizes.iter().sum());
        let mut parts = Arena(&mut buffer);
        let parts = sizes.map(|size| parts.take(size));
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
        let shared = self.parts[1].heads;
        let members = heads / shared;
        let first = self.attention.head(self.index * members, self.parts);
        let packed = Packed {
            transposed_keys: Panels::transposed(simd, first.keys, time, width, transposed),
            keys: Panels::plain(simd, first.keys, time, width, plain),
            transposed_values: Panels::transposed(simd, first.values, time, width, values),
        };
        let mut scratch = GroupScratch {
            right,
            weights,
            scores,
            block,
            keys_sum,
            values_sum,
        };
        for member in 0..members {
            self.add_head(simd, self.index * members + member, packed, &mut scratch);
        }
        let column = heads + self.index % shared;
        self.write(column, 0, scratch.keys_sum);
        self.write(column + shared, 0, scratch.values_sum);
    }
}

impl Group<'_, '_> {
    /// Writes the gradients of a query head, and accumulates those of keys and values.
    #[inline(always)]
    fn add_head<S: Simd>(
        &self,
        simd: S,
        index: usize,
        packed: Packed<'_>,
        scratch: &mut GroupScratch<'_>,
    ) {
        let attention = self.attention;
        let Attention { time, width, .. } = attention;
        let stride = attention.score_stride();
        let Mixture {
            mixed,
            gradient,
            softmax,
        } = self.mixture;
        let head = HeadBackward {
            attention,
            head: attention.head(index, self.parts),
            mixed: mixed.head(attention, index),
            gradient: gradient.head(attention, index),
            softmax: &softmax[2 * index * time..][..2 * time],
        };
        let GroupScratch {
            weights, scores, ..
        } = scratch;
        for first in (0..time).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(time - first);
            let end = first + rows;
            let queries = from_row(head.head.queries, first);
            let gradient = from_row(head.gradient, first);
            let products = [
                (packed.transposed_keys, queries, &mut **weights),
                (packed.transposed_values, gradient, &mut **scores),
            ];
            for (right, left, out) in products {
                causal_product(simd, right, left, (out, stride), rows, first + 1);
            }
            for row in 0..rows {
                let weights = &mut weights[row * stride..(row + 1) * stride];
                let scores = &mut scores[row * stride..(row + 1) * stride];
                head.differentiate(simd, first + row, end, weights, scores);
            }
            // Queries: the gradients of the scores times the keys.
            let left = Left::rows(scores, stride);
            let out = (&mut *scratch.block, width);
            packed
                .keys
                .multiply_all(simd, left, out, (rows, end), Initial::Zero);
            self.write(
                index % attention.heads,
                first,
                &scratch.block[..rows * width],
            );
            // Keys and values: accumulates the sums over the queries.
            let blocks = [
                (&**weights, gradient, &mut *scratch.values_sum),
                (&**scores, queries, &mut *scratch.keys_sum),
            ];
            for (left, source, sum) in blocks {
                let panels = Panels::plain(simd, source, rows, width, scratch.right);
                let left = Left::columns(left, stride);
                panels.multiply_all(simd, left, (sum, width), (end, rows), Initial::Result);
            }
        }
    }

    /// Writes a head's rows of the result, starting with row `first`. Query heads come first, then
    /// key heads, then value heads.
    #[inline(always)]
    fn write(&self, head: usize, first: usize, rows: &[f32]) {
        let attention = self.attention;
        let (time, width, heads) = (attention.time, attention.width, attention.heads);
        let shared = self.parts[1].heads;
        let row_width = (heads + 2 * shared) * width;
        for (row, values) in rows.chunks_exact(width).enumerate() {
            let row = self.index / shared * time + first + row;
            let start = row * row_width + head * width;
            // SAFETY: each row of each head is written once.
            let out = unsafe { self.out.part(start..start + width) };
            out.copy_from_slice(values);
        }
    }
}

/// One query head.
struct HeadBackward<'a> {
    attention: Attention,
    head: Head<'a>,
    mixed: (&'a [f32], usize),
    gradient: (&'a [f32], usize),
    softmax: &'a [f32],
}

impl HeadBackward<'_> {
    /// For one query, replaces the scores by the weights of the values, and the gradients of the
    /// weights by the gradients of the scores. Masked positions become zero.
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
        // The mean of the weights' gradients under the weights is this product (Dao et al. 2022,
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
            let number = self.head.index * self.attention.time + query;
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
}

/// The inner product of two rows of equal length. The compiler also unrolls a plain loop by four
/// vectors; written out, no remainder loop is needed.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let ((a_fours, a), (b_fours, b)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a_fours.iter().zip(b_fours) {
        for k in 0..4 {
            sum = simd.mul_add_e_f32s(a[k], b[k], sum);
        }
    }
    let ((a_pairs, a), (b_pairs, b)) = (a.as_chunks::<2>(), b.as_chunks::<2>());
    if let ([a, ..], [b, ..]) = (a_pairs, b_pairs) {
        sum = simd.mul_add_e_f32s(a[0], b[0], sum);
        sum = simd.mul_add_e_f32s(a[1], b[1], sum);
    }
    if let ([a, ..], [b, ..]) = (a, b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest = a_rest.iter().zip(b_rest);
    rest.fold(simd.reduce_sum_f32s(sum), |sum, (a, b)| sum + a * b)
}
