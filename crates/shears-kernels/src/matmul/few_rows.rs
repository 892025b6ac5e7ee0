//! Products of a weight with few rows, as in generation. The weight is read once, unpacked: packing
//! would cost more than the product.

use std::marker::PhantomData;
use std::ops::Range;

use burn::tensor::bf16;
use pulp::{Simd, WithSimd};

use super::Initial;
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::vector::prefetch;

/// The most rows multiplied this way.
pub(crate) const FEW_ROWS: usize = 16;

/// The elements of the widest vector.
const MAX_LANES: usize = 16;

/// A row-major weight `[outputs, inner]`, in its storage type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Weight<'a> {
    /// # Panics
    ///
    /// If it is stored as bf16, which only products of few rows accept.
    pub(crate) fn f32(self) -> &'a [f32] {
        match self {
            Weight::F32(weight) => weight,
            Weight::Bf16(_) => {
                panic!("a weight in bf16 is widened before many rows are multiplied")
            }
        }
    }

    /// The rows of some outputs.
    pub(crate) fn rows(self, outputs: Range<usize>, inner: usize) -> Weight<'a> {
        let range = outputs.start * inner..outputs.end * inner;
        match self {
            Weight::F32(weight) => Weight::F32(&weight[range]),
            Weight::Bf16(weight) => Weight::Bf16(&weight[range]),
        }
    }
}

/// `Y = initial + X Wᵀ` for `W` `[outputs, inner]`, `X` `[rows, inner]` and `Y` `[rows, outputs]`,
/// with rows of `Y` `y_stride` elements apart. `X` is used in `f32` for every storage type of the
/// weight. The bits of a row of `Y` do not depend on the number of rows.
///
/// # Panics
///
/// If a row is out of bounds.
pub(crate) fn product_of_few_rows(
    cpu: Cpu,
    (weight, outputs): (Weight<'_>, usize),
    x: (&[f32], usize),
    y: (&mut [f32], usize),
    initial: Initial<'_>,
) {
    match weight {
        Weight::F32(weight) => product(cpu, (weight, outputs), x, y, initial),
        Weight::Bf16(weight) => product(cpu, (weight, outputs), x, y, initial),
    }
}

fn product<T: Stored>(
    cpu: Cpu,
    (weight, outputs): (&[T], usize),
    (x, rows): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
    initial: Initial<'_>,
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
    let cpu = cpu.for_one_read(size_of_val(weight));
    let arranged = cpu.run(Arrange::<T> {
        x,
        inner,
        stored: PhantomData,
    });
    let y = Shared::new(y);
    cpu.split(outputs, MAX_OUTPUTS, |part| {
        cpu.run(FewRows {
            weight: &weight[part.start * inner..part.end * inner],
            first: part.start,
            outputs: part.len(),
            x: arranged.as_deref().unwrap_or(x),
            rows,
            inner,
            y,
            y_stride,
            initial,
        });
    });
}

/// The storage type of a weight's elements.
trait Stored: Copy + Sync {
    /// The number of `f32` vectors that a vector of stored elements widens to.
    const PARTS: usize;

    /// Zero.
    const ZERO: Self;

    /// Loads consecutive elements as `PARTS` vectors, each with every `PARTS`-th element; other
    /// vectors of the result are unused.
    ///
    /// # Safety
    ///
    /// `first` must point to that many elements.
    unsafe fn load<S: Simd>(simd: S, first: *const Self) -> [S::f32s; 2];
}

impl Stored for f32 {
    const PARTS: usize = 1;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, first: *const f32) -> [S::f32s; 2] {
        // SAFETY: the caller guarantees it. A vector is plain data without alignment requirements
        // here.
        let vector = unsafe { first.cast::<S::f32s>().read_unaligned() };
        [vector, simd.splat_f32s(0.0)]
    }
}

