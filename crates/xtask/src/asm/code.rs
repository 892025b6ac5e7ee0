//! Machine code as objdump prints it: functions, instructions, and the properties that the checks
//! need.

use std::io::BufRead;

/// One instruction, in AT&T syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) address: u64,
    pub(super) text: String,
}

/// What executes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next instruction.
    Following,
    /// The next one, or the one at this address.
    Branch(u64),
    Jump(u64),
    /// Unknown: a return, a jump through a table, a call that does not return.
    End,
}

/// A function and its instructions, in the order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Function {
    /// Its demangled symbol, without type parameters.
    pub(super) symbol: String,
    pub(super) code: Vec<Instruction>,
}

/// Functions that never return, by a part of their symbols.
const NEVER_RETURN: [&str; 4] = ["panic", "_fail", "_Unwind_Resume", "handle_alloc_error"];

impl Instruction {
    /// Parses a line of objdump, if it is an instruction.
    fn parse(line: &str) -> Option<Instruction> {
        let (address, text) = line.split_once(":\t")?;
        let address = u64::from_str_radix(address.trim(), 16).ok()?;
        let text = text.split(" # ").next().unwrap_or_default().trim();
        // A hint for control-flow protection, which changes nothing here.
        let text = text.strip_prefix("notrack ").unwrap_or(text);
        Some(Instruction {
            address,
            text: text.to_string(),
        })
    }

    fn mnemonic(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }

    fn operands(&self) -> &str {
        self.text[self.mnemonic().len()..].trim()
    }

    pub(super) fn next(&self) -> Next {
        let target = || {
            let address = self.operands().split_whitespace().next()?;
            u64::from_str_radix(address, 16).ok()
        };
        match (self.mnemonic(), target()) {
            ("ret" | "retq" | "repz" | "ud2" | "hlt" | "int3", _) => Next::End,
            ("jmp" | "jmpq", target) => target.map_or(Next::End, Next::Jump),
            ("call" | "callq", _) if NEVER_RETURN.iter().any(|part| self.text.contains(part)) => {
                Next::End
            }
            (mnemonic, Some(target)) if mnemonic.starts_with('j') => Next::Branch(target),
            _ => Next::Following,
        }
    }

    pub(super) fn is_call(&self) -> bool {
        matches!(self.mnemonic(), "call" | "callq")
    }

    /// Whether it multiplies vectors, fused with an addition or not.
    pub(super) fn multiplies(&self) -> bool {
        self.multiplies_in(["ps", "pd"]) || self.mnemonic().ends_with("dpbf16ps")
    }

    /// Whether it multiplies two numbers.
    pub(super) fn multiplies_elements(&self) -> bool {
        self.multiplies_in(["ss", "sd"])
    }

    fn multiplies_in(&self, endings: [&str; 2]) -> bool {
        let name = self.mnemonic();
        let name = name.strip_prefix('v').unwrap_or(name);
        let ways = ["mul", "fmadd", "fmsub", "fnmadd", "fnmsub"];
        ways.iter().any(|way| name.starts_with(way))
            && endings.iter().any(|ending| name.ends_with(ending))
    }

    /// Whether objdump does not know it.
    pub(super) fn is_unknown(&self) -> bool {
        self.mnemonic() == "(bad)"
    }

    /// Whether it spills a vector or a tile to the stack, or reads one from there. Spills of
    /// vectors have a fixed place, an index means an array that the source has there; tiles always
    /// have an index, the distance of their rows.
    pub(super) fn is_spill(&self, has_frame_pointer: bool) -> bool {
        let operands = self.operands();
        let of = |register: &str| operands.contains(register);
        let end = match of("%tmm") {
            true => "",
            false if of("%xmm") || of("%ymm") || of("%zmm") => ")",
            false => return false,
        };
        // Without a frame pointer, %rbp is a register like any other.
        of(&format!("(%rsp{end}")) || has_frame_pointer && of(&format!("(%rbp{end}"))
    }

    /// As an assembler reads it: objdump names the function behind a target.
    pub(super) fn source(&self) -> &str {
        self.text.split(" <").next().unwrap_or_default()
    }
}

impl std::fmt::Display for Instruction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<&str> = self.text.split_whitespace().collect();
        write!(formatter, "{} at {:#x}", words.join(" "), self.address)
    }
}

impl Function {
    /// Whether it uses %rbp as a frame pointer.
    pub(super) fn has_frame_pointer(&self) -> bool {
        let mut start = self.code.iter().take(20);
        start.any(|one| one.mnemonic() == "mov" && one.operands() == "%rsp,%rbp")
    }
}

