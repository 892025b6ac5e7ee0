//! Fuzzes clipper states, preceded by a line with the policy. The unit tests share the body.

#![no_main]

#[path = "../../tests/fuzz_targets.rs"]
#[allow(dead_code, reason = "each target runs one of the bodies")]
mod fuzz_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::clipper_state(data));
