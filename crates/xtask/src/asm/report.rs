//! The innermost loops of the hot kernels, and their problems.

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

/// Whether an instruction counts as a multiplication. In portable code the compiler vectorises some
/// of them and leaves others scalar.
fn counts(set: Set, one: &Instruction) -> bool {
    one.multiplies() || set == Set::Portable && one.multiplies_elements()
}

impl<'a> Loop<'a> {
    /// The loops of a function.
    pub(super) fn all(function: &'a Function) -> impl Iterator<Item = Loop<'a>> {
        let set = Set::of(&function.symbol);
        let has_frame_pointer = function.has_frame_pointer();
        let loops = loops::innermost(&function.code)
            .into_iter()
            .map(move |code| {
                let on_stack = |one: &&&Instruction| one.is_spill(has_frame_pointer);
                Loop {
                    set,
                    multiplications: code.iter().filter(|one| counts(set, one)).count(),
                    stack: code.iter().filter(on_stack).copied().collect(),
                    call: code.iter().find(|one| one.is_call()).copied(),
                    code,
                }
            });
        loops.filter(|one| one.code.iter().any(|one| one.multiplies()))
    }

    /// Instructions per multiplication.
    pub(super) fn ratio(&self) -> f64 {
        self.code.len() as f64 / self.multiplications as f64
    }

    /// The functions of the kernels that its multiplications belong to.
    fn frames<'o>(&self, origins: &'o HashMap<u64, Vec<Frame>>) -> Vec<&'o Frame> {
        let known = self.code.iter().filter_map(|one| origins.get(&one.address));
        known.flatten().collect()
    }

    /// The problem of the loop, if it has one.
    pub(super) fn complaint(&self, asked: Asked) -> Option<String> {
        let first = self.code.first()?;
        let (limit, stack) = match asked {
            Asked::Clean(limit) => (limit, 0),
            Asked::Stack(limit, stack, _) => (limit, stack),
            Asked::Calls(_) if self.call.is_some() => return None,
            Asked::Calls(_) => {
                return Some(format!(
                    "{first}: the innermost loop that begins here calls nothing, and should have a \
                    limit"
                ));
            }
            Asked::Absent(_) => {
                return Some(format!(
                    "{first}: an innermost loop begins here, where none was expected"
                ));
            }
        };
        if let Some(call) = self.call {
            return Some(format!("{call}: a call in an innermost loop"));
        }
        if let Some(first) = self.stack.first().filter(|_| self.stack.len() > stack) {
            let count = self.stack.len();
            return Some(format!(
                "{first}: a vector on the stack in an innermost loop ({count} of them, allowed are \
                {stack})"
            ));
        }
        let (len, multiplications) = (self.code.len(), self.multiplications);
        let ratio = self.ratio();
        (ratio > limit).then(|| {
            format!(
                "{first}: {len} instructions for {multiplications} multiplications in the \
                innermost loop that begins here, {ratio:.2} for each, the limit is {limit}"
            )
        })
    }
}

/// All innermost loops of the kernels that multiply vectors.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) rows: Vec<Row<'a>>,
    /// Loops that belong to no row, in words.
    pub(super) strays: Vec<String>,
}

impl<'a> Table<'a> {
    pub(super) fn of(functions: &'a [Function], origins: &HashMap<u64, Vec<Frame>>) -> Table<'a> {
        let sets = |kernel: &'static Kernel| {
            kernel.asked.iter().map(move |(set, asked)| Row {
                kernel,
                set: *set,
                asked: *asked,
                loops: Vec::new(),
            })
        };
        let mut rows: Vec<Row<'a>> = KERNELS.iter().flat_map(sets).collect();
        let mut strays = Vec::new();
        let ours = |function: &&Function| {
            let mut code = function.code.iter();
            code.any(|one| origins.contains_key(&one.address))
        };
        for one in functions.iter().filter(ours).flat_map(Loop::all) {
            let frames = one.frames(origins);
            let kernel = Kernel::of(frames.iter().copied()).map(|kernel| kernel.name);
            let is_its = |row: &&mut Row| Some(row.kernel.name) == kernel && row.set == one.set;
            if let Some(row) = rows.iter_mut().find(is_its) {
                row.loops.push(one);
            } else if let (Some(frame), Some(first)) = (frames.first(), one.code.first()) {
                let (set, Frame { file, function }) = (one.set.name(), frame);
                let address = first.address;
                strays.push(format!("{set}: {file}, {function}, at {address:#x}"));
            }
        }
        Table { rows, strays }
    }

