//! Files of other programs are read correctly, and bad files are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tests/fuzz.rs"]
mod fuzz;
#[path = "../../gradclip/tests/fuzzing.rs"]
mod fuzzing;
#[path = "tests/golden.rs"]
mod golden;
#[path = "tests/refused.rs"]
mod refused;
