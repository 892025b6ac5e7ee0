//! Matrix products. Their precision and kernels are chosen only here.
//!
//! The right factor is [`Packed`] once into the order in which the kernel reads it, and reused for
//! all steps of a window or all rows of a batch. The gradient of a weight is a product of two
//! activations, [`transposed_product`]. Each element of a product is one sum in the order of the
//! inner dimension, and of a small weight gradient two: neither the number of rows nor the number of
//! threads changes its bits.

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Products, Shared};

mod few_rows;
mod gradient;
mod pairs;
mod panels;
mod tile;

pub(crate) use few_rows::{FEW_ROWS, Weight, product_of_few_rows};
pub(crate) use gradient::transposed_product;
pub(crate) use panels::{Left, Panels};
use panels::{copy_panel, transpose_panel};

/// Rows per block of a product: with 256 columns each they fill a quarter of a small L2 cache.
const ROW_BLOCK: usize = 120;

/// Rows packed into all panels at a time.
const PACK_BLOCK: usize = 32;

/// The initial values of a product's accumulators.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial<'a> {
    /// Zeros.
    Zero,
    /// One value per column.
    Bias(&'a [f32]),
    /// The current values of the result.
    Result,
}

impl<'a> From<Option<&'a [f32]>> for Initial<'a> {
    fn from(bias: Option<&'a [f32]>) -> Self {
        bias.map_or(Initial::Zero, Initial::Bias)
    }
}

/// A matrix `B` `[inner, columns]`, packed into panels two vectors wide.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The precision of the packed elements and the products.
    products: Products,
    panels: Buffer,
    inner: usize,
    /// Rows per panel: the inner dimension, or its [`pairs`].
    depth: usize,
    columns: usize,
    /// Columns per panel; the last panel may have half as many.
    width: usize,
}

impl Packed {
    /// Packs `Wᵀ` for `x Wᵀ`, from row-major `W` `[columns, inner]`.
    pub(crate) fn transposed(cpu: Cpu, weight: &[f32], columns: usize, inner: usize) -> Packed {
        assert_eq!(weight.len(), columns * inner, "the size of a weight");
        let mut packed = Packed::uninitialised(cpu, columns, inner);
        let (lanes, width, count) = (cpu.lanes(), packed.width, packed.count());
        let depth = packed.depth;
        let shared = Shared::new(&mut packed.panels);
        cpu.split(count, 1, |panels| {
            for first in panels.map(|panel| panel * width) {
                let valid = width.min(columns - first);
                let width = valid.next_multiple_of(lanes);
                // SAFETY: each panel is filled once, and panels do not overlap.
                let panel = unsafe { shared.part(first * depth..(first + width) * depth) };
                let weight = &weight[first * inner..];
                match cpu.products {
                    Products::F32 => transpose_panel(weight, inner, inner, valid, width, panel),
                    Products::Bf16(_) => cpu.run(pairs::TransposeRows {
                        weight,
                        stride: inner,
                        inner,
                        valid,
                        panel,
                        width,
                    }),
                }
            }
        });
        packed
    }

    /// Packs `W` for `y W`, from row-major `W` `[inner, columns]`.
    pub(crate) fn plain(cpu: Cpu, weight: &[f32], inner: usize, columns: usize) -> Packed {
        assert_eq!(weight.len(), columns * inner, "the size of a weight");
        Packed::of_rows(cpu, (weight, columns), inner, columns)
    }

    /// Like [`Packed::plain`], for rows with the valid stride.
    fn of_rows(cpu: Cpu, (b, stride): (&[f32], usize), inner: usize, columns: usize) -> Packed {
        let mut packed = Packed::uninitialised(cpu, columns, inner);
        let (lanes, width, depth) = (cpu.lanes(), packed.width, packed.depth);
        let shared = Shared::new(&mut packed.panels);
        // Packs a few rows at a time, which stay in the cache until all panels have read them.
        cpu.split(depth, PACK_BLOCK, |rows| {
            for start in rows.clone().step_by(PACK_BLOCK) {
                let end = rows.end.min(start + PACK_BLOCK);
                for first in (0..columns).step_by(width) {
                    let valid = width.min(columns - first);
                    let width = valid.next_multiple_of(lanes);
                    let range = first * depth + start * width..first * depth + end * width;
                    // SAFETY: each row of each panel is written once.
                    let panel = unsafe { shared.part(range) };
                    match cpu.products {
                        Products::F32 => {
                            copy_panel(&b[start * stride + first..], stride, valid, width, panel);
                        }
                        Products::Bf16(_) => cpu.run(pairs::InterleaveRows {
                            b: b.get(first..).unwrap_or_default(),
                            stride,
                            inner,
                            range: start..end,
                            valid,
                            panel,
                            width,
                        }),
                    }
                }
            }
        });
        packed
    }

