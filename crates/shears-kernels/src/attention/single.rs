//! Attention with one query, as in generation. Nothing is packed, because each key and value is
//! used once.

use pulp::{Simd, WithSimd};

use super::backward::dot;
use super::forward::exponentials;
use super::{Attention, Buffer, Cpu, Head, Rows, Shared};
use crate::vector::{load, store};

/// [`super::forward()`] for one query.
pub(crate) fn single(cpu: Cpu, attention: Attention, parts: [Rows<'_>; 3], mixed: &mut [f32]) {
    assert_eq!(attention.time, 1, "queries");
    let width = attention.width;
    let heads = attention.batch * attention.heads;
    let read = 2 * heads * attention.keys() * width * size_of::<f32>();
    let mixed = Shared::new(mixed);
    cpu.for_one_read(read).split(heads, 1, |range| {
        for index in range {
            cpu.run(HeadOfOneQuery {
                attention,
                head: attention.head(index, parts),
                // SAFETY: each head has its own part.
                mixed: unsafe { mixed.part(index * width..(index + 1) * width) },
            });
        }
    });
}

struct HeadOfOneQuery<'a> {
    attention: Attention,
    head: Head<'a>,
    mixed: &'a mut [f32],
}

impl WithSimd for HeadOfOneQuery<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (end, width) = (self.attention.keys(), self.attention.width);
        let mut scores = Buffer::uninitialised(self.attention.score_stride());
        let query = &self.head.queries.0[..width];
        let (keys, stride) = self.head.keys;
        for (key, score) in scores[..end].iter_mut().enumerate() {
            *score = dot(simd, query, &keys[key * stride..][..width]);
        }
        let (_, sum) = exponentials(simd, &mut scores, end, end, self.attention.scale());
        let mean = WeightedMean {
            weights: &scores[..end],
            factor: 1.0 / sum,
            values: self.head.values,
        };
        let mut first = 0;
        while first < width {
            let mixed = &mut self.mixed[first..width];
            first += match mixed.len() / S::F32_LANES {
                0 => mean.rest(simd, first, mixed),
                1 => mean.columns::<S, 1>(simd, first, mixed),
                2 | 3 => mean.columns::<S, 2>(simd, first, mixed),
                _ => mean.columns::<S, 4>(simd, first, mixed),
            };
        }
    }
}

/// The weighted sum of the values, times a factor.
struct WeightedMean<'a> {
    weights: &'a [f32],
    factor: f32,
    values: (&'a [f32], usize),
}

impl WeightedMean<'_> {
    /// Computes `VECTORS` vectors of columns starting at `first`, and returns the number of
    /// columns. Each vector has its own accumulator, so that a weight is read once for all, without
    /// dependent sums.
    #[inline(always)]
    fn columns<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        first: usize,
        mixed: &mut [f32],
    ) -> usize {
        let lanes = S::F32_LANES;
        let (values, stride) = self.values;
        let mut sums = [simd.splat_f32s(0.0); VECTORS];
        for (weight, value) in self.weights.iter().zip(values[first..].chunks(stride)) {
            let (weight, value) = (simd.splat_f32s(*weight), &value[..VECTORS * lanes]);
            for (sum, value) in sums.iter_mut().zip(value.chunks_exact(lanes)) {
                *sum = simd.mul_add_e_f32s(weight, load(simd, value), *sum);
            }
        }
        let factor = simd.splat_f32s(self.factor);
        for (sum, mixed) in sums.into_iter().zip(mixed.chunks_exact_mut(lanes)) {
            store(simd, mixed, simd.mul_f32s(sum, factor));
        }
        VECTORS * lanes
    }

    /// Computes the last columns, fewer than a vector.
    #[inline(always)]
    fn rest<S: Simd>(&self, simd: S, first: usize, mixed: &mut [f32]) -> usize {
        let (values, stride) = self.values;
        let mut sum = simd.splat_f32s(0.0);
        for (weight, value) in self.weights.iter().zip(values[first..].chunks(stride)) {
            let value = load(simd, &value[..mixed.len()]);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(*weight), value, sum);
        }
        store(
            simd,
            mixed,
            simd.mul_f32s(sum, simd.splat_f32s(self.factor)),
        );
        mixed.len()
    }
}
