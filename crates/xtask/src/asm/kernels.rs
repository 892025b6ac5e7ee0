//! The hot kernels: how their loops are recognized, and what is asked of them.

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
    /// That of a function. Code for more than the baseline is never inlined into code for less.
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

/// What is asked of every innermost loop of a kernel that multiplies vectors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// At most this many instructions for each multiplication, no vector on the stack, and no call.
    Clean(f64),
    /// At most this many instructions for each multiplication, at most this many accesses to vectors
    /// on the stack in one loop, for a reason, and no call.
    Stack(f64, usize, &'static str),
    /// Nothing, because each of them calls a function, for a reason.
    Calls(&'static str),
    /// No bound, for a reason.
    Absent(&'static str),
}

/// A kernel that decides how long a step or a token takes.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// A loop belongs to it if some of its multiplications have a frame like one of these: the
    /// beginning of a file's name and a part of a function's.
    frames: &'static [(&'static str, &'static str)],
    /// The limits are a little above what was counted.
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

/// The first that matches a loop is its kernel.
pub(super) static KERNELS: [Kernel; 23] = [
    Kernel {
        // One of its multiplications is a tile of 16 x 16 sums, of 16 products of pairs each.
        name: "AMX product, 2 x 2 tiles",
        frames: &[("matmul/tile/amx.rs", "tile_2x2")],
        asked: &[(Amx, Clean(3.5))],
        estimated: false,
    },
    Kernel {
        name: "AMX product, fewer tiles",
        frames: &[("matmul/tile/amx.rs", "")],
        asked: &[(Amx, Clean(8.25))],
        estimated: false,
    },
    Kernel {
        name: "matrix product, 14 x 2",
        frames: &[
            ("matmul/tile.rs", ", 14, 2,"),
            ("matmul/tile/", "tile_14x2"),
        ],
        asked: &[(Avx512, Clean(1.85))],
        estimated: true,
    },
    Kernel {
        name: "matrix product, 6 x 2",
        frames: &[("matmul/tile.rs", ", 6, 2,"), ("matmul/tile/", "tile_6x2")],
        asked: &[
            (Avx512, Clean(2.25)),
            (Avx2, Clean(2.25)),
            (Portable, Absent(FMAF)),
        ],
        estimated: true,
    },
    Kernel {
        // Its multiplications are few among the instructions that take pairs apart.
        name: "bf16 by f32 units",
        frames: &[("matmul/tile.rs", "widened<")],
        asked: &[
            (Avx512, Clean(9.0)),
            (Avx2, Clean(10.5)),
            (Portable, Clean(10.0)),
        ],
        estimated: false,
    },
    Kernel {
        name: "matrix product, other tiles",
        frames: &[("matmul/tile", "")],
        asked: &[
            (Avx512, Clean(8.25)),
            (Avx2, Clean(8.25)),
            (Portable, Absent(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        // A pair is taken apart by two more instructions.
        name: "bf16 weight times few rows",
        frames: &[("matmul/few_rows.rs", "bf16")],
        asked: &[
            (Avx512, Clean(3.75)),
            (Avx2, Clean(3.75)),
            (Portable, Absent(FMAF)),
        ],
        estimated: true,
    },
    Kernel {
        name: "matrix times few rows",
        frames: &[("matmul/few_rows.rs", "")],
        asked: &[
            (Avx512, Clean(3.25)),
            (Avx2, Clean(3.25)),
            (Portable, Absent(FMAF)),
        ],
        estimated: true,
    },
    Kernel {
        name: "optimizer update",
        frames: &[("update.rs", "")],
        asked: &[
            (Avx512, Clean(5.5)),
            (Avx2, Stack(5.5, 5, ADAM)),
            (Portable, Stack(6.25, 6, ADAM)),
        ],
        estimated: false,
    },
    Kernel {
        name: "gradient scan",
        frames: &[("measure.rs", "scan_block<")],
        asked: &[
            (Avx512, Clean(9.0)),
            (Avx2, Clean(8.0)),
            (
                Portable,
                Stack(
                    10.0,
                    12,
                    "16 sums and 16 maxima are 12 of its 16 registers of 16 bytes",
                ),
            ),
        ],
        estimated: false,
    },
    Kernel {
        name: "GELU by tanh",
        frames: &[("math.rs", "normal_by_tanh<")],
        asked: &[
            (Avx512, Clean(3.3)),
            (Avx2, Stack(4.0, 13, SIXTEEN)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "SwiGLU",
        frames: &[("transformer/activation.rs", "swiglu")],
        asked: &[
            (Avx512, Clean(3.5)),
            (Avx2, Stack(4.0, 13, SIXTEEN)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "sigmoid and tanh of a cell",
        frames: &[("math.rs", "sigmoid<"), ("math.rs", "tanh<")],
        asked: &[
            (Avx512, Clean(3.3)),
            (Avx2, Stack(4.0, 13, SIXTEEN)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "recurrent cell, the rest",
        frames: &[("recurrent/cell.rs", "")],
        asked: &[
            (Avx512, Clean(9.0)),
            (Avx2, Clean(9.5)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "GELU",
        frames: &[("math.rs", "normal<")],
        asked: &[
            (Avx512, Clean(2.6)),
            (Avx2, Clean(3.2)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "softmax exponentials",
        frames: &[("math.rs", "exp<")],
        asked: &[
            (
                Avx512,
                Stack(
                    5.7,
                    31,
                    "backward with dropout draws 64 factors and multiplies four vectors in one \
                    loop of over 300 instructions",
                ),
            ),
            (Avx2, Stack(3.6, 4, SIXTEEN)),
            (Portable, Absent(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "dropout",
        frames: &[("dropout.rs", "")],
        asked: &[
            (Avx512, Clean(6.25)),
            (Avx2, Clean(6.25)),
            (Portable, Clean(5.75)),
        ],
        estimated: false,
    },
    Kernel {
        name: "attention of one query",
        frames: &[("attention/single.rs", "")],
        asked: &[
            (Avx512, Clean(12.25)),
            (Avx2, Clean(12.25)),
            (Portable, Absent(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "attention, forward",
        frames: &[("attention/forward.rs", "")],
        asked: &[
            (Avx512, Clean(5.25)),
            (Avx2, Clean(5.25)),
            (Portable, Clean(4.75)),
        ],
        estimated: false,
    },
    Kernel {
        name: "attention, backward",
        frames: &[("attention/backward.rs", "")],
        asked: &[
            (Avx512, Clean(5.25)),
            (Avx2, Clean(5.25)),
            (Portable, Calls(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "loss",
        frames: &[("loss/", "")],
        asked: &[
            (Avx512, Clean(5.25)),
            (Avx2, Clean(5.25)),
            (Portable, Clean(6.25)),
        ],
        estimated: false,
    },
    Kernel {
        name: "rotary positions",
        frames: &[("transformer/rope.rs", "")],
        asked: &[
            (Avx512, Clean(6.0)),
            (Avx2, Clean(6.0)),
            (Portable, Absent(FMAF)),
        ],
        estimated: false,
    },
    Kernel {
        name: "norm",
        frames: &[("norm.rs", "")],
        asked: &[
            (Avx512, Clean(7.5)),
            (Avx2, Clean(7.5)),
            (Portable, Clean(6.0)),
        ],
        estimated: false,
    },
];

impl Kernel {
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
