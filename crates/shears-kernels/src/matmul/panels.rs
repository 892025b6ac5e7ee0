//! The packed right factor of a product, and the loop around the micro-kernels.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Initial;
use super::tile::Product as TileProduct;
use crate::cpu::Products;
use crate::vector::prefetch_row;

/// Inner dimension of a block of a product: a panel of this depth fits the L1 cache.
pub(super) const DEPTH_BLOCK: usize = 256;

/// Prefetch distance of packing in rows: rows are in different pages, and hardware prefetchers do
/// not cross pages.
pub(super) const ROWS_AHEAD: usize = 8;

/// Inner dimension of the part of a panel that is transposed at a time, so that it stays in the L1
/// cache until all of its columns are written.
const TRANSPOSE_BLOCK: usize = 64;

/// A left factor `[rows, inner]`, with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a> {
    elements: &'a [f32],
    /// The stride between rows.
    row: usize,
    /// The stride between columns.
    column: usize,
}

impl<'a> Left<'a> {
    /// Row-major, with rows `stride` elements apart.
    #[inline(always)]
    pub(crate) fn rows(elements: &'a [f32], stride: usize) -> Left<'a> {
        Left {
            elements,
            row: stride,
            column: 1,
        }
    }

    /// Column-major, with columns `stride` elements apart.
    #[inline(always)]
    pub(crate) fn columns(elements: &'a [f32], stride: usize) -> Left<'a> {
        Left {
            elements,
            row: 1,
            column: stride,
        }
    }
}

/// A right factor `[inner, columns]` in panels two vectors wide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    /// The precision of the elements.
    pub(super) products: Products,
    pub(super) elements: &'a [f32],
    pub(super) inner: usize,
    pub(super) columns: usize,
}

impl<'a> Panels<'a> {
    /// The number of elements of the panels of a matrix.
    pub(crate) fn len<S: Simd>(inner: usize, columns: usize) -> usize {
        columns.next_multiple_of(S::F32_LANES) * inner
    }

    /// Packs `B` `[inner, columns]`, with rows `stride` elements apart, into `out`.
    #[inline(always)]
    pub(crate) fn plain<S: Simd>(
        _: S,
        (b, stride): (&[f32], usize),
        inner: usize,
        columns: usize,
        out: &'a mut [f32],
    ) -> Panels<'a> {
        Panels::fill::<S>(
            inner,
            columns,
            out,
            #[inline(always)]
            |first, valid, width, panel| {
                if inner > 0 {
                    copy_panel(&b[first..], stride, valid, width, panel);
                }
            },
        )
    }

