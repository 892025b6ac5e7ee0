//! Rows of numbers as vectors, with a last vector that may be short.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};

/// The first vector of a row; what a short row lacks is zero.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, row: &[f32]) -> S::f32s {
    match S::as_simd_f32s(row).0 {
        [vector, ..] => *vector,
        [] => simd.partial_load_f32s(row),
    }
}

/// Writes the first vector of a row, or as much of it as the row has.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, row: &mut [f32], values: S::f32s) {
    match S::as_mut_simd_f32s(row).0 {
        [vector, ..] => *vector = values,
        [] => simd.partial_store_f32s(row, values),
    }
}

/// Changes rows of equal length, vector by vector: `change` gets what is given and what the changed rows
/// hold, and says what they hold afterwards.
///
/// # Panics
///
/// If a row is shorter than the first that is changed.
#[inline(always)]
pub(crate) fn update<S: Simd, const GIVEN: usize, const CHANGED: usize>(
    simd: S,
    given: [&[f32]; GIVEN],
    changed: [&mut [f32]; CHANGED],
    change: impl Fn([S::f32s; GIVEN], [S::f32s; CHANGED]) -> [S::f32s; CHANGED],
) {
    let len = changed.first().map_or(0, |row| row.len());
    let count = len / S::F32_LANES;
    let given = given.map(|row| &row[..len]);
    let given_vectors = given.map(|row| &S::as_simd_f32s(row).0[..count]);
    let mut changed = changed.map(|row| &mut row[..len]);
    {
        let changed = changed.each_mut().map(|row| S::as_mut_simd_f32s(row).0);
        let changed = changed.map(|row| &mut row[..count]);
        for k in 0..count {
            // Loops and no closures, for all of this has to become one piece of code.
            let mut now_given = [simd.splat_f32s(0.0); GIVEN];
            for row in 0..GIVEN {
                now_given[row] = given_vectors[row][k];
            }
            let mut now = [simd.splat_f32s(0.0); CHANGED];
            for row in 0..CHANGED {
                now[row] = changed[row][k];
            }
            let results = change(now_given, now);
            for row in 0..CHANGED {
                changed[row][k] = results[row];
            }
        }
    }
    let rest = count * S::F32_LANES;
    if rest < len {
        let results = change(
            given.map(|row| simd.partial_load_f32s(&row[rest..])),
            changed
                .each_ref()
                .map(|row| simd.partial_load_f32s(&row[rest..])),
        );
        for (row, result) in changed.into_iter().zip(results) {
            simd.partial_store_f32s(&mut row[rest..], result);
        }
    }
}

/// The sum of every column of `[rows, columns]`, whose rows lie `stride` numbers apart: blocks of rows are summed
/// first, so that long sums lose no digits.
pub(crate) fn sum_columns(
    cpu: Cpu,
    values: &[f32],
    stride: usize,
    columns: Range<usize>,
) -> Buffer {
    const ROWS_AT_ONCE: usize = 64;
    let mut sums = Buffer::zeros(columns.len());
    let shared = Shared::new(&mut sums);
    cpu.split(columns.len(), 64, |part| {
        // SAFETY: parts do not overlap.
        let sums = unsafe { shared.part(part.clone()) };
        let first = columns.start + part.start;
        cpu.run(SumColumns {
            values,
            stride,
            first,
            sums,
        });
    });
    struct SumColumns<'a> {
        values: &'a [f32],
        stride: usize,
        first: usize,
        sums: &'a mut [f32],
    }
    impl WithSimd for SumColumns<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let width = self.sums.len();
            let rows = self.values.len().div_ceil(self.stride.max(1));
            for first_row in (0..rows).step_by(ROWS_AT_ONCE) {
                let end = rows.min(first_row + ROWS_AT_ONCE);
                for column in (0..width).step_by(S::F32_LANES) {
                    let end_column = width.min(column + S::F32_LANES);
                    let mut sum = simd.splat_f32s(0.0);
                    for row in first_row..end {
                        let start = row * self.stride + self.first;
                        let values = &self.values[start + column..start + end_column];
                        sum = simd.add_f32s(sum, load(simd, values));
                    }
                    let total = &mut self.sums[column..end_column];
                    let sum = simd.add_f32s(load(simd, total), sum);
                    store(simd, total, sum);
                }
            }
        }
    }
    sums
}
