//! The only integration binary: one module per part of the crate.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod batches;
mod corpus;
mod decode_stream;
mod fuzz;
#[path = "../../gradclip/tests/fuzzing.rs"]
mod fuzzing;
mod hostile_tokenizers;
mod tokenizer;
