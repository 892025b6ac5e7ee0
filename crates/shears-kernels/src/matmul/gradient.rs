//! The gradient of a weight: a product of two activations, over all rows of a batch.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Packed;
use super::panels::{DEPTH_AT_ONCE, ROWS_AHEAD};
use super::tile::{Start as TileStart, Tile, most_rows};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::vector::{ask_for_row, load, store};

/// Strips that are multiplied together: they fill less than half of a small second-level cache.
const STRIPS_AT_ONCE: usize = 32;

/// Inner dimension whose part of `B` is packed at once, so that it stays in the last cache.
const INNER_AT_ONCE: usize = 1024;

/// `C = Aᵀ B`, or `C += Aᵀ B`, for `A` `[inner, rows]`, `B` `[inner, columns]` and `C` `[rows, columns]`, each with
/// its distance between rows.
///
/// # Panics
///
/// If a row leaves its slice.
pub(crate) fn transposed_product(
    cpu: Cpu,
    inner: usize,
    (a, a_stride, rows): (&[f32], usize, usize),
    (b, b_stride, columns): (&[f32], usize, usize),
    (c, c_stride): (&mut [f32], usize),
    add: bool,
) {
    let len = c.len();
    let shared = Shared::new(c);
    let height = cpu.run(TileRows);
    for first in (0..inner.max(1)).step_by(INNER_AT_ONCE) {
        let inner = INNER_AT_ONCE.min(inner - first);
        let b = (&b[first * b_stride..], b_stride);
        let right = Packed::of_rows(cpu, b, inner, columns);
        cpu.each_block(rows.div_ceil(height), STRIPS_AT_ONCE, |strips| {
            let block = strips.start * height..rows.min(strips.end * height);
            let end = len.min(block.end * c_stride);
            // SAFETY: blocks of rows do not overlap.
            let c = unsafe { shared.part(block.start * c_stride..end) };
            cpu.run(Block {
                a: (&a[first * a_stride..], a_stride),
                rows: block,
                right: &right,
                c: (c, c_stride),
                inner,
                add: add || first > 0,
            });
        });
    }
}

/// How many rows a tile has.
struct TileRows;

impl WithSimd for TileRows {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        most_rows::<S>()
    }
}

/// Some rows of the result, on one thread.
struct Block<'a> {
    a: (&'a [f32], usize),
    rows: Range<usize>,
    right: &'a Packed,
    c: (&'a mut [f32], usize),
    inner: usize,
    add: bool,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The height has to be known where strips are copied.
        match most_rows::<S>() {
            6 => self.compute::<S, 6>(simd),
            _ => self.compute::<S, 14>(simd),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize>(self, simd: S) {
        let (a, a_stride) = self.a;
        let (c, c_stride) = self.c;
        let (rows, panels) = (self.rows.len(), self.right.panels());
        let columns = panels.columns();
        assert!(
            rows == 0 || (rows - 1) * c_stride + columns <= c.len(),
            "rows of a result"
        );
        // A strip ends with room for what its last vector brings too much.
        let strip_len = |depth: usize| HEIGHT * depth + S::F32_LANES;
        let strip_count = rows.div_ceil(HEIGHT);
        let mut strips = Buffer::stale(strip_count * strip_len(DEPTH_AT_ONCE.min(self.inner)));
        for k in (0..self.inner.max(1)).step_by(DEPTH_AT_ONCE) {
            let depth = DEPTH_AT_ONCE.min(self.inner - k);
            let strip_len = strip_len(depth);
            for d in 0..depth {
                let row = &a[(k + d) * a_stride + self.rows.start..];
                let after = HEIGHT * d;
                copy_row::<S, HEIGHT>(simd, row, rows, a_stride, &mut strips[after..], strip_len);
            }
            for panel in 0..panels.count::<S>() {
                let part = panels.part::<S>(panel, k, depth);
                for (strip, numbers) in strips.chunks_exact(strip_len).take(strip_count).enumerate()
                {
                    let first = strip * HEIGHT;
                    let tile = Tile {
                        a: numbers.as_ptr(),
                        a_stride: HEIGHT,
                        b: part.numbers.as_ptr(),
                        depth,
                        c_stride,
                        columns: part.columns,
                        start: match k > 0 || self.add {
                            true => TileStart::Result,
                            false => TileStart::Zero,
                        },
                    };
                    let height = HEIGHT.min(rows - first);
                    // SAFETY: a strip has `depth` columns of at least `height` numbers, `part` has
                    // `depth` rows of its width, and the rows of `c` were checked above.
                    unsafe {
                        let c = c.as_mut_ptr().add(first * c_stride + part.first);
                        match part.width == S::F32_LANES {
                            true => tile.rows::<S, 1, true>(simd, c, height),
                            false => tile.rows::<S, 2, true>(simd, c, height),
                        }
                    }
                }
            }
        }
    }
}

/// Copies a row of `width` numbers, a piece of it into each strip, and asks for the row that comes
/// [`ROWS_AHEAD`].
#[inline(always)]
fn copy_row<S: Simd, const HEIGHT: usize>(
    simd: S,
    row: &[f32],
    width: usize,
    stride: usize,
    strips: &mut [f32],
    strip_len: usize,
) {
    ask_for_row(&row[..width], ROWS_AHEAD * stride);
    let (mut from, mut to) = (0, 0);
    // Whole vectors where there are more numbers than are needed: what is too much is overwritten by
    // the next row.
    if S::F32_LANES >= HEIGHT {
        while from + HEIGHT <= width && from + S::F32_LANES <= row.len() {
            let numbers = load(simd, &row[from..]);
            store(simd, &mut strips[to..], numbers);
            (from, to) = (from + HEIGHT, to + strip_len);
        }
    }
    while from < width {
        let given = HEIGHT.min(width - from);
        strips[to..to + given].copy_from_slice(&row[from..from + given]);
        (from, to) = (from + HEIGHT, to + strip_len);
    }
}
