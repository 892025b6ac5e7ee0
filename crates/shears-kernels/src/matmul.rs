//! Matrix products. This is the one place where their precision and their kernels are chosen.
//!
//! The right factor of a product is [`Packed`]: brought once into the order in which the kernel reads
//! it, to serve all steps of a window or all rows of a batch. The gradient of a weight is a product of
//! two activations, [`transposed_product`]. In both, each number of the result is
//! one sum in the order of the inner dimension, so that neither the number of rows in a call
//! nor the number of threads changes its bits.

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::vector::ask_for_row;

mod gradient;
mod tile;
mod vector_product;

pub(crate) use gradient::transposed_product;
use tile::{Start as TileStart, Tile};
pub(crate) use vector_product::{MatrixVector, PACK_FROM, product_with_vector};

/// Rows that are multiplied together: with 256 columns of each they fill a quarter of a small second-level cache.
const ROWS_AT_ONCE: usize = 120;

/// Rows that are brought into panels together.
const PACKED_AT_ONCE: usize = 32;

/// How many rows before they are packed the memory is asked for them: rows lie in different pages,
/// where no processor foresees them.
const ROWS_AHEAD: usize = 8;

/// Numbers that are copied as one piece: a panel's width with AVX2.
const COPIED: usize = 16;

/// Inner dimension that is multiplied together: a panel of this depth stays in the first-level cache.
const DEPTH_AT_ONCE: usize = 256;

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// One number for each column.
    Bias(&'a [f32]),
    /// What the result holds already.
    Result,
}

/// A matrix `B` `[inner, columns]`, in panels of two vectors' width.
#[derive(Debug)]
pub(crate) struct Packed {
    panels: Buffer,
    inner: usize,
    columns: usize,
    /// Columns of a panel; the last one may have half as many.
    width: usize,
}

impl Packed {
    /// For `x Wᵀ`, from `W` `[columns, inner]`, row after row.
    pub(crate) fn transposed(cpu: Cpu, weight: &[f32], columns: usize, inner: usize) -> Packed {
        assert_eq!(weight.len(), columns * inner, "the size of a weight");
        let mut packed = Packed::stale(cpu, columns, inner);
        let (lanes, width, count) = (cpu.lanes(), packed.width, packed.count());
        let shared = Shared::new(&mut packed.panels);
        cpu.split(count, 1, |panels| {
            for first in panels.map(|panel| panel * width) {
                let given = width.min(columns - first);
                let width = given.next_multiple_of(lanes);
                // SAFETY: each panel is filled once, and panels do not overlap.
                let panel = unsafe { shared.part(first * inner..(first + width) * inner) };
                turn_panel(&weight[first * inner..], inner, inner, given, width, panel);
            }
        });
        packed
    }

    /// For `y W`, from `W` `[inner, columns]`, row after row.
    pub(crate) fn plain(cpu: Cpu, weight: &[f32], inner: usize, columns: usize) -> Packed {
        assert_eq!(weight.len(), columns * inner, "the size of a weight");
        Packed::of_rows(cpu, (weight, columns), inner, columns)
    }

    /// As [`Packed::plain`], of rows that lie `stride` numbers apart.
    fn of_rows(cpu: Cpu, (b, stride): (&[f32], usize), inner: usize, columns: usize) -> Packed {
        let mut packed = Packed::stale(cpu, columns, inner);
        let (lanes, width) = (cpu.lanes(), packed.width);
        let shared = Shared::new(&mut packed.panels);
        // Some rows at a time, which stay in the cache until all panels have what they need of them.
        cpu.split(inner, PACKED_AT_ONCE, |rows| {
            for start in rows.clone().step_by(PACKED_AT_ONCE) {
                let end = rows.end.min(start + PACKED_AT_ONCE);
                for first in (0..columns).step_by(width) {
                    let given = width.min(columns - first);
                    let width = given.next_multiple_of(lanes);
                    let place = first * inner + start * width..first * inner + end * width;
                    // SAFETY: each row of each panel is written once.
                    let panel = unsafe { shared.part(place) };
                    copy_panel(&b[start * stride + first..], stride, given, width, panel);
                }
            }
        });
        packed
    }

    fn stale(cpu: Cpu, columns: usize, inner: usize) -> Packed {
        let lanes = cpu.lanes();
        Packed {
            panels: Buffer::stale(columns.next_multiple_of(lanes) * inner),
            inner,
            columns,
            width: 2 * lanes,
        }
    }

    /// How many panels there are.
    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// `C = start + A B` on all threads, for `A` `[rows, inner]` and `C` `[rows, columns]`, whose rows lie
    /// `a_stride` and `c_stride` numbers apart.
    pub(crate) fn multiply(
        &self,
        cpu: Cpu,
        (a, a_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        start: Start<'_>,
    ) {
        self.multiply_then(cpu, (a, a_stride), (c, c_stride), start, |_, _| {});
    }

    /// As [`Packed::multiply`], and calls `finish` for each block of rows of the result while it is
    /// in the cache, with the index of its first row.
    pub(crate) fn multiply_then(
        &self,
        cpu: Cpu,
        (a, a_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        start: Start<'_>,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let rows = c.len().div_ceil(c_stride.max(1));
        let len = c.len();
        let shared = Shared::new(c);
        cpu.each_block(rows, ROWS_AT_ONCE, |block| {
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
                start,
            });
            finish(block.start, c);
        });
    }

