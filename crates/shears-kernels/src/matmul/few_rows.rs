//! A weight times few rows, as in generation. The weight is read once, as it lies in memory: bringing it
//! into panels would cost more than the product.

use pulp::{Simd, WithSimd};

use super::Start;
use crate::cpu::{Cpu, Shared};
use crate::vector::prefetch;

/// The most rows that are multiplied in this way.
pub(crate) const FEW_ROWS: usize = 16;

/// From this size on, the rows of a weight are shared between threads.
const SPLIT_BYTES: usize = 1 << 18;

/// `Y = start + X Wᵀ` for `W` `[outputs, inner]`, `X` `[rows, inner]` and `Y` `[rows, outputs]`, where rows of `Y` lie
/// `y_stride` elements apart. The bits of a row of `Y` do not depend on how many rows there are.
///
/// # Panics
///
/// If a row leaves its slice.
pub(crate) fn product_of_few_rows(
    cpu: Cpu,
    (weight, outputs): (&[f32], usize),
    (x, rows): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
    start: Start<'_>,
) {
    if rows == 0 || outputs == 0 {
        return;
    }
    let inner = x.len() / rows;
    assert_eq!(x.len(), rows * inner, "the size of an input");
    assert_eq!(weight.len(), outputs * inner, "the size of a weight");
    assert!(
        (rows - 1) * y_stride + outputs <= y.len() && (rows == 1 || outputs <= y_stride),
        "rows of a result"
    );
    let cpu = if size_of_val(weight) < SPLIT_BYTES {
        cpu.alone()
    } else {
        cpu
    };
    let y = Shared::new(y);
    cpu.split(outputs, MOST_OUTPUTS, |part| {
        cpu.run(FewRows {
            weight: &weight[part.start * inner..part.end * inner],
            first: part.start,
            outputs: part.len(),
            x,
            rows,
            inner,
            y,
            y_stride,
            start,
        });
    });
}

/// Outputs that are computed together: each has an accumulator of one vector.
const MOST_OUTPUTS: usize = 8;

/// Some rows of the weight, on one thread.
struct FewRows<'a> {
    weight: &'a [f32],
    /// The place of these outputs in a row of `Y`.
    first: usize,
    outputs: usize,
    x: &'a [f32],
    rows: usize,
    inner: usize,
    /// Of which each thread writes its own columns.
    y: Shared<'a, f32>,
    y_stride: usize,
    start: Start<'a>,
}

impl WithSimd for FewRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.compute::<S, MOST_OUTPUTS>(simd);
        } else {
            self.compute::<S, 4>(simd);
        }
    }
}

