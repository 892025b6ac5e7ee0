//! The integration tests as one binary, so that the four models are compiled once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoint;
mod clipping;
mod finite_difference;
mod fuzz;
#[path = "../../gradclip/tests/fuzzing.rs"]
mod fuzzing;
mod going_on;
mod golden;
mod golden_file;
mod ranks;
mod tiny;
mod trainer;
