//! `cargo xtask ci`: everything that continuous integration checks, in its order.

use std::process::{Command, ExitCode};

/// Each check: what it is called, and the arguments of cargo.
const CHECKS: [(&str, &[&str]); 4] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "documentation",
        &[
            "doc",
            "--release",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
    ),
    ("tests", &["test", "--release", "--workspace"]),
];

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    if task.as_deref() != Some("ci") {
        eprintln!("usage: cargo xtask ci");
        return ExitCode::from(2);
    }
    for (name, arguments) in CHECKS {
        println!("== {name}: cargo {}", arguments.join(" "));
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).env("RUSTDOCFLAGS", "-D warnings");
        match cargo.status() {
            Ok(status) if status.success() => {}
            Ok(_) => {
                eprintln!("== {name} failed");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("== {name}: cannot start cargo: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("== all checks passed");
    ExitCode::SUCCESS
}
