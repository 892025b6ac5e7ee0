//! CPU features, and how work is divided among threads.

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use pulp::{Scalar128b, Simd, WithSimd};

use self::join::join;

#[cfg(target_arch = "x86_64")]
mod amx;
mod join;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::has_amx;

/// A vector instruction set that this machine supports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {
    /// AVX-512, 16 elements at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    /// AVX2 with FMA, 8 elements at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// NEON, 4 elements at a time.
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
    /// Portable 128-bit vectors, 4 elements at a time.
    Portable(Scalar128b),
}

impl Instructions {
    /// All that this machine supports, the fastest first.
    pub(crate) fn available() -> Vec<Instructions> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(pulp::x86::V4::try_new().map(Instructions::Avx512));
            found.extend(pulp::x86::V3::try_new().map(Instructions::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        found.extend(pulp::aarch64::Neon::try_new().map(Instructions::Neon));
        found.push(Instructions::Portable(Scalar128b));
        found
    }
}

/// The name of the vector instructions that the kernels use on this machine. The last bits of
/// results depend on them.
#[must_use]
pub fn instructions() -> &'static str {
    match Instructions::available()[0] {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2(_) => "AVX2",
        #[cfg(target_arch = "aarch64")]
        Instructions::Neon(_) => "NEON",
        Instructions::Portable(_) => "vectors of 128 bits",
    }
}

/// The precision of the factors of matrix products. Accumulators are f32 in both cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// `f32` factors.
    #[default]
    F32,
    /// Rounded to bfloat16, to nearest and ties to even. Parameters, activations between products,
    /// and gradients stay f32.
    Bf16,
}

/// The hardware used for bf16 products; see [`Bf16Unit::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Unit {
    /// AMX: tiles of 16 x 16 sums (Intel, from Sapphire Rapids on).
    Amx,
    /// `vdpbf16ps`, from the extension AVX512-BF16.
    Avx512,
    /// No bf16 instructions: pairs are widened to f32 and multiplied as f32.
    Widened,
}

impl Bf16Unit {
    /// The fastest unit of this machine.
    #[must_use]
    pub fn detect() -> Bf16Unit {
        static DETECTED: OnceLock<Bf16Unit> = OnceLock::new();
        *DETECTED.get_or_init(|| Bf16Unit::available()[0])
    }

    /// All units of this machine, the fastest first.
    pub(crate) fn available() -> Vec<Bf16Unit> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if pulp::x86::V4::try_new().is_some() {
            if has_amx() {
                found.push(Bf16Unit::Amx);
            }
            if is_x86_feature_detected!("avx512bf16") {
                found.push(Bf16Unit::Avx512);
            }
        }
        found.push(Bf16Unit::Widened);
        found
    }

    /// The display name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bf16Unit::Amx => "AMX",
            Bf16Unit::Avx512 => "AVX512-BF16",
            Bf16Unit::Widened => "f32 units",
        }
    }
}

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    F32,
    Bf16(Bf16Unit),
}

/// The instructions, product precision and number of threads of a kernel.
///
/// Results depend on instructions and precision, never on the number of threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) instructions: Instructions,
    pub(crate) products: Products,
    pub(crate) threads: usize,
}

impl Cpu {
    /// The best instructions of this machine, and all threads of the current rayon pool.
    pub(crate) fn current() -> Cpu {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        Cpu {
            instructions: *BEST.get_or_init(|| Instructions::available()[0]),
            products: Products::F32,
            threads: rayon::current_num_threads(),
        }
    }

    /// The same, with products in the given precision.
    pub(crate) fn with(self, precision: Precision) -> Cpu {
        let products = match precision {
            Precision::F32 => Products::F32,
            Precision::Bf16 => Products::Bf16(Bf16Unit::detect()),
        };
        Cpu { products, ..self }
    }

    /// The same, on the given number of threads.
    pub(crate) fn on(self, threads: usize) -> Cpu {
        Cpu { threads, ..self }
    }