impl FewRows<'_> {
    #[inline(always)]
    fn compute<S: Simd, const OUTPUTS: usize>(&self, simd: S) {
        for first in (0..self.outputs).step_by(OUTPUTS) {
            // Three rows at a time read a part of the weight that is in the cache by then.
            let mut row = 0;
            while row < self.rows {
                row += match self.rows - row {
                    1 => self.tile::<S, OUTPUTS, 1>(simd, first, row),
                    2 => self.tile::<S, OUTPUTS, 2>(simd, first, row),
                    _ => self.tile::<S, OUTPUTS, 3>(simd, first, row),
                };
            }
        }
    }

    /// Some outputs of some rows; gives how many rows. Each sum is one accumulator along the inner dimension,
    /// whose elements are added up in an order that depends on the instructions alone.
    #[inline(always)]
    fn tile<S: Simd, const OUTPUTS: usize, const ROWS: usize>(
        &self,
        simd: S,
        first: usize,
        row: usize,
    ) -> usize {
        let (inner, lanes) = (self.inner, S::F32_LANES);
        // What is behind the last output is computed from the last output's weights, and thrown away.
        let weights: [&[f32]; OUTPUTS] = std::array::from_fn(|output| {
            let output = (first + output).min(self.outputs - 1);
            &self.weight[output * inner..(output + 1) * inner]
        });
        let x: [&[f32]; ROWS] =
            std::array::from_fn(|n| &self.x[(row + n) * inner..(row + n + 1) * inner]);
        let mut sums = [[simd.splat_f32s(0.0); OUTPUTS]; ROWS];
        let vectors = inner / lanes;
        for k in 0..vectors {
            let mut factors = [simd.splat_f32s(0.0); ROWS];
            for n in 0..ROWS {
                factors[n] = vector::<S>(x[n], k);
            }
            for output in 0..OUTPUTS {
                let weights = weights[output];
                let weight = vector::<S>(weights, k);
                prefetch(weights.as_ptr().wrapping_add(OUTPUTS * inner + k * lanes));
                for n in 0..ROWS {
                    sums[n][output] = simd.mul_add_e_f32s(weight, factors[n], sums[n][output]);
                }
            }
        }
        if vectors * lanes < inner {
            for n in 0..ROWS {
                let factor = simd.partial_load_f32s(&x[n][vectors * lanes..]);
                for output in 0..OUTPUTS {
                    let weight = simd.partial_load_f32s(&weights[output][vectors * lanes..]);
                    sums[n][output] = simd.mul_add_e_f32s(weight, factor, sums[n][output]);
                }
            }
        }
        let count = OUTPUTS.min(self.outputs - first);
        for (n, sums) in sums.into_iter().enumerate() {
            let totals = totals(simd, sums);
            let place = (row + n) * self.y_stride + self.first + first;
            // SAFETY: each thread has outputs of its own, and each is written once.
            let y = unsafe { self.y.part(place..place + count) };
            for (output, (y, total)) in y.iter_mut().zip(totals).enumerate() {
                *y = total
                    + match self.start {
                        Start::Zero => 0.0,
                        Start::Bias(bias) => bias[self.first + first + output],
                        Start::Result => *y,
                    };
            }
        }
        ROWS
    }
}

/// Vector `k` of a row that has it.
#[inline(always)]
fn vector<S: Simd>(row: &[f32], k: usize) -> S::f32s {
    debug_assert!((k + 1) * S::F32_LANES <= row.len());
    // SAFETY: callers stay below `len / lanes`. A vector is plain data, and may lie anywhere.
    unsafe {
        let first = row.as_ptr().add(k * S::F32_LANES);
        first.cast::<S::f32s>().read_unaligned()
    }
}

/// The sum of the elements of each vector.
#[inline(always)]
fn totals<S: Simd, const COUNT: usize>(simd: S, sums: [S::f32s; COUNT]) -> [f32; COUNT] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::mem::transmute_copy;
        // Of the sets of instructions that `Cpu` knows on x86-64, the width names one.
        if S::F32_LANES == 16 && COUNT == 8 {
            // SAFETY: there is AVX-512, for `simd` exists, and its vectors are those of the processor.
            return unsafe { transmute_copy(&x86::totals_of_8(transmute_copy(&sums))) };
        }
        if S::F32_LANES == 8 && COUNT == 4 {
            // SAFETY: as above, with AVX2.
            return unsafe { transmute_copy(&x86::totals_of_4(transmute_copy(&sums))) };
        }
    }
    let mut totals = [0.0; COUNT];
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total = simd.reduce_sum_f32s(sum);
    }
    totals
}

/// One sum after the other would take longer than the products of a short row.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn totals_of_8(sums: [__m512; 8]) -> __m256 {
        let mut halves = [_mm256_setzero_ps(); 8];
        // A loop and no closure, which would be compiled without these instructions.
        for (half, sum) in halves.iter_mut().zip(sums) {
            let (low, high) = (_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
            *half = _mm256_add_ps(low, high);
        }
        let [a, b, c, d, e, f, g, h] = halves;
        let first = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let last = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
        let low = _mm256_permute2f128_ps(first, last, 0x20);
        let high = _mm256_permute2f128_ps(first, last, 0x31);
        _mm256_add_ps(low, high)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn totals_of_4([a, b, c, d]: [__m256; 4]) -> __m128 {
        let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let (low, high) = (_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
        _mm_add_ps(low, high)
    }
}
