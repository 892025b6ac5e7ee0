//! The micro-kernels for x86-64, in assembly: compiler output for such a loop changes with the
//! version and the surrounding code, and a loop that spills accumulators runs at half the speed
//! (`cargo xtask asm` checks). Each kernel computes one tile, from loading its accumulators to
//! storing them.
//!
//! Registers: `rax` and `rdx` advance along the rows of `A` and the panel of `B`; `r8` to `r14`
//! hold 1, 3, 5, 7, 9, 11 and 13 times the row stride of `A`, so that one addressing mode reaches
//! every row from `rax`.

use std::arch::asm;
use std::mem::offset_of;

use super::Tile;

/// A micro-kernel. Safety: as for [`Tile::compute`], for its height and width, on a processor with
/// its instructions.
type Kernel = unsafe fn(&Tile);

/// The kernels of a module, indexed by height minus one, then by vectors of columns minus one.
macro_rules! wide_table {
    ($name:ident) => {
        [
            [$name::tile_1x1, $name::tile_1x2],
            [$name::tile_2x1, $name::tile_2x2],
            [$name::tile_3x1, $name::tile_3x2],
            [$name::tile_4x1, $name::tile_4x2],
            [$name::tile_5x1, $name::tile_5x2],
            [$name::tile_6x1, $name::tile_6x2],
            [$name::tile_7x1, $name::tile_7x2],
            [$name::tile_8x1, $name::tile_8x2],
            [$name::tile_9x1, $name::tile_9x2],
            [$name::tile_10x1, $name::tile_10x2],
            [$name::tile_11x1, $name::tile_11x2],
            [$name::tile_12x1, $name::tile_12x2],
            [$name::tile_13x1, $name::tile_13x2],
            [$name::tile_14x1, $name::tile_14x2],
        ]
    };
}

pub(super) const AVX512: [[Kernel; 2]; 14] = wide_table!(avx512);
pub(super) const AVX512_BF16: [[Kernel; 2]; 14] = wide_table!(avx512_bf16);
pub(super) const AVX2: [[Kernel; 2]; 6] = [
    [avx2::tile_1x1, avx2::tile_1x2],
    [avx2::tile_2x1, avx2::tile_2x2],
    [avx2::tile_3x1, avx2::tile_3x2],
    [avx2::tile_4x1, avx2::tile_4x2],
    [avx2::tile_5x1, avx2::tile_5x2],
    [avx2::tile_6x1, avx2::tile_6x2],
];

/// One step along the inner dimension: loads the panel row `$at` rows ahead, and adds its product
/// with a column of `A`.
macro_rules! step {
    ($multiply:literal, $at:literal, $bytes:literal,
     [$($b:literal + $offset:literal),+], $splat:literal,
     [$([$row:literal $($sum:literal = $factor:literal),+])+]) => {
        concat!(
            $("vmovups ", $b, ", [rdx + ", $at, "*", $bytes, " + ", $offset, "]\n",)+
            $("prefetcht0 [rdx + {ahead} + ", $at, "*", $bytes, " + ", $offset, "]\n",)+
            $(
                "vbroadcastss ", $splat, ", dword ptr [rax", $row, "]\n",
                $($multiply, " ", $sum, ", ", $factor, ", ", $splat, "\n",)+
            )+
            "add rax, rsi"
        )
    };
}

/// A kernel: its name, the bytes of a panel's row, the registers of that row with their offsets,
/// the broadcast register, and for each row of the tile its address relative to `rax` and its
/// accumulators.
macro_rules! kernel {
    ($name:ident, $features:literal, $multiply:literal, $bytes:literal,
     [$($b:literal + $offset:literal),+], $splat:literal,
     [$([$row:literal $($sum:literal + $place:literal = $factor:literal),+])+]) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(tile: &Tile) {
            // SAFETY: the caller guarantees that the tile's factors and result exist. The kernel
            // reads `tile`, `A`, `B` and the initial values, and writes the tile's rows of `C`.
            unsafe {
                asm!(
                    "mov rax, [rdi + {a}]",
                    "mov rdx, [rdi + {b}]",
                    "mov rsi, [rdi + {a_column}]",
                    "mov r8, [rdi + {a_row}]",
                    "lea r9, [r8 + 2*r8]",
                    "lea r10, [r8 + 4*r8]",
                    "lea r11, [r9 + 4*r8]",
                    "lea r12, [r8 + 8*r8]",
                    "lea r13, [r9 + 8*r8]",
                    "lea r14, [r10 + 8*r8]",
                    "mov rcx, [rdi + {initial}]",
                    "mov r15, [rdi + {initial_row}]",
                    $(
                        $(concat!("vmovups ", $sum, ", [rcx + ", $place, "]"),)+
                        "add rcx, r15",
                    )+
                    "mov rcx, [rdi + {depth}]",
                    "sub rcx, 4",
                    "jb 3f",
                    ".p2align 5",
                    "2:",
                    step!($multiply, 0, $bytes, [$($b + $offset),+], $splat,
                          [$([$row $($sum = $factor),+])+]),
                    step!($multiply, 1, $bytes, [$($b + $offset),+], $splat,
                          [$([$row $($sum = $factor),+])+]),
                    step!($multiply, 2, $bytes, [$($b + $offset),+], $splat,
                          [$([$row $($sum = $factor),+])+]),
                    step!($multiply, 3, $bytes, [$($b + $offset),+], $splat,
                          [$([$row $($sum = $factor),+])+]),
                    concat!("add rdx, 4*", $bytes),
                    "sub rcx, 4",
                    "jae 2b",
                    "3:",
                    "add rcx, 4",
                    "jz 5f",
                    "4:",
                    step!($multiply, 0, $bytes, [$($b + $offset),+], $splat,
                          [$([$row $($sum = $factor),+])+]),
                    concat!("add rdx, ", $bytes),
                    "dec rcx",
                    "jnz 4b",
                    "5:",
                    "mov rcx, [rdi + {c}]",
                    "mov r15, [rdi + {c_row}]",
                    $(
                        $(concat!("vmovups [rcx + ", $place, "], ", $sum),)+
                        "add rcx, r15",
                    )+
                    a = const offset_of!(Tile, a),
                    a_row = const offset_of!(Tile, a_row),
                    a_column = const offset_of!(Tile, a_column),
                    b = const offset_of!(Tile, b),
                    depth = const offset_of!(Tile, depth),
                    initial = const offset_of!(Tile, initial),
                    initial_row = const offset_of!(Tile, initial_row),
                    c = const offset_of!(Tile, c),
                    c_row = const offset_of!(Tile, c_row),
                    ahead = const PREFETCHED_ROWS * $bytes,
                    in("rdi") tile,
                    out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                    clobber_abi("sysv64"),
                    options(nostack),
                );
            }
        }
    };
}

