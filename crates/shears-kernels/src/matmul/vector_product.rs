//! A weight times one vector: a row of a batch that is too small to pack the weight for.

use pulp::{Simd, WithSimd};

use super::Start;
use crate::cpu::{Cpu, Shared};

/// A batch of fewer rows multiplies a weight as it is: packing it would cost more.
pub(crate) const PACK_FROM: usize = 4;

/// From this size on, a weight times one vector is shared between threads.
const SPLIT_BYTES: usize = 1 << 20;

/// `y = start + W x` for `W` `[rows, inner]`, row after row: one row of a batch.
pub(crate) fn product_with_vector(
    cpu: Cpu,
    weight: &[f32],
    x: &[f32],
    y: &mut [f32],
    start: Start<'_>,
) {
    let inner = x.len();
    if size_of_val(weight) < SPLIT_BYTES {
        cpu.run(MatrixVector {
            weight,
            x,
            y,
            start,
        });
        return;
    }
    let (count, shared) = (y.len(), Shared::new(y));
    cpu.split(count, 16, |rows| {
        let start = match start {
            Start::Bias(bias) => Start::Bias(&bias[rows.clone()]),
            other => other,
        };
        let weight = &weight[rows.start * inner..rows.end * inner];
        // SAFETY: parts do not overlap.
        let y = unsafe { shared.part(rows) };
        cpu.run(MatrixVector {
            weight,
            x,
            y,
            start,
        });
    });
}

/// [`product_with_vector`] on the calling thread.
#[derive(Debug)]
pub(crate) struct MatrixVector<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) x: &'a [f32],
    pub(crate) y: &'a mut [f32],
    pub(crate) start: Start<'a>,
}

impl WithSimd for MatrixVector<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let MatrixVector {
            weight,
            x,
            y,
            start,
        } = self;
        let inner = x.len();
        assert_eq!(weight.len(), y.len() * inner, "the size of a weight");
        let initial = |row: usize, y: f32| match start {
            Start::Zero => 0.0,
            Start::Bias(bias) => bias[row],
            Start::Result => y,
        };
        let (x_vectors, x_rest) = S::as_simd_f32s(x);
        let mut row = 0;
        // Four rows at a time keep enough sums in flight to hide the latency of each.
        let (blocks, last) = y.as_chunks_mut::<4>();
        for outputs in blocks {
            let rows: [&[f32]; 4] =
                std::array::from_fn(|i| &weight[(row + i) * inner..(row + i + 1) * inner]);
            let sums = dots(simd, rows, x_vectors, x_rest);
            for (i, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
                *output = initial(row + i, *output) + sum;
            }
            row += 4;
        }
        for output in last {
            let [sum] = dots(
                simd,
                [&weight[row * inner..(row + 1) * inner]],
                x_vectors,
                x_rest,
            );
            *output = initial(row, *output) + sum;
            row += 1;
        }
    }
}

/// The inner products of several rows with a vector; each is summed in the same order whatever
/// the number of rows.
#[inline(always)]
fn dots<S: Simd, const ROWS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    x: &[S::f32s],
    x_rest: &[f32],
) -> [f32; ROWS] {
    let mut even = [simd.splat_f32s(0.0); ROWS];
    let mut odd = even;
    let split = rows.map(|row| S::as_simd_f32s(row));
    let (pairs, single) = x.as_chunks::<2>();
    for (k, [x0, x1]) in pairs.iter().enumerate() {
        for row in 0..ROWS {
            let weights = split[row].0;
            even[row] = simd.mul_add_e_f32s(weights[2 * k], *x0, even[row]);
            odd[row] = simd.mul_add_e_f32s(weights[2 * k + 1], *x1, odd[row]);
        }
    }
    for x in single {
        for row in 0..ROWS {
            even[row] = simd.mul_add_e_f32s(split[row].0[2 * pairs.len()], *x, even[row]);
        }
    }
    std::array::from_fn(|row| {
        let sum = simd.reduce_sum_f32s(simd.add_f32s(even[row], odd[row]));
        let rest = split[row].1.iter().zip(x_rest);
        rest.fold(sum, |sum, (weight, x)| sum + weight * x)
    })
}