/// Two neighbours are the halves of a `u32`, each widened by 16 zero bits.
impl Stored for bf16 {
    const PARTS: usize = 2;
    const ZERO: bf16 = bf16::ZERO;

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, first: *const bf16) -> [S::f32s; 2] {
        // SAFETY: as above.
        let pairs = unsafe { first.cast::<S::u32s>().read_unaligned() };
        let (even, odd) = match cfg!(target_endian = "little") {
            true => (low_halves(simd, pairs), high_halves(simd, pairs)),
            false => (high_halves(simd, pairs), low_halves(simd, pairs)),
        };
        [even, odd]
    }
}

#[inline(always)]
fn low_halves<S: Simd>(simd: S, pairs: S::u32s) -> S::f32s {
    simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)))
}

#[inline(always)]
fn high_halves<S: Simd>(simd: S, pairs: S::u32s) -> S::f32s {
    simd.transmute_f32s_u32s(simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)))
}

/// Reorders the rows of `X` as [`Stored::load`] does, zero-padded to whole vectors of stored
/// elements. `None` if they already are.
struct Arrange<'a, T> {
    x: &'a [f32],
    inner: usize,
    stored: PhantomData<T>,
}

impl<T: Stored> WithSimd for Arrange<'_, T> {
    type Output = Option<Buffer>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Option<Buffer> {
        let lanes = S::F32_LANES;
        let step = T::PARTS * lanes;
        if self.inner == 0 || T::PARTS == 1 && self.inner.is_multiple_of(step) {
            return None;
        }
        let width = self.inner.next_multiple_of(step);
        let mut arranged = Buffer::zeros(self.x.len() / self.inner * width);
        let rows = self.x.chunks_exact(self.inner);
        for (row, arranged) in rows.zip(arranged.chunks_exact_mut(width)) {
            for (from, to) in row.chunks(step).zip(arranged.chunks_exact_mut(step)) {
                for (part, to) in to.chunks_exact_mut(lanes).enumerate() {
                    for (x, to) in from.iter().skip(part).step_by(T::PARTS).zip(to) {
                        *to = *x;
                    }
                }
            }
        }
        Some(arranged)
    }
}

/// Outputs per tile, each with one vector as accumulator.
const MAX_OUTPUTS: usize = 8;

/// Some rows of the weight, on one thread.
struct FewRows<'a, T> {
    weight: &'a [T],
    /// The index of the first output in a row of `Y`.
    first: usize,
    outputs: usize,
    /// See [`Arrange`].
    x: &'a [f32],
    rows: usize,
    inner: usize,
    /// Each thread writes its own columns.
    y: Shared<'a, f32>,
    y_stride: usize,
    initial: Initial<'a>,
}

impl<T: Stored> WithSimd for FewRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.compute::<S, MAX_OUTPUTS>(simd);
        } else {
            self.compute::<S, 4>(simd);
        }
    }
}

