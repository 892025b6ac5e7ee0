//! What other programs have written is read as they mean it, and what nobody should read is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tests/golden.rs"]
mod golden;
#[path = "tests/refused.rs"]
mod refused;