    /// The columns of one panel, on the calling thread: `C[.., columns] = start + A B[.., columns]`.
    ///
    /// # Panics
    ///
    /// If a row of `a` or `c` leaves its slice.
    #[inline(always)]
    pub(crate) fn multiply_panel<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        (a, a_stride): (&[f32], usize),
        c: (&mut [f32], usize),
        rows: usize,
        start: Start<'_>,
    ) {
        let a = Left::Plain(a, a_stride);
        let sizes = (rows, self.inner);
        (self.panels()).multiply(simd, panel..panel + 1, a, c, sizes, start);
    }

    /// The panels themselves.
    #[inline(always)]
    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels {
            numbers: &self.panels,
            inner: self.inner,
            columns: self.columns,
        }
    }
}

/// A left factor `[rows, inner]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a> {
    /// Row after row, with the distance between rows.
    Plain(&'a [f32], usize),
    /// Column after column, with the distance between columns.
    Transposed(&'a [f32], usize),
}

/// A right factor `[inner, columns]` in panels of two vectors' width, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    numbers: &'a [f32],
    inner: usize,
    columns: usize,
}

impl<'a> Panels<'a> {
    /// How many numbers the panels of a matrix take.
    pub(crate) fn len<S: Simd>(inner: usize, columns: usize) -> usize {
        columns.next_multiple_of(S::F32_LANES) * inner
    }

    /// The panels of `B` `[inner, columns]`, whose rows lie `stride` numbers apart, written to `out`.
    #[inline(always)]
    pub(crate) fn plain<S: Simd>(
        _: S,
        (b, stride): (&[f32], usize),
        inner: usize,
        columns: usize,
        out: &'a mut [f32],
    ) -> Panels<'a> {
        let out = &mut out[..Self::len::<S>(inner, columns)];
        for first in (0..columns).step_by(2 * S::F32_LANES) {
            let given = (columns - first).min(2 * S::F32_LANES);
            let width = given.next_multiple_of(S::F32_LANES);
            let panel = &mut out[first * inner..][..width * inner];
            if inner > 0 {
                copy_panel(&b[first..], stride, given, width, panel);
            }
        }
        Panels {
            numbers: out,
            inner,
            columns,
        }
    }

    /// The panels of `Wᵀ` for `W` `[columns, inner]`, whose rows lie `stride` numbers apart, written to
    /// `out`.
    #[inline(always)]
    pub(crate) fn transposed<S: Simd>(
        _: S,
        (weight, stride): (&[f32], usize),
        columns: usize,
        inner: usize,
        out: &'a mut [f32],
    ) -> Panels<'a> {
        let out = &mut out[..Self::len::<S>(inner, columns)];
        for first in (0..columns).step_by(2 * S::F32_LANES) {
            let given = (columns - first).min(2 * S::F32_LANES);
            let width = given.next_multiple_of(S::F32_LANES);
            let panel = &mut out[first * inner..][..width * inner];
            turn_panel(
                &weight[first * stride..],
                stride,
                inner,
                given,
                width,
                panel,
            );
        }
        Panels {
            numbers: out,
            inner,
            columns,
        }
    }

    /// Rows of `B`.
    #[inline(always)]
    pub(crate) fn inner(self) -> usize {
        self.inner
    }

    /// How many panels there are.
    #[inline(always)]
    pub(crate) fn count<S: Simd>(self) -> usize {
        self.columns.div_ceil(2 * S::F32_LANES)
    }

    /// Some panels' columns: `C[.., columns] = start + A B[..depth, columns]`, of whose inner dimension
    /// the first `depth` numbers are taken.
    ///
    /// # Panics
    ///
    /// If a row of `a` or `c` leaves its slice.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd>(
        self,
        simd: S,
        panels: std::ops::Range<usize>,
        a: Left<'_>,
        (c, c_stride): (&mut [f32], usize),
        sizes: (usize, usize),
        start: Start<'_>,
    ) {
        self.multiply_from(simd, panels, 0, a, (c, c_stride), sizes, start);
    }

    /// As [`Panels::multiply`], with the `depth` numbers of the inner dimension from `skipped` on; `a` has just
    /// those.
    #[inline(always)]
    #[allow(
        clippy::too_many_arguments,
        reason = "two factors, a result, and what part of them"
    )]
    pub(crate) fn multiply_from<S: Simd>(
        self,
        simd: S,
        panels: std::ops::Range<usize>,
        skipped: usize,
        a: Left<'_>,
        (c, c_stride): (&mut [f32], usize),
        (rows, depth): (usize, usize),
        start: Start<'_>,
    ) {
        // A function of its own for each set of instructions: where products are computed, the
        // compiler need not repeat all tiles of all heights.
        match a {
            Left::Plain(a, a_stride) => simd.vectorize(Product::<false> {
                right: self,
                panels,
                skipped,
                a,
                a_stride,
                c,
                c_stride,
                rows,
                depth,
                start,
            }),
            Left::Transposed(a, a_stride) => simd.vectorize(Product::<true> {
                right: self,
                panels,
                skipped,
                a,
                a_stride,
                c,
                c_stride,
                rows,
                depth,
                start,
            }),
        }
    }

    /// All columns, see [`Panels::multiply`].
    #[inline(always)]
    pub(crate) fn multiply_all<S: Simd>(
        self,
        simd: S,
        a: Left<'_>,
        c: (&mut [f32], usize),
        sizes: (usize, usize),
        start: Start<'_>,
    ) {
        self.multiply(simd, 0..self.count::<S>(), a, c, sizes, start);
    }
}

