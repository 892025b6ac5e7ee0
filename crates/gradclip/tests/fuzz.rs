//! The fuzz targets without a fuzzer: over the saved corpus, and over changes of it for some
//! seconds.
//!
//! `GRADCLIP_FUZZ_SECONDS` sets for how long, 5 unless told otherwise. The changes follow from a
//! fixed seed, so that a failure names everything that is needed to see it again.

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fuzz_targets::{clipper_state, policy_text};
use crate::support::Random;

const SEED: u64 = 0x6772_6164_636c_6970;

#[test]
fn texts_of_policies() {
    run("policy_text", policy_text);
}

#[test]
fn states_of_clippers() {
    run("clipper_state", clipper_state);
}

fn run(target: &str, body: fn(&[u8])) {
    let corpus = corpus(target);
    for (name, input) in &corpus {
        check(&format!("{target}, corpus file {name}"), body, input);
    }
    let seconds = std::env::var("GRADCLIP_FUZZ_SECONDS").unwrap_or_else(|_| "5".to_owned());
    let seconds = seconds
        .parse()
        .expect("GRADCLIP_FUZZ_SECONDS is a number of seconds");
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0;
    while Instant::now() < end {
        let input = changed(&corpus, &mut Random(SEED.wrapping_add(count)));
        check(
            &format!("{target}, seed {SEED:#x}, input number {count}"),
            body,
            &input,
        );
        count += 1;
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry of the folder").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(path).expect("a readable file"))
        })
        .collect();
    // Folders have no order of their own, and the changes must not depend on it.
    files.sort();
    assert!(files.len() >= 20, "{target}: the corpus has lost its files");
    files
}

fn check(which: &str, body: fn(&[u8]), input: &[u8]) {
    let result = catch_unwind(|| body(input));
    assert!(result.is_ok(), "{which}: b\"{}\"", input.escape_ascii());
}

/// One file of the corpus with up to four changes.
fn changed(corpus: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut below = |bound: usize| (random.next() % bound.max(1) as u64) as usize;
    let mut input = corpus[below(corpus.len())].1.clone();
    for _ in 0..=below(4) {
        match below(6) {
            0 => flip(&mut input, &mut below),
            1 => {
                let other = &corpus[below(corpus.len())].1;
                let (here, there) = (below(input.len() + 1), below(other.len() + 1));
                input.truncate(here);
                input.extend_from_slice(&other[there..]);
            }
            2 => {
                let start = below(input.len());
                let end = (start + below(8)).min(input.len());
                input.drain(start..end);
            }
            _ => swap_number(&mut input, &mut below),
        }
    }
    input.truncate(4096);
    input
}

fn flip(input: &mut [u8], below: &mut impl FnMut(usize) -> usize) {
    if !input.is_empty() {
        input[below(input.len())] ^= 1 << below(8);
    }
}

/// Puts an extreme number in the place of one.
fn swap_number(input: &mut Vec<u8>, below: &mut impl FnMut(usize) -> usize) {
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
    let in_number = |byte: &u8| byte.is_ascii_digit() || b".e-".contains(byte);
    let starts: Vec<usize> = (0..input.len())
        .filter(|at| input[*at].is_ascii_digit() && (*at == 0 || !in_number(&input[at - 1])))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[below(starts.len())];
    let length = input[start..]
        .iter()
        .take_while(|byte| in_number(byte))
        .count();
    let extreme = EXTREMES[below(EXTREMES.len())].bytes();
    input.splice(start..start + length, extreme);
}