    /// The same, on one thread, for work nested in parallel work.
    pub(crate) fn alone(self) -> Cpu {
        Cpu { threads: 1, ..self }
    }

    /// For work that reads `bytes` bytes once: one thread, if waking another would take longer.
    pub(crate) fn for_one_read(self, bytes: usize) -> Cpu {
        const SHARED: usize = 1 << 17;
        match bytes < SHARED {
            true => self.alone(),
            false => self,
        }
    }

    /// Runs work that is compiled for each instruction set. Everything it calls must be
    /// `#[inline(always)]`, or it would be compiled for the baseline.
    #[inline]
    pub(crate) fn run<W: WithSimd>(self, work: W) -> W::Output {
        match self.instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(simd) => Simd::vectorize(simd, work),
            Instructions::Portable(simd) => Simd::vectorize(simd, work),
        }
    }

    /// The number of `f32` elements of a vector.
    pub(crate) fn lanes(self) -> usize {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        self.run(Lanes)
    }

    /// Calls `work` for ranges that cover `0..count`, on all threads. Ranges start at multiples of
    /// `grain`.
    pub(crate) fn split(self, count: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        halve(0..count, grain.max(1), self.threads, &work);
    }

    /// Calls `work` for blocks of whole rows that cover `values`, on all threads, with the index of
    /// each block's first row. Blocks start at multiples of `grain` rows. A partial last row is not
    /// in any block.
    pub(crate) fn split_rows<T: Send>(
        self,
        values: &mut [T],
        row_len: usize,
        grain: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if row_len > 0 {
            let whole = values.len() - values.len() % row_len;
            let rows = Rows {
                first: 0,
                rows: &mut values[..whole],
                row_len,
            };
            let work = |part: Rows<'_, T>| work(part.first, part.rows);
            halve(rows, grain.max(1), self.threads, &work);
        }
    }

    /// Calls `work` for ranges that cover `0..count`, of nearly equal length and at most `most`
    /// long, on all threads, with dynamic scheduling.
    pub(crate) fn each_block(self, count: usize, most: usize, work: impl Fn(Range<usize>) + Sync) {
        // The same number for each thread, so that on an idle machine none waits for another.
        let blocks = count.div_ceil(most).next_multiple_of(self.threads);
        self.each(blocks.min(count), |block| {
            let blocks = blocks.min(count);
            work(block * count / blocks..(block + 1) * count / blocks);
        });
    }

    /// Calls `work` for each of `0..count`, on all threads, with dynamic scheduling: for pieces
    /// that take different times.
    ///
    /// Each thread begins with its own part of the range, the same for equal counts, and then takes
    /// over pieces from the ends of others' parts. So what one operation writes is mostly in the
    /// caches of the thread that reads it in the next (affinity scheduling: Markatos and LeBlanc
    /// 1994).
    pub(crate) fn each(self, count: usize, work: impl Fn(usize) + Sync) {
        let parts = self.threads.min(count);
        let queues: Vec<_> = (0..parts)
            .map(|part| Mutex::new(part * count / parts..(part + 1) * count / parts))
            .collect();
        let queue = |part: usize| queues[part].lock().unwrap_or_else(PoisonError::into_inner);
        self.split(parts, 1, |own| {
            for part in own {
                while let Some(index) = { queue(part).next() } {
                    work(index);
                }
            }
            for part in 0..parts {
                while let Some(index) = { queue(part).next_back() } {
                    work(index);
                }
            }
        });
    }
}

/// Work that can be divided among threads.
trait Divisible: Sized + Send {
    fn count(&self) -> usize;

    /// The first `count` pieces, and the others.
    fn divide(self, count: usize) -> (Self, Self);
}

impl Divisible for Range<usize> {
    fn count(&self) -> usize {
        self.len()
    }

    fn divide(self, count: usize) -> (Self, Self) {
        let middle = self.start + count;
        (self.start..middle, middle..self.end)
    }
}

/// Whole rows, and the index of the first.
struct Rows<'a, T> {
    first: usize,
    rows: &'a mut [T],
    row_len: usize,
}