impl<T: Stored> FewRows<'_, T> {
    #[inline(always)]
    fn compute<S: Simd, const OUTPUTS: usize>(&self, simd: S) {
        for first in (0..self.outputs).step_by(OUTPUTS) {
            // Two or three rows at a time, as registers allow. Further rows find their part of the
            // weight in the cache.
            let mut row = 0;
            while row < self.rows {
                row += match self.rows - row {
                    1 => self.tile::<S, OUTPUTS, 1>(simd, first, row),
                    2.. if T::PARTS > 1 => self.tile::<S, OUTPUTS, 2>(simd, first, row),
                    2 => self.tile::<S, OUTPUTS, 2>(simd, first, row),
                    _ => self.tile::<S, OUTPUTS, 3>(simd, first, row),
                };
            }
        }
    }

    /// Computes `OUTPUTS` outputs of `ROWS` rows, and returns the number of rows. Each output has
    /// one vector accumulator along the inner dimension, whose lanes are summed in an order that
    /// depends only on the instructions.
    #[inline(always)]
    fn tile<S: Simd, const OUTPUTS: usize, const ROWS: usize>(
        &self,
        simd: S,
        first: usize,
        row: usize,
    ) -> usize {
        let (inner, lanes) = (self.inner, S::F32_LANES);
        let step = T::PARTS * lanes;
        // Beyond the last output, computes the last output again and discards it.
        let weights: [&[T]; OUTPUTS] = std::array::from_fn(|output| {
            let output = (first + output).min(self.outputs - 1);
            &self.weight[output * inner..(output + 1) * inner]
        });
        let width = inner.next_multiple_of(step);
        let x: [&[f32]; ROWS] =
            std::array::from_fn(|n| &self.x[(row + n) * width..(row + n + 1) * width]);
        let mut sums = [[simd.splat_f32s(0.0); OUTPUTS]; ROWS];
        let whole = inner / step;
        for k in 0..whole {
            for (output, row) in weights.iter().enumerate() {
                let row = row.as_ptr();
                prefetch(row.wrapping_add(OUTPUTS * inner + k * step).cast());
                // SAFETY: the row has `whole` such steps.
                let weight = unsafe { T::load(simd, row.add(k * step)) };
                accumulate::<T, S, OUTPUTS, ROWS>(simd, weight, (&x, k), (&mut sums, output));
            }
        }
        if whole * step < inner {
            let mut rest = [T::ZERO; 2 * MAX_LANES];
            let count = inner - whole * step;
            for (output, row) in weights.iter().enumerate() {
                rest[..count].copy_from_slice(&row[whole * step..]);
                // SAFETY: `rest` holds two of the widest vectors.
                let weight = unsafe { T::load(simd, rest.as_ptr()) };
                accumulate::<T, S, OUTPUTS, ROWS>(simd, weight, (&x, whole), (&mut sums, output));
            }
        }
        let count = OUTPUTS.min(self.outputs - first);
        for (n, sums) in sums.into_iter().enumerate() {
            let totals = totals(simd, sums);
            let start = (row + n) * self.y_stride + self.first + first;
            // SAFETY: each thread has its own outputs, each written once.
            let y = unsafe { self.y.part(start..start + count) };
            for (output, (y, total)) in y.iter_mut().zip(totals).enumerate() {
                *y = total
                    + match self.initial {
                        Initial::Zero => 0.0,
                        Initial::Bias(bias) => bias[self.first + first + output],
                        Initial::Result => *y,
                    };
            }
        }
        ROWS
    }
}

/// Multiplies vector `k` of an output's weight, as loaded by [`Stored::load`], by vector `k` of
/// each row, and adds the products to the output's accumulators.
#[inline(always)]
fn accumulate<T: Stored, S: Simd, const OUTPUTS: usize, const ROWS: usize>(
    simd: S,
    weight: [S::f32s; 2],
    (x, k): (&[&[f32]; ROWS], usize),
    (sums, output): (&mut [[S::f32s; OUTPUTS]; ROWS], usize),
) {
    for (part, weight) in weight.into_iter().take(T::PARTS).enumerate() {
        for n in 0..ROWS {
            let factor = vector::<S>(x[n], k * T::PARTS + part);
            sums[n][output] = simd.mul_add_e_f32s(weight, factor, sums[n][output]);
        }
    }
}

/// Vector `k` of a row, which must be long enough.
#[inline(always)]
fn vector<S: Simd>(row: &[f32], k: usize) -> S::f32s {
    debug_assert!((k + 1) * S::F32_LANES <= row.len());
    // SAFETY: callers stay below `len / lanes`. A vector is plain data, read unaligned.
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
        // On x86-64 the width identifies the instruction set.
        if S::F32_LANES == 16 && COUNT == 8 {
            // SAFETY: `simd` is AVX-512, and its vectors have this layout.
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

/// Reduces all sums together: one at a time they would take longer than the products of a short
/// row.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn totals_of_8(sums: [__m512; 8]) -> __m256 {
        let mut halves = [_mm256_setzero_ps(); 8];
        // A loop, because a closure would be compiled without these instructions.
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
