//! `cargo xtask asm`: what the compiler made of the kernels, on any x86-64 machine, without running them.
//!
//! It disassembles the program that users run, finds the innermost loops of the hot kernels for all sets of
//! vector instructions, and fails where one keeps vectors on the stack, calls a function or has more
//! instructions for each multiplication than its limit. Where llvm-mca is installed (Debian: `llvm`), it
//! estimates the cycles of the loops of products.

use std::io::BufReader;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

mod code;
mod estimate;
mod kernels;
mod loops;
mod origin;
mod report;

use code::{Function, Instruction};
use report::Row;

/// Checks the kernels, and says what it found.
pub(crate) fn run() -> ExitCode {
    match check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("xtask asm: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The same as a part of other checks. An error has a line for each offender.
pub(crate) fn check() -> Result<(), Vec<String>> {
    let complaints = inspect().map_err(|problem| vec![problem])?;
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(complaints),
    }
}

/// What is wrong with the kernels: nothing, where they cannot be looked at.
fn inspect() -> Result<Vec<String>, String> {
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
    let program = crate::bench::build_shears()?;
    let functions = disassemble(&program)?;
    let addresses: Vec<u64> = functions
        .iter()
        .flat_map(|function| function.code.iter().filter(|one| one.multiplies()))
        .map(|one: &Instruction| one.address)
        .collect();
    let origins = origin::of(&program, &addresses)?;
    let rows = Row::all(&functions, &origins);
    println!("{}", report::head());
    for row in &rows {
        println!("{}", row.line());
    }
    for exception in rows.iter().filter_map(Row::exception) {
        println!("{exception}");
    }
    println!("NEON: skipped, it reads the code for x86-64 on Linux");
    print_estimates(&rows);
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
