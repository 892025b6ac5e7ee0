//! What runs around the code: `cargo xtask ci` checks it, `cargo xtask bench` measures it,
//! `cargo xtask valgrind` watches its memory, `cargo xtask neon` runs it for ARM, `cargo xtask asm`
//! checks the machine code of its kernels, `cargo xtask package` tries what is published,
//! `cargo xtask lines` counts its lines.

use std::path::Path;
use std::process::ExitCode;

mod asm;
mod bench;
mod ci;
mod lines;
mod neon;
mod package;
mod valgrind;

const USAGE: &str = "usage: cargo xtask ci
       cargo xtask bench peers|scaling [OPTION]...
       cargo xtask bench report
       cargo xtask valgrind
       cargo xtask neon
       cargo xtask package
       cargo xtask asm [PROGRAM]
       cargo xtask lines [BEFORE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("ci") => ci::run(),
        Some("valgrind") => valgrind::run(),
        Some("neon") => neon::run(),
        Some("package") => package::run(),
        Some("asm") => asm::run(arguments.get(1).map(Path::new)),
        Some("lines") => lines::run(arguments.get(1).map(String::as_str)),
        Some("bench") => bench::run(&arguments[1..]),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
