//! Vector loads and stores with a partial last vector, and operations on rows.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::Cpu;

/// Elements per cache line.
const LINE: usize = 16;

/// Loads the first vector of a row; a short row is padded with zeros.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, row: &[f32]) -> S::f32s {
    match S::as_simd_f32s(row).0 {
        [vector, ..] => *vector,
        [] => simd.partial_load_f32s(row),
    }
}

/// Stores to the first vector of a row, or to the whole row if it is shorter.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, row: &mut [f32], values: S::f32s) {
    match S::as_mut_simd_f32s(row).0 {
        [vector, ..] => *vector = values,
        [] => simd.partial_store_f32s(row, values),
    }
}

/// Prefetches a cache line, if the target has an instruction for it. Any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 CPU has the instruction. It is a hint and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Prefetches the row `distance` elements after this one.
#[inline(always)]
pub(crate) fn prefetch_row(row: &[f32], distance: usize) {
    let start = row.as_ptr().wrapping_add(distance);
    for line in (0..row.len()).step_by(LINE) {
        prefetch(start.wrapping_add(line));
    }
}

/// Updates rows of equal length, vector by vector: `change` maps the vectors of the given and the
/// changed rows to new values of the latter.
///
/// # Panics
///
/// If a row is shorter than the first changed row.
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
            // Loops instead of closures, so that everything is inlined into one function.
            let mut given_now = [simd.splat_f32s(0.0); GIVEN];
            for row in 0..GIVEN {
                given_now[row] = given_vectors[row][k];
            }
            let mut now = [simd.splat_f32s(0.0); CHANGED];
            for row in 0..CHANGED {
                now[row] = changed[row][k];
            }
            let results = change(given_now, now);
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

/// Sums every column of `[rows, columns]`, with rows `stride` elements apart. Blocks of rows are
/// summed first, so that long sums stay accurate.
pub(crate) fn sum_columns(
    cpu: Cpu,
    values: &[f32],
    stride: usize,
    columns: Range<usize>,
) -> Buffer {
    const ROW_BLOCK: usize = 64;
    let mut sums = Buffer::zeros(columns.len());
    cpu.split_rows(&mut sums, 1, 64, |first, sums| {
        let first = columns.start + first;
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
            let group = 4 * S::F32_LANES;
            for first_row in (0..rows).step_by(ROW_BLOCK) {
                let block = first_row..rows.min(first_row + ROW_BLOCK);
                for column in (0..width).step_by(group) {
                    let sums = &mut self.sums[column..width.min(column + group)];
                    let first = self.first + column;
                    if sums.len() == group {
                        add_rows::<S, 4>(simd, self.values, self.stride, first, &block, sums);
                    } else {
                        for (part, sums) in sums.chunks_mut(S::F32_LANES).enumerate() {
                            let first = first + part * S::F32_LANES;
                            add_rows::<S, 1>(simd, self.values, self.stride, first, &block, sums);
                        }
                    }
                }
            }
        }
    }
    sums
}

/// Adds rows, starting at column `first`, to sums of at most `VECTORS` vectors.
#[inline(always)]
fn add_rows<S: Simd, const VECTORS: usize>(
    simd: S,
    values: &[f32],
    stride: usize,
    first: usize,
    rows: &Range<usize>,
    sums: &mut [f32],
) {
    /// Prefetch distance in rows, which are in different pages.
    const ROWS_AHEAD: usize = 8;
    let mut totals = [simd.splat_f32s(0.0); VECTORS];
    for row in rows.clone() {
        let values = &values[row * stride + first..][..sums.len()];
        prefetch_row(values, ROWS_AHEAD * stride);
        for (vector, total) in totals.iter_mut().enumerate() {
            *total = simd.add_f32s(*total, load(simd, &values[vector * S::F32_LANES..]));
        }
    }
    for (vector, total) in totals.into_iter().enumerate() {
        let sums = &mut sums[vector * S::F32_LANES..];
        let sum = simd.add_f32s(load(simd, sums), total);
        store(simd, sums, sum);
    }
}