/// See [`Panels::multiply`].
struct Product<'a, const TRANSPOSED: bool> {
    right: Panels<'a>,
    panels: std::ops::Range<usize>,
    skipped: usize,
    a: &'a [f32],
    a_stride: usize,
    c: &'a mut [f32],
    c_stride: usize,
    rows: usize,
    depth: usize,
    start: Start<'a>,
}

impl<const TRANSPOSED: bool> WithSimd for Product<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panels {
            numbers,
            inner,
            columns,
        } = self.right;
        let (rows, depth) = (self.rows, self.depth);
        if rows == 0 || self.panels.is_empty() {
            return;
        }
        let width = 2 * S::F32_LANES;
        let end = columns.min(self.panels.end * width);
        assert!(self.skipped + depth <= inner, "the depth of a product");
        let (lines, line) = if TRANSPOSED {
            (depth, rows)
        } else {
            (rows, depth)
        };
        let needed = lines
            .checked_sub(1)
            .map_or(0, |last| last * self.a_stride + line);
        assert!(needed <= self.a.len(), "rows of a product");
        assert!(
            (rows - 1) * self.c_stride + end <= self.c.len(),
            "rows of a result"
        );
        for panel in self.panels {
            let first = panel * width;
            let given = width.min(columns - first);
            let panel_width = given.next_multiple_of(S::F32_LANES);
            let b = &numbers[first * inner..][..panel_width * inner];
            for k in (0..depth.max(1)).step_by(DEPTH_AT_ONCE) {
                let start = match self.start {
                    _ if k > 0 => TileStart::Result,
                    Start::Zero => TileStart::Zero,
                    Start::Bias(bias) => TileStart::Bias(&bias[first..first + given]),
                    Start::Result => TileStart::Result,
                };
                let skipped = if TRANSPOSED { k * self.a_stride } else { k };
                let tile = Tile {
                    a: self.a[skipped..].as_ptr(),
                    a_stride: self.a_stride,
                    b: b[(self.skipped + k) * panel_width..].as_ptr(),
                    depth: DEPTH_AT_ONCE.min(depth - k),
                    c_stride: self.c_stride,
                    columns: given,
                    start,
                };
                // SAFETY: rows and columns were checked above, and the panel holds `inner` rows
                // of its width.
                unsafe {
                    let c = self.c.as_mut_ptr().add(first);
                    if panel_width == S::F32_LANES {
                        tile.rows::<S, 1, TRANSPOSED>(simd, c, rows);
                    } else {
                        tile.rows::<S, 2, TRANSPOSED>(simd, c, rows);
                    }
                }
            }
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
    start: Start<'a>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let a = Left::Plain(self.a, self.a_stride);
        let (c, sizes) = ((self.c, self.c_stride), (self.rows, self.packed.inner));
        self.packed
            .panels()
            .multiply_all(simd, a, c, sizes, self.start);
    }
}

/// The first `given` columns of rows that lie `stride` numbers apart, as rows of a panel of that width.
#[inline(always)]
fn copy_panel(b: &[f32], stride: usize, given: usize, width: usize, panel: &mut [f32]) {
    for (k, out) in panel.chunks_exact_mut(width).enumerate() {
        let row = &b[k * stride..][..given];
        ask_for_row(row, ROWS_AHEAD * stride);
        match <&mut [f32; COPIED]>::try_from(&mut *out) {
            // The usual width of AVX2 as a few instructions, and not a call.
            Ok(out) if given == COPIED => out.copy_from_slice(row),
            _ => {
                out[..given].copy_from_slice(row);
                out[given..].fill(0.0);
            }
        }
    }
}

/// The first `given` rows of `inner` numbers, which lie `stride` numbers apart, as the columns of a panel of that
/// width.
#[inline(always)]
fn turn_panel(
    weight: &[f32],
    stride: usize,
    inner: usize,
    given: usize,
    width: usize,
    panel: &mut [f32],
) {
    if given < width {
        panel.fill(0.0);
    }
    if inner == 0 {
        return;
    }
    for column in 0..given {
        let row = &weight[column * stride..][..inner];
        ask_for_row(row, ROWS_AHEAD * stride);
        for (out, x) in panel[column..].iter_mut().step_by(width).zip(row) {
            *out = *x;
        }
    }
}

#[cfg(test)]
mod tests;
