//! The gradient of a weight: a product of two activations, over all rows of a batch.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

use super::panels::{DEPTH_BLOCK, ROWS_AHEAD};
use super::tile::max_rows;
use super::{Initial, Left, PACK_BLOCK, Packed, pairs};
use crate::buffer::Buffer;
use crate::cpu::{Bf16Unit, Cpu, Products, Shared};
use crate::vector::prefetch_row;

/// Strips per block of a product: they fill less than half of a small L2 cache.
const STRIP_BLOCK: usize = 32;

/// Inner dimension of the part of `B` that is packed at a time, so that it stays in the last-level
/// cache.
const INNER_BLOCK: usize = 1024;

/// The largest result, in elements, that is computed as two sums. Beyond it, adding them costs more
/// than it saves.
const MAX_HALVED_RESULT: usize = 1 << 18;

/// The smallest inner dimension of a product that is computed as two sums.
const MIN_HALVED_INNER: usize = 128;

/// Elements `[inner, columns]`, the stride of a row, and `columns`.
type Rows<'a> = (&'a [f32], usize, usize);

/// `C = Aᵀ B`, or `C += Aᵀ B`, for `A` `[inner, rows]`, `B` `[inner, columns]` and `C` `[rows,
/// columns]`.
///
/// A small result is the sum of two products, over the first and the last half of the inner
/// dimension: then each thread reads the rows of `A` and `B` that it wrote itself. Otherwise half
/// of them would have to come from another core's cache, which may be far away.
///
/// # Panics
///
/// If a row is out of bounds.
pub(crate) fn transposed_product(
    cpu: Cpu,
    inner: usize,
    (a, b): (Rows<'_>, Rows<'_>),
    c: &mut [f32],
    add: bool,
) {
    assert_eq!(c.len(), a.2 * b.2, "the size of a product");
    if inner < MIN_HALVED_INNER || c.len() > MAX_HALVED_RESULT {
        return product(cpu, inner, (a, b), c, add);
    }
    let half = (inner / 2).next_multiple_of(PACK_BLOCK);
    let mut second = Buffer::uninitialised(c.len());
    let results = [(0..half, &mut *c, add), (half..inner, &mut *second, false)];
    let results = results.map(|result| Mutex::new(Some(result)));
    let team = cpu.on(cpu.threads.div_ceil(2));
    cpu.split(2, 1, |halves| {
        for result in &results[halves] {
            let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((range, c, add)) = result {
                let factors = (skip(a, range.start), skip(b, range.start));
                product(team, range.len(), factors, c, add);
            }
        }
    });
    cpu.split_rows(c, 1, PACK_BLOCK, |first, c| {
        let (sums, values) = (c.iter_mut(), &second[first..]);
        sums.zip(values).for_each(|(sum, value)| *sum += value);
    });
}

fn skip((elements, stride, width): Rows<'_>, rows: usize) -> Rows<'_> {
    (&elements[rows * stride..], stride, width)
}

/// [`transposed_product`] as one sum per element.
fn product(
    cpu: Cpu,
    inner: usize,
    ((a, a_stride, rows), (b, b_stride, columns)): (Rows<'_>, Rows<'_>),
    c: &mut [f32],
    add: bool,
) {
    let shared = Shared::new(c);
    let height = cpu.run(TileRows(cpu.products));
    for first in (0..inner.max(1)).step_by(INNER_BLOCK) {
        let inner = INNER_BLOCK.min(inner - first);
        let b = (&b[first * b_stride..], b_stride);
        let right = Packed::of_rows(cpu, b, inner, columns);
        cpu.each_block(rows.div_ceil(height), STRIP_BLOCK, |strips| {
            let block = strips.start * height..rows.min(strips.end * height);
            // SAFETY: blocks of rows do not overlap.
            let c = unsafe { shared.part(block.start * columns..block.end * columns) };
            cpu.run(Block {
                a: (&a[first * a_stride..], a_stride),
                rows: block,
                right: &right,
                c: (c, columns),
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
