//! One query, as in generation: nothing is brought into another order, because each key and each
//! value is used once.

use pulp::{Simd, WithSimd};

use super::backward::dot;
use super::forward::exponentials;
use super::{Attention, Buffer, Cpu, Rows, Shared};
use crate::vector::{load, store};

/// [`super::forward()`] for an attention of one query.
pub(crate) fn single(
    cpu: Cpu,
    attention: Attention,
    [queries, keys, values]: [Rows<'_>; 3],
    mixed: &mut [f32],
) {
    assert_eq!(attention.time, 1, "queries");
    let width = attention.width;
    let mixed = Shared::new(mixed);
    cpu.split(attention.batch * attention.heads, 1, |range| {
        for index in range {
            cpu.run(Head {
                attention,
                query: &queries.head(attention, index).0[..width],
                keys: keys.head(attention, index),
                values: values.head(attention, index),
                // SAFETY: each head has its own part.
                mixed: unsafe { mixed.part(index * width..(index + 1) * width) },
            });
        }
    });
}

struct Head<'a> {
    attention: Attention,
    query: &'a [f32],
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
    mixed: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (end, width) = (self.attention.keys(), self.attention.width);
        let mut scores = Buffer::uninitialised(self.attention.score_stride());
        let (keys, stride) = self.keys;
        for (key, score) in scores[..end].iter_mut().enumerate() {
            *score = dot(simd, self.query, &keys[key * stride..][..width]);
        }
        let (_, sum) = exponentials(simd, &mut scores, end, end, self.attention.scale());
        let (values, stride) = self.values;
        for first in (0..width).step_by(S::F32_LANES) {
            let columns = first..width.min(first + S::F32_LANES);
            let mut mixture = simd.splat_f32s(0.0);
            for (key, weight) in scores[..end].iter().enumerate() {
                let value = &values[key * stride..][columns.clone()];
                mixture = simd.mul_add_e_f32s(simd.splat_f32s(*weight), load(simd, value), mixture);
            }
            let mixture = simd.mul_f32s(mixture, simd.splat_f32s(1.0 / sum));
            store(simd, &mut self.mixed[columns], mixture);
        }
    }
}
