//! The hot kernels: how to recognise their loops, and their limits.

use Asked::{Absent, Calls, Clean, Stack};
use Set::{Amx, Avx2, Avx512, Portable};

use super::origin::Frame;

/// Vector instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Amx,
    Avx512,
    Avx2,
    Portable,
}

impl Set {
    /// The instruction set of a function. Code is never inlined into code for a smaller set.
    pub(super) fn of(symbol: &str) -> Set {
        let has = |parts: [&str; 2]| parts.iter().any(|part| symbol.contains(part));
        if symbol.contains("::amx::") {
            Amx
        } else if has(["::v4::V4", "::avx512"]) {
            Avx512
        } else if has(["::v3::V3", "::avx2::"]) {
            Avx2
        } else {
            Portable
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Amx => "AMX",
            Avx512 => "AVX-512",
            Avx2 => "AVX2",
            Portable => "portable",
        }
    }
}

/// The limits for every innermost loop of a kernel that multiplies vectors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// At most this many instructions per multiplication, no vector on the stack, and no call.
    Clean(f64),
    /// At most this many instructions per multiplication, at most this many accesses to vectors on
    /// the stack in one loop, with the reason, and no call.
    Stack(f64, usize, &'static str),
    /// No limit, because every loop calls a function, with the reason.
    Calls(&'static str),
    /// No loop is expected, with the reason.
    Absent(&'static str),
}

/// A kernel that dominates the time of a step or a token.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// A loop belongs to it if some of its multiplications have a frame like one of these: the
    /// beginning of a file's name and a part of a function's.
    frames: &'static [(&'static str, &'static str)],
    /// The limits are slightly above the current counts.
    pub(super) asked: &'static [(Set, Asked)],
    /// Whether the cycles of its longest loop are estimated.
    pub(super) estimated: bool,
}

const FMAF: &str =
    "pulp fuses a multiplication with an addition by a call of fmaf for each element";
const SIXTEEN: &str = "it needs more constants and intermediate results at once than there are 16 \
    registers; divisions take most of its time";
const ADAM: &str = "Adam's constants do not fit into 16 registers beside its operands, and are \
    read from the stack";
const SUMS: &str = "16 sums and 16 maxima are 12 of its 16 registers of 16 bytes";
const DRAWS: &str = "backward with dropout draws 64 factors and multiplies four vectors in one \
    loop of over 300 instructions";

const fn kernel(
    name: &'static str,
    frames: &'static [(&'static str, &'static str)],
    asked: &'static [(Set, Asked)],
) -> Kernel {
    Kernel {
        name,
        frames,
        asked,
        estimated: false,
    }
}

/// What is asked with each set of vector instructions.
const fn three(avx512: Asked, avx2: Asked, portable: Asked) -> [(Set, Asked); 3] {
    [(Avx512, avx512), (Avx2, avx2), (Portable, portable)]
}

/// A loop belongs to the first kernel that matches.
pub(super) static KERNELS: [Kernel; 24] = [
    // One of its multiplications is a tile of 16 x 16 sums, of 16 products of pairs each.
    kernel(
        "AMX product, 2 x 2 tiles",
        &[("matmul/tile/amx.rs", "tile_2x2")],
        &[(Amx, Clean(3.5))],
    ),
    kernel(
        "AMX product, fewer tiles",
        &[("matmul/tile/amx.rs", "")],
        &[(Amx, Clean(8.25))],
    ),
    kernel(
        "matrix product, 14 x 2",
        &[
            ("matmul/tile.rs", ", 14, 2,"),
            ("matmul/tile/", "tile_14x2"),
        ],
        &[(Avx512, Clean(1.85))],
    )
    .estimated(),
    kernel(
        "matrix product, 6 x 2",
        &[("matmul/tile.rs", ", 6, 2,"), ("matmul/tile/", "tile_6x2")],
        &three(Clean(2.25), Clean(2.25), Absent(FMAF)),
    )
    .estimated(),
    // Its multiplications are few among the instructions that take pairs apart.
    kernel(
        "bf16 by f32 units",
        &[("matmul/tile.rs", "widened<")],
        &three(Clean(9.0), Clean(10.5), Clean(10.0)),
    ),
    kernel(
        "matrix product, other tiles",
        &[("matmul/tile", "")],
        &three(Clean(8.25), Clean(8.25), Absent(FMAF)),
    ),
    // A pair is taken apart by two more instructions.
    kernel(
        "bf16 weight times few rows",
        &[("matmul/few_rows.rs", "bf16")],
        &three(Clean(3.75), Clean(3.75), Absent(FMAF)),
    )
    .estimated(),
    kernel(
        "matrix times few rows",
        &[("matmul/few_rows.rs", "")],
        &three(Clean(3.25), Clean(3.25), Absent(FMAF)),
    )
    .estimated(),
    kernel(
        "optimizer update",
        &[("update.rs", "")],
        // The second pass, which bounds an update, divides more than it multiplies.
        &three(Clean(6.5), Stack(6.5, 8, ADAM), Stack(8.0, 7, ADAM)),
    ),
    kernel(
        "gradient scan",
        &[("measure.rs", "scan_block<")],
        &three(Clean(9.0), Clean(8.0), Stack(10.0, 12, SUMS)),
    ),
    kernel(
        "gradient scaling",
        &[("measure.rs", "scale_chunk")],
        &three(Clean(7.5), Clean(9.75), Clean(8.75)),
    ),
    kernel(
        "GELU by tanh",
        &[("math.rs", "normal_by_tanh<")],
        &three(Clean(3.3), Stack(4.0, 13, SIXTEEN), Calls(FMAF)),
    ),
    kernel(
        "SwiGLU",
        &[("transformer/activation.rs", "swiglu")],
        &three(Clean(3.5), Stack(4.0, 13, SIXTEEN), Calls(FMAF)),
    ),
    kernel(
        "sigmoid and tanh of a cell",
        &[("math.rs", "sigmoid<"), ("math.rs", "tanh<")],
        &three(Clean(3.3), Stack(4.0, 13, SIXTEEN), Calls(FMAF)),
    ),
    kernel(
        "recurrent cell, the rest",
        &[("recurrent/cell.rs", "")],
        &three(Clean(9.0), Clean(9.5), Calls(FMAF)),
    ),
    kernel(
        "GELU",
        &[("math.rs", "normal<")],
        &three(Clean(2.6), Clean(3.2), Calls(FMAF)),
    ),
    kernel(
        "softmax exponentials",
        &[("math.rs", "exp<")],
        &three(Stack(5.7, 31, DRAWS), Stack(3.7, 4, SIXTEEN), Absent(FMAF)),
    ),
    kernel(
        "dropout",
        &[("dropout.rs", "")],
        &three(Clean(6.25), Clean(6.25), Clean(5.75)),
    ),
    kernel(
        "attention of one query",
        &[("attention/single.rs", "")],
        &three(Clean(12.25), Clean(12.25), Absent(FMAF)),
    ),
    kernel(
        "attention, forward",
        &[("attention/forward.rs", "")],
        &three(Clean(5.25), Clean(5.25), Clean(4.75)),
    ),
    kernel(
        "attention, backward",
        &[("attention/backward.rs", "")],
        &three(Clean(5.25), Clean(5.25), Calls(FMAF)),
    ),
    kernel(
        "loss",
        &[("loss/", "")],
        &three(Clean(5.25), Clean(5.25), Clean(6.25)),
    ),
    kernel(
        "rotary positions",
        &[("transformer/rope.rs", "")],
        &three(Clean(6.0), Clean(6.0), Absent(FMAF)),
    ),
    kernel(
        "norm",
        &[("norm.rs", "")],
        // Without vectors of a known width, one element at a time.
        &three(Clean(7.5), Clean(7.5), Clean(15.7)),
    ),
];

impl Kernel {
    const fn estimated(self) -> Kernel {
        Kernel {
            estimated: true,
            ..self
        }
    }

    /// The kernel of a loop whose multiplications have these frames.
    pub(super) fn of<'a>(
        frames: impl Iterator<Item = &'a Frame> + Clone,
    ) -> Option<&'static Kernel> {
        let like = |frame: &Frame, (file, part): &(&str, &str)| {
            frame.file.starts_with(file) && frame.function.contains(part)
        };
        KERNELS.iter().find(|kernel| {
            let mut frames = frames.clone();
            frames.any(|frame| kernel.frames.iter().any(|known| like(frame, known)))
        })
    }
}
