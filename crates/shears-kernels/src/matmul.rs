//! Matrix products. This is the one place where their precision and their kernels are chosen.
//!
//! Products with weights go through [`Packed`]: the weight is brought once into the order in which
//! the kernel reads it, and then serves all steps of a window or all rows of a batch. Products of two
//! activations, which are large and used once, go to `gemm`. In both, each number of the result is
//! one sum in the order of the inner dimension, so that neither the number of rows in a call
//! nor the number of threads changes its bits.

use gemm::Parallelism;
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};

mod tile;
mod vector_product;

use tile::{Start as TileStart, Tile};
pub(crate) use vector_product::{MatrixVector, PACK_FROM, product_with_vector};

/// Rows that are multiplied together: with 256 columns of each they fill a quarter of a small second-level cache.
const ROWS_AT_ONCE: usize = 120;

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
        Packed::new(cpu, columns, inner, |first, width, panel| {
            let (rows, _) = weight[first * inner..].as_chunks::<1>();
            let given = width.min(columns - first);
            for (k, out) in panel.chunks_exact_mut(width).enumerate() {
                for (column, out) in out[..given].iter_mut().enumerate() {
                    *out = rows[column * inner + k][0];
                }
                out[given..].fill(0.0);
            }
        })
    }

    /// For `y W`, from `W` `[inner, columns]`, row after row.
    pub(crate) fn plain(cpu: Cpu, weight: &[f32], inner: usize, columns: usize) -> Packed {
        assert_eq!(weight.len(), columns * inner, "the size of a weight");
        Packed::new(cpu, columns, inner, |first, width, panel| {
            let given = width.min(columns - first);
            for (k, out) in panel.chunks_exact_mut(width).enumerate() {
                out[..given].copy_from_slice(&weight[k * columns + first..][..given]);
                out[given..].fill(0.0);
            }
        })
    }

    fn new(
        cpu: Cpu,
        columns: usize,
        inner: usize,
        fill: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Packed {
        let lanes = cpu.lanes();
        let width = 2 * lanes;
        let mut panels = Buffer::stale(columns.next_multiple_of(lanes) * inner);
        let count = columns.div_ceil(width);
        let shared = Shared::new(&mut panels);
        cpu.split(count, 1, |range| {
            for panel in range {
                let first = panel * width;
                let width = width.min((columns - first).next_multiple_of(lanes));
                let start = first * inner;
                // SAFETY: each panel is filled once, and panels do not overlap.
                let part = unsafe { shared.part(start..start + width * inner) };
                fill(first, width, part);
            }
        });
        Packed {
            panels,
            inner,
            columns,
            width,
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
        // As even as it can be, so that no thread waits for another's last block.
        let blocks = rows.div_ceil(ROWS_AT_ONCE).next_multiple_of(cpu.threads);
        let block_rows = rows.div_ceil(blocks.max(1)).max(1);
        cpu.split(rows.div_ceil(block_rows), 1, |blocks| {
            for block in blocks {
                let first = block * block_rows;
                let end = (first + block_rows).min(rows);
                // SAFETY: blocks of rows do not overlap.
                let c = unsafe { shared.part(first * c_stride..len.min(end * c_stride)) };
                let a = &a[first * a_stride..];
                cpu.run(Block {
                    packed: self,
                    a,
                    a_stride,
                    c,
                    c_stride,
                    rows: end - first,
                    start,
                });
                finish(first, c);
            }
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
            for (k, out) in panel.chunks_exact_mut(width).enumerate() {
                out[..given].copy_from_slice(&b[k * stride + first..][..given]);
                out[given..].fill(0.0);
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
            if given < width {
                panel.fill(0.0);
            }
            for column in 0..given {
                let row = &weight[(first + column) * stride..][..inner];
                let out = panel[column..].iter_mut().step_by(width);
                for (out, x) in out.zip(row) {
                    *out = *x;
                }
            }
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
        (rows, depth): (usize, usize),
        start: Start<'_>,
    ) {
        // A function of its own for each set of instructions: where products are computed, the
        // compiler need not repeat all tiles of all heights.
        match a {
            Left::Plain(a, a_stride) => simd.vectorize(Product::<false> {
                right: self,
                panels,
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
        assert!(depth <= inner, "the depth of a product");
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
                    b: b[k * panel_width..].as_ptr(),
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

/// `C = Aᵀ B`, or `C += Aᵀ B`, for `A` `[inner, rows]`, `B` `[inner, columns]` and `C` `[rows, columns]`, each with
/// its distance between rows: the gradient of a weight.
pub(crate) fn transposed_product(
    cpu: Cpu,
    inner: usize,
    (a, a_stride, rows): (&[f32], usize, usize),
    (b, b_stride, columns): (&[f32], usize, usize),
    (c, c_stride): (&mut [f32], usize),
    add: bool,
) {
    let last = |stride: usize, count: usize, width: usize| match count {
        0 => 0,
        _ => (count - 1) * stride + width,
    };
    assert!(a.len() >= last(a_stride, inner, rows), "the left factor");
    assert!(
        b.len() >= last(b_stride, inner, columns),
        "the right factor"
    );
    assert!(c.len() >= last(c_stride, rows, columns), "the result");
    let parallelism = match cpu.threads {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: the asserts above keep every index inside its slice.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            add,
            a.as_ptr(),
            a_stride as isize,
            1,
            b.as_ptr(),
            1,
            b_stride as isize,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests;
