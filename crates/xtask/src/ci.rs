//! `cargo xtask ci`: everything that continuous integration checks, in its order.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Each check: what it is called, and the arguments of cargo.
const CHECKS: [(&str, &[&str]); 6] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            // The examples that only `cargo xtask bench` builds.
            "--features",
            "xtask/peers",
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
    (
        "gradclip without dependencies",
        &["check", "--release", "--package", "gradclip"],
    ),
    (
        "gradclip without the standard library",
        &[
            "check",
            "--release",
            "--package",
            "gradclip",
            "--no-default-features",
            "--features",
            "libm",
        ],
    ),
    ("tests", &["test", "--release", "--workspace"]),
];

/// Only where there is a driver, because it builds Burn a second time.
const WGPU_TEST: (&str, &[&str]) = (
    "tests on a wgpu device",
    &[
        "test",
        "--release",
        "--package",
        "gradclip-burn",
        "--features",
        "wgpu",
        "--test",
        "wgpu",
    ],
);

/// Where drivers for Vulkan announce themselves.
const VULKAN_DRIVERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Runs the checks until one fails.
pub(crate) fn run() -> ExitCode {
    let has_driver = |folder: &str| {
        let mut entries = Path::new(folder).read_dir().into_iter().flatten();
        entries.next().is_some()
    };
    let wgpu_test = VULKAN_DRIVERS
        .iter()
        .any(|folder| has_driver(folder))
        .then_some(WGPU_TEST);
    for (name, arguments) in CHECKS.into_iter().chain(wgpu_test) {
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
    println!("== what is published: cargo xtask package");
    if crate::package::run() == ExitCode::FAILURE {
        eprintln!("== what is published failed");
        return ExitCode::FAILURE;
    }
    println!("== machine code: cargo xtask asm");
    if let Err(problems) = crate::asm::check() {
        for problem in problems {
            eprintln!("xtask asm: {problem}");
        }
        eprintln!("== machine code failed");
        return ExitCode::FAILURE;
    }
    if wgpu_test.is_none() {
        println!("== {}: skipped, there is no Vulkan driver", WGPU_TEST.0);
    }
    println!("== all checks passed");
    ExitCode::SUCCESS
}
