//! `cargo xtask neon`: the kernels' unit tests for ARM, on an emulated processor.
//!
//! It needs `rustup target add aarch64-unknown-linux-gnu`, `qemu-aarch64` and
//! `aarch64-linux-gnu-gcc` (Debian: `qemu-user`, `gcc-aarch64-linux-gnu`, `libc6-dev-arm64-cross`).

use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where Debian has the C library of the other architecture.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// Builds and runs them.
pub(crate) fn run() -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--release", "-p", "shears-kernels", "--lib"])
        .args(["--target", TARGET])
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
        )
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
            format!("qemu-aarch64 -L {LIBRARIES}"),
        );
    crate::execute(&mut cargo)
}
