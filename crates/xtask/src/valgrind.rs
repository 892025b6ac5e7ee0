//! `cargo xtask valgrind`: the kernels' unit tests with every access to memory checked.
//!
//! Miri cannot run vector instructions that are chosen at run time, and needs a nightly toolchain;
//! valgrind runs what users run. It supports AVX2 and hides AVX-512, so it checks the AVX2 and the
//! portable paths.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Prefixes of the tests of `unsafe` code. The finite differences of whole blocks would take hours.
const TESTS: [&str; 6] = [
    "matmul::",
    "recurrent::",
    "loss::",
    "embedding::",
    "attention::",
    "numbers::",
];

/// Runs them, and fails where valgrind finds an error.
pub(crate) fn run() -> Result<(), String> {
    let binary = test_binary()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9", &binary]);
    crate::execute(valgrind.args(TESTS))
}

/// Builds the tests with the features of the whole workspace, and returns their path.
fn test_binary() -> Result<String, String> {
    let output = Command::new("cargo")
        .args(["test", "--release", "--workspace", "--lib", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut tests = messages.filter(|message| {
        message["target"]["name"] == "shears_kernels" && message["executable"].is_string()
    });
    let executable = tests
        .next()
        .and_then(|message| message["executable"].as_str().map(String::from));
    executable.ok_or_else(|| "the tests of shears-kernels were not built".to_string())
}
