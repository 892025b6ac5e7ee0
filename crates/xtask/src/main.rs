//! `cargo xtask ci`: everything that continuous integration checks, in its order.

use std::process::{Command, ExitCode};

/// Each check: what it is called, the arguments of cargo, and a variable to set.
const CHECKS: [(&str, &[&str], Option<(&str, &str)>); 4] = [
    ("format", &["fmt", "--all", "--check"], None),
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
        None,
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
        Some(("RUSTDOCFLAGS", "-D warnings")),
    ),
    ("tests", &["test", "--release", "--workspace"], None),
];

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    if task.as_deref() != Some("ci") {
        eprintln!("usage: cargo xtask ci");
        return ExitCode::from(2);
    }
    for (name, arguments, variable) in CHECKS {
        println!("== {name}: cargo {}", arguments.join(" "));
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).envs(variable);
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
