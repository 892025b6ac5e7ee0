//! The innermost loop of a product: a few rows times two vectors of columns, all in registers.

use pulp::Simd;

/// What a tile is added to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    Zero,
    /// As many numbers as the tile has columns.
    Bias(&'a [f32]),
    Result,
}

/// The product of some rows of `A` with a part of a panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<'a> {
    pub(super) a: *const f32,
    /// Distance between the rows of `A`, or, of a transposed one, between its columns; in the other
    /// direction neighbours lie side by side.
    pub(super) a_stride: usize,
    /// `depth` rows of the panel.
    pub(super) b: *const f32,
    pub(super) depth: usize,
    pub(super) c_stride: usize,
    /// Columns of the result; the last panel may be wider.
    pub(super) columns: usize,
    pub(super) start: Start<'a>,
}

/// The widest vector holds this many numbers.
const MOST_LANES: usize = 16;

/// The most rows of a tile: 28 sums, two vectors of `B` and one of `A` in 32 registers.
const MOST_ROWS: usize = 14;

/// Entries of the inner dimension between two computations of the addresses of rows. Where two threads
/// share a core, it is the number of instructions that counts.
const UNROLLED: usize = 4;

/// The most rows of a tile whose sums stay in registers.
#[inline(always)]
pub(super) fn most_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 {
        MOST_ROWS
    } else {
        6
    }
}

impl Tile<'_> {
    /// All rows, in tiles of nearly equal height: 25 rows are 5 x 5 in 16 registers, not 4 x 6 + 1.
    ///
    /// # Safety
    ///
    /// `a` has `rows` rows of at least `depth` numbers (transposed: `depth` columns of at least `rows`
    /// numbers), `b` has `depth` rows of `VECTORS` vectors,
    /// and `c` has `rows` rows of at least `columns` numbers.
    #[inline(always)]
    pub(super) unsafe fn rows<S: Simd, const VECTORS: usize, const TRANSPOSED: bool>(
        mut self,
        simd: S,
        mut c: *mut f32,
        mut rows: usize,
    ) {
        let mut tiles = rows.div_ceil(most_rows::<S>());
        while rows > 0 {
            let height = rows.div_ceil(tiles);
            macro_rules! of_height {
                ($($height:literal)*) => {
                    match height {
                        $(
                            // SAFETY: as the caller promises, for the rows that are left.
                            $height => unsafe {
                                self.compute::<S, $height, VECTORS, TRANSPOSED>(simd, c)
                            },
                        )*
                        _ => unreachable!("a tile has at most {MOST_ROWS} rows"),
                    }
                };
            }
            if S::REGISTER_COUNT >= 32 {
                of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            } else {
                of_height!(1 2 3 4 5 6);
            }
            rows -= height;
            tiles -= 1;
            if rows > 0 {
                // SAFETY: there is at least one more row.
                unsafe {
                    let row = if TRANSPOSED { 1 } else { self.a_stride };
                    self.a = self.a.add(height * row);
                    c = c.add(height * self.c_stride);
                }
            }
        }
    }

    /// # Safety
    ///
    /// As for `rows`, with `ROWS` rows.
    #[inline(always)]
    unsafe fn compute<S: Simd, const ROWS: usize, const VECTORS: usize, const TRANSPOSED: bool>(
        self,
        simd: S,
        c: *mut f32,
    ) {
        let width = VECTORS * S::F32_LANES;
        if self.columns == width {
            // SAFETY: the rows of `c` are as wide as the tile.
            unsafe {
                self.whole::<S, ROWS, VECTORS, TRANSPOSED>(simd, c, self.c_stride, self.start)
            };
            return;
        }
        // The panel is padded; the result is not, so that it is computed beside it.
        let mut padded = [0.0_f32; MOST_ROWS * 2 * MOST_LANES];
        for row in 0..ROWS {
            let padded = &mut padded[row * width..][..self.columns];
            match self.start {
                Start::Zero => {}
                Start::Bias(bias) => padded.copy_from_slice(bias),
                Start::Result => {
                    // SAFETY: the row of `c` has `columns` numbers.
                    let c = unsafe {
                        std::slice::from_raw_parts(c.add(row * self.c_stride), self.columns)
                    };
                    padded.copy_from_slice(c);
                }
            }
        }
        // SAFETY: `padded` has room for the tallest and widest tile.
        unsafe {
            let padded = padded.as_mut_ptr();
            self.whole::<S, ROWS, VECTORS, TRANSPOSED>(simd, padded, width, Start::Result);
        }
        for row in 0..ROWS {
            // SAFETY: the row of `c` has `columns` numbers.
            let c =
                unsafe { std::slice::from_raw_parts_mut(c.add(row * self.c_stride), self.columns) };
            c.copy_from_slice(&padded[row * width..][..self.columns]);
        }
    }

    /// # Safety
    ///
    /// As for `rows`, with `ROWS` rows, and `c` has whole vectors.
    #[inline(always)]
    unsafe fn whole<S: Simd, const ROWS: usize, const VECTORS: usize, const TRANSPOSED: bool>(
        self,
        simd: S,
        c: *mut f32,
        c_stride: usize,
        start: Start<'_>,
    ) {
        let lanes = S::F32_LANES;
        let c = |row: usize, vector: usize| {
            // SAFETY: inside the tile. A vector is plain numbers, and may lie anywhere.
            unsafe { c.add(row * c_stride + vector * lanes).cast::<S::f32s>() }
        };
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        match start {
            Start::Zero => {}
            Start::Bias(bias) => {
                let (bias, _) = S::as_simd_f32s(bias);
                for sums in &mut sums {
                    sums.copy_from_slice(&bias[..VECTORS]);
                }
            }
            Start::Result => {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: `c` points into the result.
                        *sum = unsafe { c(row, vector).read_unaligned() };
                    }
                }
            }
        }
        let mut b = self.b;
        let row_stride = if TRANSPOSED { 1 } else { self.a_stride };
        let column_stride = if TRANSPOSED { self.a_stride } else { 1 };
        // SAFETY: row `row` of `a` exists.
        let rows: [*const f32; ROWS] =
            std::array::from_fn(|row| unsafe { self.a.add(row * row_stride) });
        macro_rules! add {
            ($k:expr, $step:expr) => {
                // SAFETY: `b` and every row of `a` have `depth` entries.
                unsafe {
                    let b_row: [S::f32s; VECTORS] = std::array::from_fn(|vector| {
                        let b = b.add(($step * VECTORS + vector) * lanes);
                        b.cast::<S::f32s>().read_unaligned()
                    });
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let a = simd.splat_f32s(*row.add(($k + $step) * column_stride));
                        for (sum, b) in sums.iter_mut().zip(b_row) {
                            *sum = simd.mul_add_e_f32s(a, b, *sum);
                        }
                    }
                }
            };
        }
        let mut k = 0;
        while k + UNROLLED <= self.depth {
            for step in 0..UNROLLED {
                add!(k, step);
            }
            k += UNROLLED;
            // SAFETY: at most the end of the panel.
            b = unsafe { b.add(UNROLLED * VECTORS * lanes) };
        }
        while k < self.depth {
            add!(k, 0);
            k += 1;
            // SAFETY: as above.
            b = unsafe { b.add(VECTORS * lanes) };
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                // SAFETY: `c` points into the result.
                unsafe { c(row, vector).write_unaligned(sum) };
            }
        }
    }
}
