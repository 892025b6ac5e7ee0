//! From the gradient of the mixture to those of queries, keys and values.

use pulp::{Simd, WithSimd};

use super::forward::causal_product;
use super::{Attention, Buffer, Cpu, Head, QUERIES_AT_ONCE, Rows, Scratch, Shared, from_row};
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
/// `[batch, time, (heads + 2 x heads of keys) x width]`.
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

/// A head of keys and values of one element of the batch, and the heads of queries that read it.
struct Group<'a, 'b> {
    attention: Attention,
    index: usize,
    parts: [Rows<'a>; 3],
    mixture: Mixture<'a>,
    /// Of which each group writes its own columns.
    out: Shared<'b, f32>,
}

/// Keys and values in the orders in which products read them.
#[derive(Clone, Copy)]
struct Packed<'a> {
    keys: Panels<'a>,
    transposed_keys: Panels<'a>,
    transposed_values: Panels<'a>,
}

/// What the heads of a group use one after the other: room for a block of queries, and the sums
/// over all of them that are the gradients of keys and values.
struct Room<'a> {
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
        let Attention {
            time, width, heads, ..
        } = self.attention;
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
        let shared = self.parts[1].heads;
        let members = heads / shared;
        let first = self.attention.head(self.index * members, self.parts);
        let packed = Packed {
            transposed_keys: Panels::transposed(simd, first.keys, time, width, transposed),
            keys: Panels::plain(simd, first.keys, time, width, plain),
            transposed_values: Panels::transposed(simd, first.values, time, width, values),
        };
        let mut room = Room {
            right,
            weights,
            scores,
            block,
            keys_sum,
            values_sum,
        };
        for member in 0..members {
            self.add_head(simd, self.index * members + member, packed, &mut room);
        }
        let column = heads + self.index % shared;
        self.write(column, 0, room.keys_sum);
        self.write(column + shared, 0, room.values_sum);
    }
}

impl Group<'_, '_> {
    /// Writes the gradients of a head of queries, and adds to those of keys and values.
    #[inline(always)]
    fn add_head<S: Simd>(&self, simd: S, index: usize, packed: Packed<'_>, room: &mut Room<'_>) {
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
        let Room {
            weights, scores, ..
        } = room;
        for first in (0..time).step_by(QUERIES_AT_ONCE) {
            let rows = QUERIES_AT_ONCE.min(time - first);
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
            // Queries: the scores' gradients times the keys.
            let left = Left::rows(scores, stride);
            let out = (&mut *room.block, width);
            packed
                .keys
                .multiply_all(simd, left, out, (rows, end), Initial::Zero);
            self.write(index % attention.heads, first, &room.block[..rows * width]);
            // Keys and values: sums over the queries, to which this block adds.
            let blocks = [
                (&**weights, gradient, &mut *room.values_sum),
                (&**scores, queries, &mut *room.keys_sum),
            ];
            for (left, source, sum) in blocks {
                let panels = Panels::plain(simd, source, rows, width, room.right);
                let left = Left::columns(left, stride);
                panels.multiply_all(simd, left, (sum, width), (end, rows), Initial::Result);
            }
        }
    }

    /// Writes a head's rows of the result from row `first` on. Heads of queries come first, then
    /// those of keys, then those of values.
    #[inline(always)]
    fn write(&self, head: usize, first: usize, rows: &[f32]) {
        let Attention {
            time, width, heads, ..
        } = self.attention;
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

/// A head of queries.
struct HeadBackward<'a> {
    attention: Attention,
    head: Head<'a>,
    mixed: (&'a [f32], usize),
    gradient: (&'a [f32], usize),
    softmax: &'a [f32],
}

impl HeadBackward<'_> {
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

/// The inner product of two rows of one length. Four vectors at a time are what the compiler makes of a plain
/// loop, too; written out, there is no loop for those that are left over.
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
