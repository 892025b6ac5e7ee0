//! The gradient of a weight: a product of two activations, over all rows of a batch.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::panels::{DEPTH_AT_ONCE, ROWS_AHEAD};
use super::tile::most_rows;
use super::{Left, Packed, Start};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::vector::prefetch_row;

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
        let rows = self.rows.len();
        let panels = self.right.panels();
        let depth_at_once = DEPTH_AT_ONCE.min(self.inner);
        let mut strips = Buffer::uninitialised(rows.next_multiple_of(HEIGHT) * depth_at_once);
        for k in (0..self.inner.max(1)).step_by(DEPTH_AT_ONCE) {
            let depth = DEPTH_AT_ONCE.min(self.inner - k);
            let start = match k > 0 || self.add {
                true => Start::Result,
                false => Start::Zero,
            };
            let strip_len = HEIGHT * depth;
            for d in 0..depth {
                let row = &a[(k + d) * a_stride..][self.rows.clone()];
                prefetch_row(row, ROWS_AHEAD * a_stride);
                let (whole, rest) = row.as_chunks::<HEIGHT>();
                let mut at = d * HEIGHT;
                for numbers in whole {
                    strips[at..at + HEIGHT].copy_from_slice(numbers);
                    at += strip_len;
                }
                if !rest.is_empty() {
                    strips[at..at + rest.len()].copy_from_slice(rest);
                }
            }
            for panel in 0..panels.count::<S>() {
                for first in (0..rows).step_by(HEIGHT) {
                    let height = HEIGHT.min(rows - first);
                    let left = Left::columns(&strips[first * depth..], HEIGHT);
                    let c = (&mut c[first * c_stride..], c_stride);
                    let sizes = (height, depth);
                    panels.multiply_from(simd, panel..panel + 1, k, left, c, sizes, start);
                }
            }
        }
    }
}