    fn uninitialised(cpu: Cpu, columns: usize, inner: usize) -> Packed {
        let lanes = cpu.lanes();
        let depth = match cpu.products {
            Products::F32 => inner,
            Products::Bf16(_) => pairs::count(inner),
        };
        Packed {
            products: cpu.products,
            panels: Buffer::uninitialised(columns.next_multiple_of(lanes) * depth),
            inner,
            depth,
            columns,
            width: 2 * lanes,
        }
    }

    /// The number of panels.
    fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// `C = initial + A B` on all threads, for `A` `[rows, inner]` and `C` `[rows, columns]`, with
    /// rows `a_stride` and `c_stride` elements apart.
    pub(crate) fn multiply(
        &self,
        cpu: Cpu,
        (a, a_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        initial: Initial<'_>,
    ) {
        self.multiply_then(cpu, (a, a_stride), (c, c_stride), initial, |_, _| {});
    }

    /// Like [`Packed::multiply`], with the epilogue `finish`, called for each block of rows of the
    /// result while it is in the cache, with the index of its first row.
    pub(crate) fn multiply_then(
        &self,
        cpu: Cpu,
        (a, a_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        initial: Initial<'_>,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let rows = c.len().div_ceil(c_stride.max(1));
        let len = c.len();
        let shared = Shared::new(c);
        cpu.each_block(rows, ROW_BLOCK, |block| {
            let end = len.min(block.end * c_stride);
            // SAFETY: blocks of rows do not overlap.
            let c = unsafe { shared.part(block.start * c_stride..end) };
            cpu.run(Block {
                packed: self,
                a: &a[block.start * a_stride..],
                a_stride,
                c,
                c_stride,
                rows: block.len(),
                initial,
            });
            finish(block.start, c);
        });
    }

    /// `C = initial + A B` on the calling thread, for `A` `[rows, inner]` and `C` `[rows,
    /// columns]`, with rows `a_stride` and `c_stride` elements apart.
    ///
    /// # Panics
    ///
    /// If a row of `a` or `c` is out of bounds.
    #[inline(always)]
    pub(crate) fn multiply_rows<S: Simd>(
        &self,
        simd: S,
        (a, a_stride): (&[f32], usize),
        c: (&mut [f32], usize),
        rows: usize,
        initial: Initial<'_>,
    ) {
        let panels = self.panels();
        match self.products {
            Products::F32 => {
                let a = Left::rows(a, a_stride);
                panels.multiply_all(simd, a, c, (rows, self.depth), initial);
            }
            Products::Bf16(_) => {
                let (a, stride) = pairs::rows(simd, (a, a_stride), rows, self.inner);
                let a = Left::rows(&a, stride);
                panels.multiply_all(simd, a, c, (rows, self.depth), initial);
            }
        }
    }

    /// A view of the panels.
    #[inline(always)]
    fn panels(&self) -> Panels<'_> {
        Panels {
            products: self.products,
            elements: &self.panels,
            inner: self.depth,
            columns: self.columns,
        }
    }
}

/// A block of rows of a product, on one thread.
struct Block<'a> {
    packed: &'a Packed,
    a: &'a [f32],
    a_stride: usize,
    c: &'a mut [f32],
    c_stride: usize,
    rows: usize,
    initial: Initial<'a>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (a, c) = ((self.a, self.a_stride), (self.c, self.c_stride));
        self.packed
            .multiply_rows(simd, a, c, self.rows, self.initial);
    }
}

#[cfg(test)]
mod tests;