/// Prefetch distance in panel rows: hardware prefetchers do not run far enough ahead for a weight
/// larger than the L2 cache.
const PREFETCHED_ROWS: usize = 8;

/// The kernels of all heights, each with one row more than the previous one.
macro_rules! kernels {
    ($given:tt [$($row:tt)*]) => {};
    ($given:tt [$($row:tt)*] $one:ident $two:ident $new:tt $($rest:tt)*) => {
        kernels!(@define $given $one $two [$($row)* $new]);
        kernels!($given [$($row)* $new] $($rest)*);
    };
    (@define [$features:literal $multiply:literal $vector:literal $vectors:literal
              $first:literal $second:literal $splat:literal]
     $one:ident $two:ident [$([$row:literal $x:literal $y:literal])+]) => {
        kernel!($one, $features, $multiply, $vector, [$first + 0], $splat,
                [$([$row $x + 0 = $first])+]);
        kernel!($two, $features, $multiply, $vectors, [$first + 0, $second + $vector], $splat,
            [$([$row $x + 0 = $first, $y + $vector = $second])+]);
    };
}

/// The kernels of one multiply instruction on 512-bit vectors.
macro_rules! wide_kernels {
    ($features:literal $multiply:literal) => {
        kernels! {
            [$features $multiply 64 128 "zmm28" "zmm29" "zmm30"] []
            tile_1x1 tile_1x2 ["" "zmm0" "zmm1"]
            tile_2x1 tile_2x2 [" + r8" "zmm2" "zmm3"]
            tile_3x1 tile_3x2 [" + 2*r8" "zmm4" "zmm5"]
            tile_4x1 tile_4x2 [" + r9" "zmm6" "zmm7"]
            tile_5x1 tile_5x2 [" + 4*r8" "zmm8" "zmm9"]
            tile_6x1 tile_6x2 [" + r10" "zmm10" "zmm11"]
            tile_7x1 tile_7x2 [" + 2*r9" "zmm12" "zmm13"]
            tile_8x1 tile_8x2 [" + r11" "zmm14" "zmm15"]
            tile_9x1 tile_9x2 [" + 8*r8" "zmm16" "zmm17"]
            tile_10x1 tile_10x2 [" + r12" "zmm18" "zmm19"]
            tile_11x1 tile_11x2 [" + 2*r10" "zmm20" "zmm21"]
            tile_12x1 tile_12x2 [" + r13" "zmm22" "zmm23"]
            tile_13x1 tile_13x2 [" + 4*r9" "zmm24" "zmm25"]
            tile_14x1 tile_14x2 [" + r14" "zmm26" "zmm27"]
        }
    };
}

mod avx512 {
    use super::*;

    wide_kernels!("avx512f" "vfmadd231ps");
}

/// An element of `A` is a bf16 pair of neighbours in a row, an element of `B` one in a column. The
/// product of the second halves is added first, then that of the first halves.
mod avx512_bf16 {
    use super::*;

    wide_kernels!("avx512f" "vdpbf16ps");
}

mod avx2 {
    use super::*;

    kernels! {
        ["avx2,fma" "vfmadd231ps" 32 64 "ymm12" "ymm13" "ymm14"] []
        tile_1x1 tile_1x2 ["" "ymm0" "ymm1"]
        tile_2x1 tile_2x2 [" + r8" "ymm2" "ymm3"]
        tile_3x1 tile_3x2 [" + 2*r8" "ymm4" "ymm5"]
        tile_4x1 tile_4x2 [" + r9" "ymm6" "ymm7"]
        tile_5x1 tile_5x2 [" + 4*r8" "ymm8" "ymm9"]
        tile_6x1 tile_6x2 [" + r10" "ymm10" "ymm11"]
    }
}
