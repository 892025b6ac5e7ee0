//! `cargo xtask asm`: checks the machine code of the kernels on any x86-64 machine, without running
//! it.
//!
//! It disassembles the program that users run, finds the innermost loops of the hot kernels for
//! every vector instruction set, and fails if one keeps vectors on the stack, calls a function or
//! exceeds its limit of instructions per multiplication. It lists loops of the kernels that no row
//! of its table covers. If llvm-mca is installed (Debian: `llvm`), it estimates the cycles of the
//! loops of products.
//!
//! It does not check outer loops (with AVX2 the backward pass of attention with dropout; the ends
//! of rows), loops that only copy, add or draw random numbers (the embedding, panels, dropout
//! masks), or NEON. Portable loops that multiply by calling `fmaf` have no limit.

use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Stdio};

mod code;
mod estimate;
mod kernels;
mod loops;
mod origin;
mod report;

use code::{Function, Instruction};
use kernels::Set;
use report::{Row, Table};

/// Checks the kernels of a program (by default `shears`) and prints a table. The error has a line
/// for each problem.
pub(crate) fn run(program: Option<&Path>) -> Result<(), String> {
    let complaints = inspect(program)?;
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(complaints.join("\n")),
    }
}

/// The problems of the kernels; none on machines where they cannot be checked.
fn inspect(program: Option<&Path>) -> Result<Vec<String>, String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: it reads the code for x86-64 on Linux");
        return Ok(Vec::new());
    }
    for tool in ["objdump", "addr2line"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("skipped: {tool} is not installed (Debian: binutils)");
            return Ok(Vec::new());
        }
    }
    let program = match program {
        Some(program) => program.to_path_buf(),
        None => crate::bench::build_shears()?,
    };
    let functions = disassemble(&program)?;
    let is_unknown = |function: &Function| {
        Set::of(&function.symbol) == Set::Amx && function.code.iter().any(Instruction::is_unknown)
    };
    if functions.iter().any(is_unknown) {
        return Err("this objdump does not know the instructions of AMX, a newer one does".into());
    }
    let addresses: Vec<u64> = functions
        .iter()
        .flat_map(|function| function.code.iter().filter(|one| one.multiplies()))
        .map(|one: &Instruction| one.address)
        .collect();
    let origins = origin::of(&program, &addresses)?;
    let table = Table::of(&functions, &origins);
    let rows = &table.rows;
    println!("{}", report::head());
    for row in rows {
        println!("{}", row.line());
    }
    for exception in rows.iter().filter_map(Row::exception) {
        println!("{exception}");
    }
    println!("{}", table.summary());
    println!("NEON: skipped, it reads the code for x86-64 on Linux");
    print_estimates(rows);
    Ok(rows.iter().flat_map(Row::complaints).collect())
}

fn print_estimates(rows: &[Row<'_>]) {
    if !estimate::is_possible() {
        println!("estimate of cycles: skipped: llvm-mca is not installed (Debian: llvm)");
        return;
    }
    for row in rows.iter().filter(|row| row.kernel.estimated) {
        if let Some(largest) = row.largest() {
            let (name, set) = (row.kernel.name, row.set.name());
            println!("estimate: {name}, {set}: {}", estimate::of(largest));
        }
    }
}

/// All functions of a program that multiply vectors.
fn disassemble(program: &Path) -> Result<Vec<Function>, String> {
    let problem = |error: std::io::Error| format!("cannot run objdump: {error}");
    let mut objdump = Command::new("objdump")
        .args(["--disassemble", "--demangle", "--no-show-raw-insn"])
        .arg(program)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(problem)?;
    let output = objdump.stdout.take().ok_or("objdump has no output")?;
    let functions = code::functions(BufReader::new(output)).map_err(problem)?;
    let status = objdump.wait().map_err(problem)?;
    match status.success() {
        true => Ok(functions),
        false => Err("objdump failed".to_string()),
    }
}
