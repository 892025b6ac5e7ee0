//! Runs the fuzz targets without a fuzzer: over the saved corpus and mutations of it.

use std::path::Path;

use crate::fuzz_targets::{clipper_state, policy_text};
use crate::fuzzing;

/// Replacements for numbers and values.
const EXTREMES: [&str; 18] = [
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "0.1",
    "1.5",
    "1e-25",
    "1e308",
    "1.7976931348623157e308",
    "5e-324",
    "1e999",
    "nan",
    "inf",
    "4294967295",
    "4294967296",
    "9007199254740992",
    "1..1e300@3",
];

#[test]
fn policy_texts() {
    run("policy_text", policy_text);
}

#[test]
fn clipper_states() {
    run("clipper_state", clipper_state);
}

fn run(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let corpus = fuzzing::corpus(&folder.join(target));
    assert!(corpus.len() >= 20, "{target}: the corpus has lost files");
    fuzzing::run(target, &corpus, &EXTREMES, body);
}