    /// What was checked, and what was not.
    pub(super) fn summary(&self) -> String {
        let (limited, others): (Vec<&Row<'_>>, Vec<&Row<'_>>) =
            self.rows.iter().partition(|row| row.is_limited());
        let count = |rows: Vec<&Row<'_>>| rows.iter().map(|row| row.loops.len()).sum::<usize>();
        let mut summary = format!(
            "checked: {} innermost loops that multiply vectors, in {} kernels; {} more call a \
            function for each element; {} belong to no row",
            count(limited),
            KERNELS.len(),
            count(others),
            self.strays.len()
        );
        for stray in &self.strays {
            summary += &format!("\nin no row: {stray}");
        }
        summary
    }
}

/// A kernel with one instruction set, and its loops.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) kernel: &'static Kernel,
    pub(super) set: Set,
    asked: Asked,
    pub(super) loops: Vec<Loop<'a>>,
}

impl<'a> Row<'a> {
    fn is_limited(&self) -> bool {
        matches!(self.asked, Asked::Clean(_) | Asked::Stack(..))
    }

    /// The loop that does most of the work; the others handle remainders.
    pub(super) fn largest(&self) -> Option<&Loop<'a>> {
        self.loops.iter().max_by_key(|one| one.multiplications)
    }

    /// The line of the table.
    pub(super) fn line(&self) -> String {
        let (name, set) = (self.kernel.name, self.set.name());
        let count = self.loops.len();
        let limit = match self.asked {
            Asked::Clean(limit) | Asked::Stack(limit, ..) => limit,
            Asked::Calls(why) | Asked::Absent(why) => {
                return format!("{name:<28}{set:<10}{count:>5}  no limit: {why}");
            }
        };
        let Some(largest) = self.largest() else {
            return format!("{name:<28}{set:<10}no loop was found");
        };
        let worst = self.loops.iter().map(Loop::ratio).fold(0.0, f64::max);
        let (len, multiplications) = (largest.code.len(), largest.multiplications);
        let ratio = largest.ratio();
        format!(
            "{name:<28}{set:<10}{count:>5}{len:>14}{multiplications:>17}{ratio:>8.2}{worst:>8.2}{limit:>8.2}"
        )
    }

    /// A known exception, and the reason.
    pub(super) fn exception(&self) -> Option<String> {
        let Asked::Stack(_, most, why) = self.asked else {
            return None;
        };
        let found = self.loops.iter().map(|one| one.stack.len()).max()?;
        let (name, set) = (self.kernel.name, self.set.name());
        (found > 0).then(|| {
            format!(
                "known: {name}, {set}: {found} vectors on the stack in a loop (allowed are \
                {most}): {why}"
            )
        })
    }

    /// The problems: one for each loop, or that no loop was found.
    pub(super) fn complaints(&self) -> Vec<String> {
        let (name, set) = (self.kernel.name, self.set.name());
        if self.loops.is_empty() && !matches!(self.asked, Asked::Absent(_)) {
            return vec![format!("{name}, {set}: no loop of it was found")];
        }
        let asked = self.asked;
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
    use std::collections::HashMap;

    use super::{Loop, Table};
    use crate::asm::code::{self, Function};
    use crate::asm::kernels::{Asked, Kernel, Set};
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

    /// A loop of that function with these instructions, and its end.
    fn small(symbol: &str, instructions: &[&str]) -> Function {
        let mut listing = format!("0000000000000000 <{symbol}>:\n");
        for (address, text) in instructions.iter().chain(&["jne    0"]).enumerate() {
            listing += &format!("  {address:x}:\t{text}\n");
        }
        function(&listing)
    }

    fn complaint(function: &Function, asked: Asked) -> Option<String> {
        Loop::all(function).next().unwrap().complaint(asked)
    }

    const AMX: &str = "shears_kernels::matmul::tile::amx::tile_1x1";

    #[test]
    fn tiles_on_the_stack_are_found() {
        let product = "tdpbf16ps %tmm6,%tmm4,%tmm0";
        let clean = small(AMX, &["tileloadd (%rax,%rsi,1),%tmm4", product]);
        assert_eq!(Loop::all(&clean).next().unwrap().set, Set::Amx);
        assert_eq!(complaint(&clean, Asked::Clean(3.0)), None);
        let spilling = small(AMX, &["tilestored %tmm0,0x40(%rsp,%rsi,1)", product]);
        let complaint = complaint(&spilling, Asked::Clean(3.0)).unwrap();
        assert!(complaint.contains("on the stack"), "{complaint}");
    }

    #[test]
    fn reasons_for_no_limit_are_checked() {
        let vectors = small("a", &["mulps  %xmm0,%xmm1"]);
        let calls = small("a", &["mulps  %xmm0,%xmm1", "call   *%rbx"]);
        assert!(complaint(&vectors, Asked::Calls("")).is_some());
        assert!(complaint(&vectors, Asked::Absent("")).is_some());
        assert!(complaint(&calls, Asked::Absent("")).is_some());
        assert_eq!(complaint(&calls, Asked::Calls("")), None);
        assert!(complaint(&calls, Asked::Clean(9.0)).is_some());
    }

    #[test]
    fn element_counts_apply_only_to_portable_code() {
        let code = ["mulps  %xmm0,%xmm1", "mulss  %xmm0,%xmm2"];
        let count = |symbol| {
            let function = small(symbol, &code);
            Loop::all(&function).next().unwrap().multiplications
        };
        assert_eq!(count("a"), 2);
        assert_eq!(count("pulp::x86::v3::V3::vectorize::imp"), 1);
    }

    #[test]
    fn loops_in_no_row_are_listed() {
        let frame = |file: &str| Frame {
            file: file.to_string(),
            function: "tile_1x1".to_string(),
        };
        let table = |symbol: &str, file: &str| {
            let functions = [small(symbol, &["tdpbf16ps %tmm6,%tmm4,%tmm0"])];
            let origins = HashMap::from([(0, vec![frame(file)])]);
            Table::of(&functions, &origins).summary()
        };
        let summary = table(AMX, "matmul/tile/amx.rs");
        assert!(summary.starts_with("checked: 1 inner"), "{summary}");
        assert!(summary.ends_with("0 belong to no row"), "{summary}");
        // A new file, and a known one with other instructions.
        let summary = table("a", "new.rs");
        let line = "1 belong to no row\nin no row: portable: new.rs, tile_1x1, at 0x0";
        assert!(summary.ends_with(line), "{summary}");
        let summary = table("a", "matmul/tile/amx.rs");
        assert!(summary.contains("1 belong to no row"), "{summary}");
    }

    #[test]
    fn kernels_are_identified_by_their_frames() {
        for (file, function, name) in [
            ("matmul/tile/amx.rs", "tile_2x2", "AMX product, 2 x 2 tiles"),
            ("matmul/tile/amx.rs", "tile_1x2", "AMX product, fewer tiles"),
            (
                "matmul/tile.rs",
                "whole<pulp::x86::v4::V4, 14, 2, false>",
                "matrix product, 14 x 2",
            ),
            ("matmul/tile/x86.rs", "tile_14x2", "matrix product, 14 x 2"),
            ("matmul/tile/x86.rs", "tile_6x2", "matrix product, 6 x 2"),
            (
                "matmul/tile.rs",
                "widened<pulp::x86::v3::V3, 6, 2>",
                "bf16 by f32 units",
            ),
            (
                "matmul/tile/x86.rs",
                "tile_6x1",
                "matrix product, other tiles",
            ),
            ("dropout.rs", "apply<pulp::x86::v4::V4>", "dropout"),
            ("loss/kernel.rs", "with_simd<pulp::x86::v4::V4>", "loss"),
        ] {
            let (file, function) = (file.to_string(), function.to_string());
            let kernel = Kernel::of([Frame { file, function }].iter());
            assert_eq!(kernel.unwrap().name, name);
        }
        assert_eq!(Set::of("pulp::x86::v3::V3::vectorize::imp"), Set::Avx2);
        assert_eq!(
            Set::of("shears_kernels::matmul::tile::x86::avx512::tile_1x2"),
            Set::Avx512
        );
    }
}
