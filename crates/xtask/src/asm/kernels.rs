//! The hot kernels: how their loops are recognized, and what is asked of them.

use Asked::{Clean, Nothing, Stack};

use super::origin::Frame;

/// Vector instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Avx512,
    Avx2,
    Portable,
}

impl Set {
    pub(super) const ALL: [Set; 3] = [Set::Avx512, Set::Avx2, Set::Portable];

    /// That of a function. Code for more than the baseline is never inlined into code for less.
    pub(super) fn of(symbol: &str) -> Set {
        let has = |parts: [&str; 2]| parts.iter().any(|part| symbol.contains(part));
        if has(["::v4::V4", "::avx512"]) {
            Set::Avx512
        } else if has(["::v3::V3", "::avx2::"]) {
            Set::Avx2
        } else {
            Set::Portable
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Set::Avx512 => "AVX-512",
            Set::Avx2 => "AVX2",
            Set::Portable => "portable",
        }
    }
}

/// What is asked of every innermost loop of a kernel that multiplies vectors. No such loop has a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// At most so many instructions for each multiplication, and no vector on the stack.
    Clean(f64),
    /// At most so many instructions for each multiplication, and at most so many accesses to vectors on the
    /// stack in one loop, for a reason.
    Stack(f64, usize, &'static str),
    /// Nothing, for a reason.
    Nothing(&'static str),
}

/// A kernel that decides how long a step or a token takes.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// A loop belongs to it if some of its multiplications have a frame like one of these: the beginning of
    /// a file's name and a part of a function's.
    frames: &'static [(&'static str, &'static str)],
    /// In the order of [`Set::ALL`]. The limits are a little above what was counted.
    asked: [Asked; 3],
    /// Whether the cycles of its longest loop are estimated.
    pub(super) estimated: bool,
}

const SCALAR: Asked = Nothing(
    "pulp fuses its multiplications by one call of fmaf an element; processors without AVX2 are from before 2013",
);
const SIXTEEN: &str = "it needs more constants and intermediate results at once than there are 16 registers; divisions take most of its time";
const OTHER_TILE: Asked = Nothing("no tile of this height");

/// The first that matches a loop is its kernel.
pub(super) static KERNELS: [Kernel; 12] = [
    Kernel {
        name: "matrix product, 14 x 2",
        frames: &[
            ("matmul/tile.rs", ", 14, 2,"),
            ("matmul/tile/", "tile_14x2"),
        ],
        asked: [Clean(1.85), OTHER_TILE, OTHER_TILE],
        estimated: true,
    },
    Kernel {
        name: "matrix product, 6 x 2",
        frames: &[("matmul/tile.rs", ", 6, 2,"), ("matmul/tile/", "tile_6x2")],
        asked: [Clean(2.25), Clean(2.25), SCALAR],
        estimated: true,
    },
    Kernel {
        // Its multiplications are few among the instructions that take pairs apart.
        name: "bf16 by f32 units",
        frames: &[("matmul/tile.rs", "widened<")],
        asked: [Clean(9.0), Clean(10.5), SCALAR],
        estimated: false,
    },
    Kernel {
        name: "matrix product, other tiles",
        frames: &[("matmul/tile", "")],
        asked: [Clean(8.0), Clean(8.0), SCALAR],
        estimated: false,
    },
    Kernel {
        name: "matrix times few rows",
        frames: &[("matmul/few_rows.rs", "")],
        asked: [Clean(8.0), Clean(8.0), SCALAR],
        estimated: true,
    },
    Kernel {
        name: "optimizer update",
        frames: &[("update.rs", "")],
        asked: [
            Clean(5.5),
            Stack(
                5.5,
                5,
                "Adam's constants do not fit into 16 registers beside its operands, and are read from the stack",
            ),
            Nothing("its conversions to f64 and back leave the choice of vectors to the compiler"),
        ],
        estimated: false,
    },
    Kernel {
        name: "gradient scan",
        frames: &[("measure.rs", "scan_block<")],
        asked: [
            Clean(9.0),
            Clean(8.0),
            Stack(
                10.0,
                12,
                "16 sums and 16 maxima are 12 of its 16 registers of 16 bytes",
            ),
        ],
        estimated: false,
    },
    Kernel {
        name: "sigmoid and tanh of a cell",
        frames: &[("math.rs", "sigmoid<"), ("math.rs", "tanh<")],
        asked: [Clean(3.3), Stack(4.0, 13, SIXTEEN), SCALAR],
        estimated: false,
    },
    Kernel {
        name: "recurrent cell, the rest",
        frames: &[("recurrent/cell.rs", "")],
        asked: [Clean(9.0), Clean(9.5), SCALAR],
        estimated: false,
    },
    Kernel {
        name: "GELU",
        frames: &[("math.rs", "normal<")],
        asked: [Clean(2.6), Clean(3.2), SCALAR],
        estimated: false,
    },
    Kernel {
        name: "softmax exponentials",
        frames: &[("math.rs", "exp<")],
        asked: [
            Stack(
                5.5,
                28,
                "backward with dropout draws 64 factors and multiplies four vectors in one loop of 329 instructions",
            ),
            Stack(3.6, 4, SIXTEEN),
            SCALAR,
        ],
        estimated: false,
    },
    Kernel {
        name: "layer norm",
        frames: &[("layer_norm.rs", "")],
        asked: [Clean(7.5), Clean(7.5), Clean(6.0)],
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

    pub(super) fn asked(&self, set: Set) -> Asked {
        self.asked[set as usize]
    }
}
