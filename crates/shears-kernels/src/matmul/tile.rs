//! The micro-kernels: a few rows times one or two vectors of columns, in registers.
//!
//! On x86-64 they are written in assembly, elsewhere with `pulp`'s vectors. In bf16 an element of a
//! factor is a pair of neighbours along the inner dimension, the size of an `f32`.

use pulp::Simd;

use super::Initial;
use crate::cpu::{Bf16Unit, Products};

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod x86;

/// A product `C = initial + A B` of some rows with a part of a panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    /// The precision of both factors.
    pub(super) products: Products,
    pub(super) a: *const f32,
    /// The stride between rows of `A`, in elements.
    pub(super) a_row: usize,
    /// The stride between columns of `A`, in elements.
    pub(super) a_column: usize,
    /// `depth` rows of the panel.
    pub(super) b: *const f32,
    pub(super) depth: usize,
    pub(super) c: *mut f32,
    /// The stride between rows of `C`, in elements.
    pub(super) c_row: usize,
    /// Columns of the result; the last panel may be wider.
    pub(super) columns: usize,
    /// A bias has as many elements as the result has columns.
    pub(super) initial: Initial<'a>,
}

/// The arguments of a micro-kernel. Strides are in bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Tile {
    a: *const f32,
    a_row: usize,
    a_column: usize,
    b: *const f32,
    depth: usize,
    /// The initial values of the accumulators.
    initial: *const f32,
    initial_row: usize,
    c: *mut f32,
    c_row: usize,
}

/// The elements of the widest vector.
const MAX_LANES: usize = 16;

/// The most rows of a tile: 28 accumulators, two vectors of `B` and one of `A` fit 32 registers.
const MAX_ROWS: usize = 14;

/// The rows of the tallest tile, which is AMX's.
const AMX_ROWS: usize = 32;

/// The most columns of a tile.
const MAX_COLUMNS: usize = 2 * MAX_LANES;

const ELEMENT: usize = size_of::<f32>();

/// The most rows of a tile whose accumulators stay in registers.
#[inline(always)]
pub(super) fn max_rows<S: Simd>(products: Products) -> usize {
    match products {
        Products::Bf16(Bf16Unit::Amx) => AMX_ROWS,
        _ if S::REGISTER_COUNT >= 32 => MAX_ROWS,
        _ => 6,
    }
}

impl Product<'_> {
    /// Computes all rows, in tiles of nearly equal height: with 16 registers, 25 rows are 5 x 5,
    /// not 4 x 6 + 1.
    ///
    /// # Safety
    ///
    /// `A` has `rows` rows of at least `depth` elements, `B` has `depth` rows of `VECTORS` vectors,
    /// and `C` has `rows` rows of at least `columns` elements, where `columns` is at most `VECTORS`
    /// vectors. The machine has the unit of `products`; for AMX, `A` is readable up to the next
    /// multiple of 16 rows, its columns are adjacent, and the depth is a multiple of 16.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd, const VECTORS: usize>(self, simd: S, rows: usize) {
        static ZEROS: [f32; MAX_COLUMNS] = [0.0; MAX_COLUMNS];
        let width = VECTORS * S::F32_LANES;
        let c_row = self.c_row * ELEMENT;
        let mut tile = Tile {
            a: self.a,
            a_row: self.a_row * ELEMENT,
            a_column: self.a_column * ELEMENT,
            b: self.b,
            depth: self.depth,
            initial: ZEROS.as_ptr(),
            initial_row: 0,
            c: self.c,
            c_row,
        };
        match self.initial {
            Initial::Zero => {}
            Initial::Bias(bias) => tile.initial = bias.as_ptr(),
            Initial::Result => (tile.initial, tile.initial_row) = (self.c, c_row),
        }
        let most = max_rows::<S>(self.products);
        let is_amx = self.products == Products::Bf16(Bf16Unit::Amx);
        let mut remaining = rows;
        for tiles in (1..=rows.div_ceil(most)).rev() {
            let (height, whole) = match is_amx {
                true => (remaining.min(most), remaining.min(most).is_multiple_of(16)),
                false => (remaining.div_ceil(tiles), true),
            };
            // SAFETY: the caller guarantees it, for the remaining rows.
            unsafe {
                if whole && self.columns == width {
                    tile.compute::<S, VECTORS>(simd, self.products, height);
                } else {
                    tile.compute_padded::<S, VECTORS>(simd, self.products, height, self.columns);
                }
            }
            remaining -= height;
            tile.a = tile.a.wrapping_add(height * self.a_row);
            tile.c = tile.c.wrapping_add(height * self.c_row);
            tile.initial = tile.initial.wrapping_byte_add(height * tile.initial_row);
        }
    }
}

