//! The micro-kernels for AMX: 16 or 32 rows times 16 or 32 columns of bf16 pairs, with f32
//! accumulators in tiles.
//!
//! Each kernel configures and releases the tiles, so that no tile state outlives it. The layouts
//! are those of the other kernels: a row of `A` is adjacent pairs, and a row of `B`'s panel has one
//! pair per column.

use std::arch::asm;
use std::mem::offset_of;

use super::Tile;

/// The rows of a tile register.
pub(super) const ROWS: usize = 16;

/// The operand of `ldtilecfg`: palette 1, and all eight tiles with 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// A kernel: the bytes of a panel's row; the tiles of `A` with the registers of their first rows;
/// the tiles of `B` with their offsets in a panel's row; and the accumulator tiles, each with its
/// factors and its position in initial values and result.
macro_rules! kernel {
    ($name:ident, $bytes:literal,
     [$($a:literal = $row:literal),+], [$($b:literal = $column:literal),+],
     [$($sum:literal = $left:literal * $right:literal,
        $from:literal, $to:literal + $place:literal);+]) => {
        unsafe fn $name(tile: &Tile) {
            // SAFETY: the caller guarantees that the tile's factors and result exist, and that
            // there is AMX.
            unsafe {
                asm!(
                    "ldtilecfg [{configuration}]",
                    "mov rax, [rdi + {a}]",
                    "mov rsi, [rdi + {a_row}]",
                    "mov r9, rsi",
                    "shl r9, 4",
                    "add r9, rax",
                    "mov rcx, [rdi + {initial}]",
                    "mov r11, [rdi + {initial_row}]",
                    "mov r8, r11",
                    "shl r8, 4",
                    "add r8, rcx",
                    $(concat!("tileloadd ", $sum, ", [", $from, " + r11 + ", $place, "]"),)+
                    "mov rdx, [rdi + {b}]",
                    "mov rcx, [rdi + {depth}]",
                    concat!("mov r8d, ", $bytes),
                    "shr rcx, 4",
                    "jz 3f",
                    "2:",
                    $(concat!("tileloadd ", $a, ", [", $row, " + rsi]"),)+
                    $(concat!("tileloadd ", $b, ", [rdx + r8 + ", $column, "]"),)+
                    $(concat!("tdpbf16ps ", $sum, ", ", $left, ", ", $right),)+
                    "add rax, 64",
                    "add r9, 64",
                    concat!("add rdx, 16*", $bytes),
                    "dec rcx",
                    "jnz 2b",
                    "3:",
                    "mov rcx, [rdi + {c}]",
                    "mov r11, [rdi + {c_row}]",
                    "mov r8, r11",
                    "shl r8, 4",
                    "add r8, rcx",
                    $(concat!("tilestored [", $to, " + r11 + ", $place, "], ", $sum),)+
                    "tilerelease",
                    configuration = in(reg) &raw const CONFIGURATION,
                    a = const offset_of!(Tile, a),
                    a_row = const offset_of!(Tile, a_row),
                    b = const offset_of!(Tile, b),
                    depth = const offset_of!(Tile, depth),
                    initial = const offset_of!(Tile, initial),
                    initial_row = const offset_of!(Tile, initial_row),
                    c = const offset_of!(Tile, c),
                    c_row = const offset_of!(Tile, c_row),
                    in("rdi") tile,
                    out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _,
                    out("r8") _, out("r9") _, out("r11") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(
    tile_1x1,
    64,
    ["tmm4" = "rax"],
    ["tmm6" = 0],
    ["tmm0" = "tmm4" * "tmm6", "rcx", "rcx" + 0]
);
kernel!(tile_1x2, 128, ["tmm4" = "rax"], ["tmm6" = 0, "tmm7" = 64],
    ["tmm0" = "tmm4" * "tmm6", "rcx", "rcx" + 0;
     "tmm1" = "tmm4" * "tmm7", "rcx", "rcx" + 64]);
kernel!(tile_2x1, 64, ["tmm4" = "rax", "tmm5" = "r9"], ["tmm6" = 0],
    ["tmm0" = "tmm4" * "tmm6", "rcx", "rcx" + 0;
     "tmm2" = "tmm5" * "tmm6", "r8", "r8" + 0]);
kernel!(tile_2x2, 128, ["tmm4" = "rax", "tmm5" = "r9"], ["tmm6" = 0, "tmm7" = 64],
    ["tmm0" = "tmm4" * "tmm6", "rcx", "rcx" + 0;
     "tmm1" = "tmm4" * "tmm7", "rcx", "rcx" + 64;
     "tmm2" = "tmm5" * "tmm6", "r8", "r8" + 0;
     "tmm3" = "tmm5" * "tmm7", "r8", "r8" + 64]);

/// Indexed by tiles of rows minus one, then by vectors of columns minus one. The depth is a
/// multiple of 16 pairs, and the columns of `A` are adjacent.
pub(super) const KERNELS: [[unsafe fn(&Tile); 2]; 2] = [[tile_1x1, tile_1x2], [tile_2x1, tile_2x2]];

/// Emulates a kernel instruction by instruction (Intel SDM volume 2, TDPBF16PS), for machines
/// without AMX: an instruction sums the products of the first and of the second neighbours
/// separately from zero, then adds the sum of both. Subnormals are read and written as zeros.
///
/// # Safety
///
/// As for the kernel of `tiles` tiles of rows and `vectors` vectors of columns.
#[cfg(test)]
pub(super) unsafe fn emulate(tile: &Tile, tiles: usize, vectors: usize) {
    let flushed = |x: f32| match x.is_subnormal() {
        true => 0.0_f32.copysign(x),
        false => x,
    };
    let halves = |pair: f32| {
        let bits = pair.to_bits();
        [bits << 16, bits & 0xffff_0000].map(|half| flushed(f32::from_bits(half)))
    };
    for row in 0..tiles * ROWS {
        for column in 0..vectors * ROWS {
            // SAFETY: the caller guarantees it, here and below.
            let mut sum = unsafe { *tile.initial.byte_add(row * tile.initial_row).add(column) };
            for first in (0..tile.depth).step_by(ROWS) {
                let mut sums = [0.0_f32; 2];
                for k in first..first + ROWS {
                    // SAFETY: as above; columns of `A` are adjacent.
                    let (a, b) = unsafe {
                        let a = tile.a.byte_add(row * tile.a_row).add(k);
                        (halves(*a), halves(*tile.b.add(k * vectors * ROWS + column)))
                    };
                    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                        *sum = flushed(a.mul_add(b, *sum));
                    }
                }
                sum = flushed(flushed(sum) + flushed(sums[0] + sums[1]));
            }
            // SAFETY: as above.
            unsafe { *tile.c.byte_add(row * tile.c_row).add(column) = sum };
        }
    }
}
