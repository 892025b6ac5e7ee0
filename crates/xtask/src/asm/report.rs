//! What the innermost loops of the hot kernels look like, and what is wrong with them.

use std::collections::HashMap;

use super::code::{Function, Instruction};
use super::kernels::{Asked, KERNELS, Kernel, Set};
use super::loops;
use super::origin::Frame;

/// An innermost loop that multiplies vectors.
#[derive(Debug)]
pub(super) struct Loop<'a> {
    pub(super) set: Set,
    pub(super) code: Vec<&'a Instruction>,
    pub(super) multiplications: usize,
    stack: Vec<&'a Instruction>,
    call: Option<&'a Instruction>,
}

impl<'a> Loop<'a> {
    /// Those of a function.
    pub(super) fn all(function: &'a Function) -> impl Iterator<Item = Loop<'a>> {
        let set = Set::of(&function.symbol);
        let has_frame_pointer = function.has_frame_pointer();
        let loops = loops::innermost(&function.code)
            .into_iter()
            .map(move |code| {
                let on_stack = |one: &&&Instruction| one.is_spill(has_frame_pointer);
                Loop {
                    set,
                    multiplications: code.iter().filter(|one| one.multiplies()).count(),
                    stack: code.iter().filter(on_stack).copied().collect(),
                    call: code.iter().find(|one| one.is_call()).copied(),
                    code,
                }
            });
        loops.filter(|one| one.multiplications > 0)
    }

    /// Instructions for each multiplication.
    pub(super) fn ratio(&self) -> f64 {
        self.code.len() as f64 / self.multiplications as f64
    }

    /// The kernel it is of, if it is a hot one.
    pub(super) fn kernel(&self, origins: &HashMap<u64, Vec<Frame>>) -> Option<&'static Kernel> {
        let known = self.code.iter().filter_map(|one| origins.get(&one.address));
        Kernel::of(known.flatten())
    }

    /// What is wrong with it.
    pub(super) fn complaint(&self, asked: Asked) -> Option<String> {
        let (limit, stack) = match asked {
            Asked::Clean(limit) => (limit, 0),
            Asked::Stack(limit, stack, _) => (limit, stack),
            Asked::Nothing(_) => return None,
        };
        if let Some(call) = self.call {
            return Some(format!("{call}: a call in an innermost loop"));
        }
        if let Some(first) = self.stack.first().filter(|_| self.stack.len() > stack) {
            let count = self.stack.len();
            return Some(format!(
                "{first}: a vector on the stack in an innermost loop ({count} of them, allowed are {stack})"
            ));
        }
        let (len, multiplications) = (self.code.len(), self.multiplications);
        let first = self.code.first().filter(|_| self.ratio() > limit)?;
        Some(format!(
            "{first}: {len} instructions for {multiplications} multiplications in the innermost loop that \
             begins here, {:.2} for each, the limit is {limit}",
            self.ratio()
        ))
    }
}

/// A kernel with one set of instructions, and its loops.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) kernel: &'static Kernel,
    pub(super) set: Set,
    pub(super) loops: Vec<Loop<'a>>,
}

impl<'a> Row<'a> {
    /// All rows of the table. Loops of kernels that are not hot are in none.
    pub(super) fn all(
        functions: &'a [Function],
        origins: &HashMap<u64, Vec<Frame>>,
    ) -> Vec<Row<'a>> {
        let sets = |kernel| {
            Set::ALL.map(|set| Row {
                kernel,
                set,
                loops: Vec::new(),
            })
        };
        let mut rows: Vec<Row<'a>> = KERNELS.iter().flat_map(sets).collect();
        let ours = |function: &&Function| {
            let mut code = function.code.iter();
            code.any(|one| origins.contains_key(&one.address))
        };
        for one in functions.iter().filter(ours).flat_map(Loop::all) {
            let Some(kernel) = one.kernel(origins) else {
                continue;
            };
            let is_its = |row: &&mut Row| row.kernel.name == kernel.name && row.set == one.set;
            if let Some(row) = rows.iter_mut().find(is_its) {
                row.loops.push(one);
            }
        }
        rows
    }

    /// The loop that does most of the work: the others are for what it leaves over.
    pub(super) fn largest(&self) -> Option<&Loop<'a>> {
        self.loops.iter().max_by_key(|one| one.multiplications)
    }

    /// The line of the table.
    pub(super) fn line(&self) -> String {
        let (name, set) = (self.kernel.name, self.set.name());
        let limit = match self.kernel.asked(self.set) {
            Asked::Clean(limit) | Asked::Stack(limit, ..) => limit,
            Asked::Nothing(why) => return format!("{name:<28}{set:<10}not checked: {why}"),
        };
        let Some(largest) = self.largest() else {
            return format!("{name:<28}{set:<10}no loop was found");
        };
        let worst = self.loops.iter().map(Loop::ratio).fold(0.0, f64::max);
        let count = self.loops.len();
        let (len, multiplications) = (largest.code.len(), largest.multiplications);
        let ratio = largest.ratio();
        format!(
            "{name:<28}{set:<10}{count:>5}{len:>14}{multiplications:>17}{ratio:>8.2}{worst:>8.2}{limit:>8.2}"
        )
    }

    /// What is known to be not as it should, and why.
    pub(super) fn exception(&self) -> Option<String> {
        let Asked::Stack(_, most, why) = self.kernel.asked(self.set) else {
            return None;
        };
        let found = self.loops.iter().map(|one| one.stack.len()).max()?;
        let (name, set) = (self.kernel.name, self.set.name());
        (found > 0).then(|| {
            format!("known: {name}, {set}: {found} vectors on the stack in a loop (allowed are {most}): {why}")
        })
    }

    /// What is wrong: a line for each loop, or that there is none.
    pub(super) fn complaints(&self) -> Vec<String> {
        let asked = self.kernel.asked(self.set);
        let (name, set) = (self.kernel.name, self.set.name());
        if self.loops.is_empty() && !matches!(asked, Asked::Nothing(_)) {
            return vec![format!("{name}, {set}: no loop of it was found")];
        }
        let complaints = self.loops.iter().filter_map(|one| one.complaint(asked));
        complaints
            .map(|what| format!("{name}, {set}: {what}"))
            .collect()
    }
}

