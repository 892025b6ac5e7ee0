//! Tests on vectors worked out by hand and on small random models.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "tests/decode.rs"]
mod decode;
#[path = "tests/models.rs"]
mod models;
#[path = "tests/sampling.rs"]
mod sampling;
#[path = "tests/text.rs"]
mod text;