impl<T: Send> Divisible for Rows<'_, T> {
    fn count(&self) -> usize {
        self.rows.len() / self.row_len
    }

    fn divide(self, count: usize) -> (Self, Self) {
        let (left, right) = self.rows.split_at_mut(count * self.row_len);
        let (row_len, first) = (self.row_len, self.first);
        let of = |first, rows| Rows {
            first,
            rows,
            row_len,
        };
        (of(first, left), of(first + count, right))
    }
}

/// Divides `whole` into `parts`, each but the last a multiple of `grain` pieces, and calls `work`
/// for the non-empty ones.
fn halve<D: Divisible>(whole: D, grain: usize, parts: usize, work: &(impl Fn(D) + Sync)) {
    let grains = whole.count().div_ceil(grain);
    if parts <= 1 || grains <= 1 {
        if grains > 0 {
            work(whole);
        }
        return;
    }
    let left_parts = parts / 2;
    let left = (grains * left_parts).div_ceil(parts) * grain;
    let left = left.min(whole.count());
    let (left, right) = whole.divide(left);
    join(
        || halve(left, grain, left_parts, work),
        || halve(right, grain, parts - left_parts, work),
    );
}

/// A slice that several threads write to, each its own part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: `part` returns the parts, and its callers guarantee that no two overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: std::marker::PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    ///
    /// No two parts that are alive at the same time overlap.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside the slice that `new` borrowed for `'a`, and the caller
        // guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
impl Cpu {
    /// Every f32 configuration that tests compare: all instruction sets, with one and several
    /// threads.
    pub(crate) fn all() -> Vec<Cpu> {
        let instructions = Instructions::available();
        let of = |instructions| {
            [1, 2, 3].map(|threads| Cpu {
                instructions,
                products: Products::F32,
                threads,
            })
        };
        instructions.into_iter().flat_map(of).collect()
    }

    /// Like [`Cpu::all`] in bf16, with every unit. Without AMX its instructions are emulated.
    pub(crate) fn all_bf16() -> Vec<Cpu> {
        let of = |cpu: Cpu| {
            let mut units = Bf16Unit::available();
            if !units.contains(&Bf16Unit::Amx) {
                units.push(Bf16Unit::Amx);
            }
            let units = units.into_iter();
            // AMX and AVX512-BF16 need 512-bit vectors.
            let fits = move |unit: &Bf16Unit| *unit == Bf16Unit::Widened || cpu.lanes() == 16;
            units.filter(fits).map(move |unit| Cpu {
                products: Products::Bf16(unit),
                ..cpu
            })
        };
        Cpu::all().into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::Cpu;

    #[test]
    fn ranges_cover_everything_once_and_start_at_grains() {
        for cpu in Cpu::all() {
            for (count, grain) in [(0, 1), (1, 1), (7, 2), (100, 6), (13, 100)] {
                let seen = Mutex::new(vec![0; count]);
                cpu.split(count, grain, |range| {
                    assert_eq!(range.start % grain, 0);
                    for index in range {
                        seen.lock().unwrap()[index] += 1;
                    }
                });
                assert_eq!(*seen.lock().unwrap(), vec![1; count]);
                let mut rows = vec![0; 3 * count];
                cpu.split_rows(&mut rows, 3, grain, |first, rows| {
                    assert_eq!(first % grain, 0);
                    for (index, value) in rows.iter_mut().enumerate() {
                        *value += 3 * first + index;
                    }
                });
                assert!(rows.iter().copied().eq(0..3 * count));
                let seen = Mutex::new(vec![0; count]);
                cpu.each(count, |index| seen.lock().unwrap()[index] += 1);
                assert_eq!(*seen.lock().unwrap(), vec![1; count]);
            }
            let mut rest = [0; 8];
            cpu.split_rows(&mut rest, 3, 1, |_, rows| rows.fill(1));
            assert_eq!(rest, [1, 1, 1, 1, 1, 1, 0, 0]);
            cpu.split_rows(&mut rest, 0, 1, |_, _| panic!("there are no rows"));
        }
    }
}