    /// Packs `Wᵀ` for `W` `[columns, inner]`, with rows `stride` elements apart, into `out`.
    #[inline(always)]
    pub(crate) fn transposed<S: Simd>(
        _: S,
        (weight, stride): (&[f32], usize),
        columns: usize,
        inner: usize,
        out: &'a mut [f32],
    ) -> Panels<'a> {
        Panels::fill::<S>(
            inner,
            columns,
            out,
            #[inline(always)]
            |first, valid, width, panel| {
                let weight = &weight[first * stride..];
                transpose_panel(weight, stride, inner, valid, width, panel);
            },
        )
    }

    /// Fills panels with `write`, which gets a panel's first column, its number of valid columns,
    /// and its width.
    #[inline(always)]
    fn fill<S: Simd>(
        inner: usize,
        columns: usize,
        out: &'a mut [f32],
        write: impl Fn(usize, usize, usize, &mut [f32]),
    ) -> Panels<'a> {
        let out = &mut out[..Self::len::<S>(inner, columns)];
        for first in (0..columns).step_by(2 * S::F32_LANES) {
            let valid = (columns - first).min(2 * S::F32_LANES);
            let width = valid.next_multiple_of(S::F32_LANES);
            let panel = &mut out[first * inner..][..width * inner];
            write(first, valid, width, panel);
        }
        Panels {
            products: Products::F32,
            elements: out,
            inner,
            columns,
        }
    }

    /// The rows of `B`.
    #[inline(always)]
    pub(crate) fn inner(self) -> usize {
        self.inner
    }

    /// The number of panels.
    #[inline(always)]
    pub(crate) fn count<S: Simd>(self) -> usize {
        self.columns.div_ceil(2 * S::F32_LANES)
    }

    /// `C[.., columns] = initial + A B[..depth, columns]` for the columns of some panels and the
    /// first `depth` elements of the inner dimension.
    ///
    /// # Panics
    ///
    /// If a row of `a` or `c` is out of bounds.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd>(
        self,
        simd: S,
        panels: Range<usize>,
        a: Left<'_>,
        (c, c_stride): (&mut [f32], usize),
        sizes: (usize, usize),
        initial: Initial<'_>,
    ) {
        self.multiply_from(simd, panels, 0, a, (c, c_stride), sizes, initial);
    }

    /// Like [`Panels::multiply`], with the `depth` elements of the inner dimension starting at
    /// `skipped`; `a` has only those.
    #[inline(always)]
    #[allow(
        clippy::too_many_arguments,
        reason = "two factors, a result, and their ranges"
    )]
    pub(crate) fn multiply_from<S: Simd>(
        self,
        simd: S,
        panels: Range<usize>,
        skipped: usize,
        a: Left<'_>,
        (c, c_stride): (&mut [f32], usize),
        (rows, depth): (usize, usize),
        initial: Initial<'_>,
    ) {
        // One function per instruction set, called from all products: inlined, it would be compiled
        // again for each.
        simd.vectorize(Product {
            right: self,
            panels,
            skipped,
            a,
            c,
            c_stride,
            rows,
            depth,
            initial,
        });
    }

    /// [`Panels::multiply`] for all columns.
    #[inline(always)]
    pub(crate) fn multiply_all<S: Simd>(
        self,
        simd: S,
        a: Left<'_>,
        c: (&mut [f32], usize),
        sizes: (usize, usize),
        initial: Initial<'_>,
    ) {
        self.multiply(simd, 0..self.count::<S>(), a, c, sizes, initial);
    }
}

/// See [`Panels::multiply`].
struct Product<'a> {
    right: Panels<'a>,
    panels: Range<usize>,
    skipped: usize,
    a: Left<'a>,
    c: &'a mut [f32],
    c_stride: usize,
    rows: usize,
    depth: usize,
    initial: Initial<'a>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panels {
            products,
            elements,
            inner,
            columns,
        } = self.right;
        let (rows, depth, a) = (self.rows, self.depth, self.a);
        if rows == 0 || self.panels.is_empty() {
            return;
        }
        let width = 2 * S::F32_LANES;
        let end = columns.min(self.panels.end * width);
        assert!(self.skipped + depth <= inner, "the depth of a product");
        let last = (rows - 1) * a.row + depth.saturating_sub(1) * a.column;
        assert!(depth == 0 || last < a.elements.len(), "rows of a product");
        assert!(
            (rows - 1) * self.c_stride + end <= self.c.len(),
            "rows of a result"
        );
        for panel in self.panels {
            let first = panel * width;
            let valid = width.min(columns - first);
            let panel_width = valid.next_multiple_of(S::F32_LANES);
            let b = &elements[first * inner..][..panel_width * inner];
            for k in (0..depth.max(1)).step_by(DEPTH_BLOCK) {
                let initial = match self.initial {
                    _ if k > 0 => Initial::Result,
                    Initial::Zero => Initial::Zero,
                    Initial::Bias(bias) => Initial::Bias(&bias[first..first + valid]),
                    Initial::Result => Initial::Result,
                };
                let product = TileProduct {
                    products,
                    a: a.elements[k * a.column..].as_ptr(),
                    a_row: a.row,
                    a_column: a.column,
                    b: b[(self.skipped + k) * panel_width..].as_ptr(),
                    depth: DEPTH_BLOCK.min(depth - k),
                    c: self.c[first..].as_mut_ptr(),
                    c_row: self.c_stride,
                    columns: valid,
                    initial,
                };
                // SAFETY: rows and columns were checked above, and the panel has `inner` rows of
                // its width.
                unsafe {
                    if panel_width == S::F32_LANES {
                        product.compute::<S, 1>(simd, rows);
                    } else {
                        product.compute::<S, 2>(simd, rows);
                    }
                }
            }
        }
    }
}

