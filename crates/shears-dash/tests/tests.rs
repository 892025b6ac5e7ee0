//! Tests of the live page, from its requests to a browser.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
mod browser;
mod chromium;
mod fuzz;
#[path = "../../gradclip/tests/fuzzing.rs"]
mod fuzzing;
mod live;
mod million;
mod requests;
mod run_folder;
