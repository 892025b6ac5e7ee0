//! The gradient of a weight: a product of two activations, over all rows of a batch.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::panels::{DEPTH_BLOCK, ROWS_AHEAD};
use super::tile::max_rows;
use super::{Initial, Left, Packed, pairs};
use crate::buffer::Buffer;
use crate::cpu::{Bf16Unit, Cpu, Products, Shared};
use crate::vector::prefetch_row;

/// Strips per block of a product: they fill less than half of a small L2 cache.
const STRIP_BLOCK: usize = 32;

/// Inner dimension of the part of `B` that is packed at a time, so that it stays in the last-level
/// cache.
const INNER_BLOCK: usize = 1024;

/// `C = Aᵀ B`, or `C += Aᵀ B`, for `A` `[inner, rows]`, `B` `[inner, columns]` and `C` `[rows,
/// columns]`, each with its own row stride.
///
/// # Panics
///
/// If a row is out of bounds.
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
    let height = cpu.run(TileRows(cpu.products));
    for first in (0..inner.max(1)).step_by(INNER_BLOCK) {
        let inner = INNER_BLOCK.min(inner - first);
        let b = (&b[first * b_stride..], b_stride);
        let right = Packed::of_rows(cpu, b, inner, columns);
        cpu.each_block(rows.div_ceil(height), STRIP_BLOCK, |strips| {
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

/// The number of rows of a tile.
struct TileRows(Products);

impl WithSimd for TileRows {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        max_rows::<S>(self.0)
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
        // Copying strips needs a constant height.
        match max_rows::<S>(self.right.products) {
            6 => self.compute::<S, 6>(simd),
            14 => self.compute::<S, 14>(simd),
            _ => self.compute::<S, 32>(simd),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize>(self, simd: S) {
        let (c, c_stride) = self.c;
        let rows = self.rows.len();
        let panels = self.right.panels();
        let whole_depth = self.right.depth;
        let depth_block = DEPTH_BLOCK.min(whole_depth);
        let mut strips = Buffer::uninitialised(rows.next_multiple_of(HEIGHT) * depth_block);
        // AMX reads rows, the others columns.
        let are_rows = self.right.products == Products::Bf16(Bf16Unit::Amx);
        for k in (0..whole_depth.max(1)).step_by(DEPTH_BLOCK) {
            let depth = DEPTH_BLOCK.min(whole_depth - k);
            let initial = match k > 0 || self.add {
                true => Initial::Result,
                false => Initial::Zero,
            };
            simd.vectorize(Strips::<HEIGHT> {
                a: self.a,
                rows: self.rows.clone(),
                inner: self.inner,
                products: self.right.products,
                range: k..k + depth,
                strips: &mut strips,
            });
            for panel in 0..panels.count::<S>() {
                for first in (0..rows).step_by(HEIGHT) {
                    let height = HEIGHT.min(rows - first);
                    let strip = &strips[first * depth..];
                    let left = match are_rows {
                        true => Left::rows(strip, depth),
                        false => Left::columns(strip, HEIGHT),
                    };
                    let c = (&mut c[first * c_stride..], c_stride);
                    let sizes = (height, depth);
                    panels.multiply_from(simd, panel..panel + 1, k, left, c, sizes, initial);
                }
            }
        }
    }
}

/// Packs some columns of `A` into strips of height `HEIGHT`, column-major, or row-major for AMX.
struct Strips<'a, const HEIGHT: usize> {
    a: (&'a [f32], usize),
    rows: Range<usize>,
    inner: usize,
    products: Products,
    /// The rows of `A`, or pairs of rows.
    range: Range<usize>,
    strips: &'a mut [f32],
}

impl<const HEIGHT: usize> WithSimd for Strips<'_, HEIGHT> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (a, stride) = self.a;
        let depth = self.range.len();
        let row = |k: usize| &a[k * stride..][self.rows.clone()];
        let are_rows = self.products == Products::Bf16(Bf16Unit::Amx);
        for (d, k) in self.range.clone().enumerate() {
            if self.products == Products::F32 {
                let row = row(k);
                prefetch_row(row, ROWS_AHEAD * stride);
                let (whole, rest) = row.as_chunks::<HEIGHT>();
                let mut at = d * HEIGHT;
                for elements in whole {
                    self.strips[at..at + HEIGHT].copy_from_slice(elements);
                    at += HEIGHT * depth;
                }
                if !rest.is_empty() {
                    self.strips[at..at + rest.len()].copy_from_slice(rest);
                }
                continue;
            }
            // Prefetch once per row, not once per strip.
            for k in 2 * k..self.inner.min(2 * k + 2) {
                prefetch_row(row(k), ROWS_AHEAD * stride);
            }
            let mut pairs = [0.0; HEIGHT];
            for first in (0..self.rows.len()).step_by(HEIGHT) {
                let height = HEIGHT.min(self.rows.len() - first);
                let part = |k: usize| &row(k)[first..first + height];
                pairs::interleave(k, self.inner, part, &mut pairs);
                let strip = &mut self.strips[first * depth..];
                if are_rows {
                    for (out, pair) in strip[d..].iter_mut().step_by(depth).zip(pairs) {
                        *out = pair;
                    }
                } else {
                    strip[d * HEIGHT..(d + 1) * HEIGHT].copy_from_slice(&pairs);
                }
            }
        }
    }
}