/// The functions in the output of objdump that multiply vectors, or have instructions that it does
/// not know.
pub(super) fn functions(objdump: impl BufRead) -> std::io::Result<Vec<Function>> {
    let mut found = Vec::new();
    let mut function = Function::default();
    let mut keep = |function: Function| {
        let matters = |one: &Instruction| one.multiplies() || one.is_unknown();
        if function.code.iter().any(matters) {
            found.push(function);
        }
    };
    for line in objdump.lines() {
        let line = line?;
        if let Some(one) = Instruction::parse(&line) {
            function.code.push(one);
        } else if let Some(symbol) = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once(" <"))
        {
            let symbol = symbol.1.to_string();
            let code = Vec::new();
            keep(std::mem::replace(&mut function, Function { symbol, code }));
        }
    }
    keep(function);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Instruction, Next, functions};

    fn instruction(text: &str) -> Instruction {
        Instruction::parse(&format!("  b9ff74:\t{text}")).unwrap()
    }

    #[test]
    fn an_instruction_is_read() {
        let jump = instruction("jne    b9ff00 <pulp::x86::v4::V4::vectorize::imp+0x10>");
        assert_eq!(jump.address, 0xb9_ff74);
        assert_eq!(jump.next(), Next::Branch(0xb9_ff00));
        assert_eq!(jump.source(), "jne    b9ff00");
        assert_eq!(
            jump.to_string(),
            "jne b9ff00 <pulp::x86::v4::V4::vectorize::imp+0x10> at 0xb9ff74"
        );
        assert_eq!(instruction("jmp    10 <a>").next(), Next::Jump(0x10));
        assert_eq!(instruction("notrack jmp *%rax").next(), Next::End);
        assert_eq!(
            instruction("call   10 <core::panicking::panic_fmt>").next(),
            Next::End
        );
        assert_eq!(
            instruction("call   *0x10(%rip)        # 20 <pow>").next(),
            Next::Following
        );
    }

    #[test]
    fn only_vector_multiplications_count() {
        for text in [
            "vfmadd231ps %zmm0,%zmm1,%zmm2",
            "mulpd %xmm0,%xmm1",
            "vdpbf16ps %zmm28,%zmm30,%zmm0",
            "tdpbf16ps %tmm6,%tmm4,%tmm0",
            "vfnmadd213pd (%rax),%ymm1,%ymm2",
        ] {
            assert!(instruction(text).multiplies(), "{text}");
        }
        for text in [
            "vfmadd231ss %xmm0,%xmm1,%xmm2",
            "mulss %xmm0,%xmm1",
            "vaddps %ymm0,%ymm1,%ymm2",
            "imul %rax,%rbx",
        ] {
            assert!(!instruction(text).multiplies(), "{text}");
        }
        for (text, elements) in [
            ("vfmadd231ss %xmm0,%xmm1,%xmm2", true),
            ("mulsd  %xmm0,%xmm1", true),
            ("mulps  %xmm0,%xmm1", false),
            ("addss  %xmm0,%xmm1", false),
        ] {
            assert_eq!(instruction(text).multiplies_elements(), elements, "{text}");
        }
    }

    #[test]
    fn a_spill_is_a_vector_at_a_fixed_place_of_the_stack() {
        let spills = |text: &str, has_frame_pointer| instruction(text).is_spill(has_frame_pointer);
        assert!(spills("vmovups %zmm0,0xb40(%rsp)", false));
        assert!(spills("vmulps 0x70(%rsp),%ymm11,%ymm11", false));
        assert!(spills("vbroadcastss -0x10(%rbp),%zmm1", true));
        assert!(!spills("vbroadcastss -0x10(%rbp),%zmm1", false));
        assert!(!spills("vmovups 0x1f8(%rsp,%rdx,4),%zmm1", false));
        assert!(!spills("mov    0x8(%rsp),%rax", false));
    }

    #[test]
    fn a_tile_on_the_stack_is_a_spill_though_it_has_an_index() {
        let spills = |text: &str, has_frame_pointer| instruction(text).is_spill(has_frame_pointer);
        assert!(spills("tileloadd (%rsp,%rax,1),%tmm0", false));
        assert!(spills("tileloadd (%rsp),%tmm0", false));
        assert!(spills("tilestored %tmm1,0x400(%rsp,%rsi,1)", false));
        assert!(spills("tilestored %tmm1,-0x40(%rbp,%rsi,1)", true));
        assert!(!spills("tilestored %tmm1,-0x40(%rbp,%rsi,1)", false));
        assert!(!spills("tileloadd 0x40(%rdx,%r8,1),%tmm7", true));
    }

    #[test]
    fn functions_without_vectors_are_left_out() {
        let listing = "0000000000000010 <a>:\n  10:\tret\n\n0000000000000020 <b<T>>:\n  20:\tmulps  %xmm0,%xmm1\n  24:\tret\n\n0000000000000030 <c>:\n  30:\t(bad)\n";
        let functions = functions(listing.as_bytes()).unwrap();
        let symbols: Vec<&str> = functions.iter().map(|one| one.symbol.as_str()).collect();
        assert_eq!(symbols, ["b<T>", "c"]);
        assert_eq!(functions[0].code.len(), 2);
        assert!(functions[1].code[0].is_unknown());
    }
}