/// The head of the table.
pub(super) fn head() -> String {
    format!(
        "{:<28}{:<10}{:>5}{:>14}{:>17}{:>8}{:>8}{:>8}",
        "kernel", "with", "loops", "instructions", "multiplications", "ratio", "worst", "limit"
    )
}

#[cfg(test)]
mod tests {
    use super::Loop;
    use crate::asm::code::{self, Function};
    use crate::asm::kernels::{Asked, KERNELS, Kernel, Set};
    use crate::asm::origin::Frame;

    const SPILLING: &str = include_str!("testdata/spilling.txt");
    const CLEAN: &str = include_str!("testdata/clean.txt");

    fn function(listing: &str) -> Function {
        let mut functions = code::functions(listing.as_bytes()).unwrap();
        assert_eq!(functions.len(), 1);
        functions.remove(0)
    }

    #[test]
    fn accumulators_on_the_stack_are_found() {
        let function = function(SPILLING);
        let loops: Vec<Loop> = Loop::all(&function).collect();
        let [one] = loops.as_slice() else {
            panic!("{} loops", loops.len());
        };
        assert_eq!(one.set, Set::Avx512);
        let complaint = one.complaint(Asked::Clean(8.0)).unwrap();
        assert!(complaint.contains("(%rsp)"), "{complaint}");
        assert!(complaint.contains("a vector on the stack"), "{complaint}");
    }

    #[test]
    fn a_loop_in_registers_is_clean() {
        let function = function(CLEAN);
        let loops: Vec<Loop> = Loop::all(&function).collect();
        let [one] = loops.as_slice() else {
            panic!("{} loops", loops.len());
        };
        assert_eq!(one.multiplications, 112);
        assert_eq!(one.complaint(Asked::Clean(1.85)), None);
        let complaint = one.complaint(Asked::Clean(1.6)).unwrap();
        assert!(complaint.contains("the limit is 1.6"), "{complaint}");
    }

    #[test]
    fn kernels_are_told_by_their_frames() {
        let of = |file: &str, function: &str| {
            let (file, function) = (file.to_string(), function.to_string());
            Kernel::of([Frame { file, function }].iter()).map(|kernel| kernel.name)
        };
        let compiled = of("matmul/tile.rs", "whole<pulp::x86::v4::V4, 14, 2, false>");
        assert_eq!(compiled, Some(KERNELS[0].name));
        assert_eq!(of("matmul/tile/x86.rs", "tile_14x2"), Some(KERNELS[0].name));
        assert_eq!(of("matmul/tile/x86.rs", "tile_6x2"), Some(KERNELS[1].name));
        let widened = of("matmul/tile.rs", "widened<pulp::x86::v3::V3, 6, 2>");
        assert_eq!(widened, Some(KERNELS[2].name));
        assert_eq!(of("matmul/tile/x86.rs", "tile_6x1"), Some(KERNELS[3].name));
        assert_eq!(of("dropout.rs", "apply<pulp::x86::v4::V4>"), None);
        assert_eq!(Set::of("pulp::x86::v3::V3::vectorize::imp"), Set::Avx2);
        assert_eq!(
            Set::of("shears_kernels::matmul::tile::x86::avx512::tile_1x2"),
            Set::Avx512
        );
    }
}