impl Tile {
    /// # Safety
    ///
    /// `A` has `height` rows, of `depth` elements; `B` has `depth` rows of `VECTORS` vectors; the
    /// initial values and `C` have `height` rows of `VECTORS` vectors. The height is 1 to
    /// [`max_rows`].
    #[inline(always)]
    unsafe fn compute<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        products: Products,
        height: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            #[cfg(test)]
            if products == Products::Bf16(Bf16Unit::Amx) && !crate::cpu::has_amx() {
                // SAFETY: the caller guarantees it.
                unsafe { amx::emulate(self, height.div_ceil(amx::ROWS), VECTORS) };
                return;
            }
            // On x86-64 the width identifies the instruction set.
            let kernel = match (S::F32_LANES, products) {
                (16, Products::F32) => Some(x86::AVX512[height - 1][VECTORS - 1]),
                (8, Products::F32) => Some(x86::AVX2[height - 1][VECTORS - 1]),
                (16, Products::Bf16(Bf16Unit::Avx512)) => {
                    Some(x86::AVX512_BF16[height - 1][VECTORS - 1])
                }
                (16, Products::Bf16(Bf16Unit::Amx)) => {
                    Some(amx::KERNELS[height.div_ceil(amx::ROWS) - 1][VECTORS - 1])
                }
                _ => None,
            };
            if let Some(kernel) = kernel {
                // SAFETY: the caller guarantees it; `simd` or the unit proves that the instructions
                // exist.
                unsafe { kernel(self) };
                return;
            }
        }
        macro_rules! of_height {
            ($($height:literal)*) => {
                match (height, products) {
                    $(
                        // SAFETY: the caller guarantees it.
                        ($height, Products::F32) => unsafe {
                            self.generic::<S, $height, VECTORS>(simd);
                        },
                        // SAFETY: as above.
                        ($height, Products::Bf16(_)) => unsafe {
                            self.widened::<S, $height, VECTORS>();
                        },
                    )*
                    _ => unreachable!("a tile has 1 to {MAX_ROWS} rows"),
                }
            };
        }
        if S::REGISTER_COUNT >= 32 {
            of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        } else {
            of_height!(1 2 3 4 5 6);
        }
    }

    /// Computes a tile in a padded buffer and copies the result: panels are padded to whole vectors
    /// and AMX rows to 16, but results are not.
    ///
    /// # Safety
    ///
    /// As for [`Tile::compute`], where initial values and `C` have rows of `columns` elements.
    #[inline(always)]
    unsafe fn compute_padded<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        products: Products,
        height: usize,
        columns: usize,
    ) {
        let width = VECTORS * S::F32_LANES;
        let mut padded = [0.0_f32; AMX_ROWS * MAX_COLUMNS];
        for (row, padded) in padded.chunks_exact_mut(width).take(height).enumerate() {
            // SAFETY: the row has `columns` elements.
            let initial = unsafe {
                let initial = self.initial.byte_add(row * self.initial_row);
                std::slice::from_raw_parts(initial, columns)
            };
            padded[..columns].copy_from_slice(initial);
        }
        let padded_tile = Tile {
            initial: padded.as_ptr(),
            initial_row: width * ELEMENT,
            c: padded.as_mut_ptr(),
            c_row: width * ELEMENT,
            ..*self
        };
        // SAFETY: `padded` holds the tallest and widest tile; the caller guarantees the rest.
        unsafe { padded_tile.compute::<S, VECTORS>(simd, products, height) };
        for (row, padded) in padded.chunks_exact(width).take(height).enumerate() {
            // SAFETY: the row has `columns` elements.
            let c = unsafe {
                let c = self.c.byte_add(row * self.c_row);
                std::slice::from_raw_parts_mut(c, columns)
            };
            c.copy_from_slice(&padded[..columns]);
        }
    }

    /// # Safety
    ///
    /// As for [`Tile::compute`], with `ROWS` rows.
    #[inline(always)]
    unsafe fn generic<S: Simd, const ROWS: usize, const VECTORS: usize>(&self, simd: S) {
        let lanes = S::F32_LANES;
        let vector = |row: *const f32, vector: usize| {
            // SAFETY: inside a row. A vector is plain data, read unaligned.
            unsafe { row.add(vector * lanes).cast::<S::f32s>().read_unaligned() }
        };
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the initial values have `ROWS` rows.
            let initial = unsafe { self.initial.byte_add(row * self.initial_row) };
            *sums = std::array::from_fn(|n| vector(initial, n));
        }
        for k in 0..self.depth {
            // SAFETY: `A` and `B` have `depth` entries.
            let (a, b) = unsafe {
                let b = self.b.add(k * VECTORS * lanes);
                (self.a.byte_add(k * self.a_column), b)
            };
            let b: [S::f32s; VECTORS] = std::array::from_fn(|n| vector(b, n));
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `A` has `ROWS` rows.
                let a = simd.splat_f32s(unsafe { *a.byte_add(row * self.a_row) });
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = simd.mul_add_e_f32s(a, b, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                // SAFETY: `C` has `ROWS` rows.
                unsafe {
                    let c = self.c.byte_add(row * self.c_row).add(n * lanes);
                    c.cast::<S::f32s>().write_unaligned(sum);
                }
            }
        }
    }

    /// bf16 pairs without bf16 instructions: widens both, and multiplies and adds in the order of
    /// `vdpbf16ps`, the second first. A product of two bf16 is exact in `f32`.
    ///
    /// # Safety
    ///
    /// As for [`Tile::compute`], with `ROWS` rows.
    #[inline(always)]
    unsafe fn widened<S: Simd, const ROWS: usize, const VECTORS: usize>(&self) {
        let width = VECTORS * S::F32_LANES;
        let halves = |pair: f32| {
            let bits = pair.to_bits();
            (
                f32::from_bits(bits << 16),
                f32::from_bits(bits & 0xffff_0000),
            )
        };
        for row in 0..ROWS {
            let mut sums = [0.0_f32; MAX_COLUMNS];
            // SAFETY: the rows of `A`, initial values and `C` exist; `C` may alias the initial
            // values.
            let (a, c) = unsafe {
                let initial = self.initial.byte_add(row * self.initial_row);
                std::ptr::copy_nonoverlapping(initial, sums.as_mut_ptr(), width);
                (
                    self.a.byte_add(row * self.a_row),
                    self.c.byte_add(row * self.c_row),
                )
            };
            for k in 0..self.depth {
                // SAFETY: `A` and `B` have `depth` entries.
                let (a, b) = unsafe {
                    let b = std::slice::from_raw_parts(self.b.add(k * width), width);
                    (*a.byte_add(k * self.a_column), b)
                };
                let (first, second) = halves(a);
                for (sum, b) in sums[..width].iter_mut().zip(b) {
                    let (b_first, b_second) = halves(*b);
                    *sum = (*sum + second * b_second) + first * b_first;
                }
            }
            // SAFETY: the row of `C` has `width` elements.
            unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), c, width) };
        }
    }
}