/// Copies the first `valid` columns of rows `stride` elements apart into the rows of a panel of
/// width `width`, zero-padded.
#[inline(always)]
pub(super) fn copy_panel(b: &[f32], stride: usize, valid: usize, width: usize, panel: &mut [f32]) {
    for (k, out) in panel.chunks_exact_mut(width).enumerate() {
        let row = &b[k * stride..][..valid];
        prefetch_row(row, ROWS_AHEAD * stride);
        // The full widths of AVX-512 and AVX2 compile to a few instructions instead of a call.
        if !copy_array::<32>(row, out) && !copy_array::<16>(row, out) {
            out[..valid].copy_from_slice(row);
            out[valid..].fill(0.0);
        }
    }
}

/// Copies a row if both slices have exactly `WIDTH` elements.
#[inline(always)]
fn copy_array<const WIDTH: usize>(row: &[f32], out: &mut [f32]) -> bool {
    match (
        <&[f32; WIDTH]>::try_from(row),
        <&mut [f32; WIDTH]>::try_from(out),
    ) {
        (Ok(row), Ok(out)) => {
            *out = *row;
            true
        }
        _ => false,
    }
}

/// Transposes the first `valid` rows, of `inner` elements and `stride` apart, into the columns of a
/// panel of width `width`, zero-padded.
#[inline(never)] // It is called from code for each instruction set, and uses only the baseline.
pub(super) fn transpose_panel(
    weight: &[f32],
    stride: usize,
    inner: usize,
    valid: usize,
    width: usize,
    panel: &mut [f32],
) {
    if valid < width {
        panel.fill(0.0);
    }
    for start in (0..inner).step_by(TRANSPOSE_BLOCK) {
        let count = TRANSPOSE_BLOCK.min(inner - start);
        let panel = &mut panel[start * width..][..count * width];
        for first in (0..valid).step_by(4) {
            let columns = first..valid.min(first + 4);
            let row = |column: usize| &weight[column * stride + start..][..count];
            for column in columns.clone() {
                prefetch_row(row(column), ROWS_AHEAD * stride);
            }
            let mut done = 0;
            if columns.len() == 4 {
                done = count / 4 * 4;
                let rows = std::array::from_fn(|n| &row(first + n)[..done]);
                transpose_fours(rows, &mut panel[first..], width);
            }
            for column in columns {
                for (k, x) in row(column).iter().enumerate().skip(done) {
                    panel[k * width + column] = *x;
                }
            }
        }
    }
}

/// Writes four rows of equal length, a multiple of four, to the first four columns of `out`, whose
/// rows are `width` elements apart. On x86-64 four elements are stored at a time, which the compiler
/// does not find by itself.
#[inline(always)]
fn transpose_fours(rows: [&[f32]; 4], out: &mut [f32], width: usize) {
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len) && len.is_multiple_of(4));
    assert!(len == 0 || (len - 1) * width + 4 <= out.len());
    #[cfg(target_arch = "x86_64")]
    for k in (0..len).step_by(4) {
        use std::arch::x86_64::*;
        // SAFETY: rows and columns were checked above; every x86-64 CPU has the instructions.
        unsafe {
            let [a, b, c, d] = rows.map(|row| _mm_loadu_ps(row.as_ptr().add(k)));
            let (low, high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
            let (next_low, next_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
            let columns = [
                _mm_movelh_ps(low, next_low),
                _mm_movehl_ps(next_low, low),
                _mm_movelh_ps(high, next_high),
                _mm_movehl_ps(next_high, high),
            ];
            for (n, column) in columns.into_iter().enumerate() {
                _mm_storeu_ps(out.as_mut_ptr().add((k + n) * width), column);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (column, row) in rows.into_iter().enumerate() {
        for (k, x) in row.iter().enumerate() {
            out[k * width + column] = *x;
        }
    }
}
