//! A fuzzer for stable Rust, included by path in the tests of several crates, because this crate
//! has no dependencies.
//!
//! A target runs over its seeds, over each seed truncated at every length, as after a crash, and
//! for `SHEARS_FUZZ_SECONDS` (3) over mutations of them. The mutations are drawn from
//! `SHEARS_FUZZ_SEED`, a number that is fixed unless given, so that failures are reproducible: a
//! long run needs another one, or it begins with the inputs of every other run.
//!
//! The targets are functions that return a [`Target`]: `cargo +nightly fuzz` runs the same ones
//! (`fuzz/`).

#![allow(dead_code, reason = "each crate uses its part")]
#![allow(clippy::print_stdout, reason = "prints the number of inputs")]
#![allow(clippy::unwrap_used, reason = "helpers fail their tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

const SEED: u64 = 0x7368_6561_7273;
/// The time limit per input.
const TIME_MAX: Duration = Duration::from_secs(30);

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub(crate) fn value(&mut self) -> f32 {
        ((self.next() >> 40) as f32) / ((1 << 23) as f32) - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// Replacements for numbers and values: extremes.
pub(crate) const EXTREMES: [&str; 12] = [
    "0",
    "-1",
    "1e999",
    "1e-320",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
];

/// What is done with an input.
type Body = dyn FnMut(&[u8]);

/// What is fuzzed.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// The inputs that others are made of.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// Replacements for values of the seeds.
    values: &'static [&'static str],
    /// Panics if something is wrong with the input.
    pub(crate) body: Box<Body>,
}

impl Target {
    /// A target of a crate. Its seeds are these and the files in `tests/corpus/NAME`, if there are
    /// any.
    pub(crate) fn new(
        of: &str,
        name: &'static str,
        mut seeds: Vec<Vec<u8>>,
        body: impl FnMut(&[u8]) + 'static,
    ) -> Target {
        seeds.extend(corpus(&folder(of, "corpus").join(name)));
        Target {
            name,
            seeds,
            values: &EXTREMES,
            body: Box::new(body),
        }
    }

    /// The target with other replacements for values.
    pub(crate) fn with_values(self, values: &'static [&'static str]) -> Target {
        Target { values, ..self }
    }

    /// Runs the target.
    pub(crate) fn run(mut self) {
        let name = self.name;
        let mut slowest = Duration::ZERO;
        let mut check = |input: &[u8]| {
            let started = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| (self.body)(input)));
            assert!(result.is_ok(), "{name}: b\"{}\"", input.escape_ascii());
            let time = started.elapsed();
            assert!(
                time < TIME_MAX,
                "{name}: {time:?}: b\"{}\"",
                input.escape_ascii()
            );
            slowest = slowest.max(time);
        };
        let mut count = 0_u64;
        for seed in &self.seeds {
            let stride = (seed.len() / 300).max(1);
            for length in (0..seed.len()).step_by(stride).chain([seed.len()]) {
                check(&seed[..length]);
                count += 1;
            }
        }
        let seconds = number("SHEARS_FUZZ_SECONDS").unwrap_or(3.0);
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut random = Random(number("SHEARS_FUZZ_SEED").unwrap_or(SEED));
        while Instant::now() < end {
            check(&changed(&self.seeds, self.values, &mut random));
            count += 1;
        }
        println!(
            "{name}: {count} inputs, the slowest {slowest:?}, peak {}",
            peak()
        );
    }
}

/// The number in an environment variable.
fn number<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    let number = value.parse().ok();
    assert!(number.is_some(), "{name} is not a number: {value:?}");
    number
}

/// A folder of a crate's tests. The crate is the one that is compiled, or another one when all
/// targets are compiled in `fuzz/`.
pub(crate) fn folder(of: &str, name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let other = here.join("../crates").join(of).join("tests");
    match other.is_dir() {
        true => other.join(name),
        false => here.join("tests").join(name),
    }
}

/// The files of a folder, sorted by name.
fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // Folder listings are unordered, and mutations must not depend on the order.
    files.sort();
    files
        .into_iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// The peak memory of this process, as reported by Linux.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown", str::trim).to_owned()
}

/// One of the seeds with up to four mutations.
fn changed(seeds: &[Vec<u8>], values: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let place = random.below(input.len());
        match random.below(7) {
            0 if !input.is_empty() => input[place] ^= 1 << random.below(8),
            1 => input.truncate(place),
            2 => {
                let other = &seeds[random.below(seeds.len())];
                input.truncate(place);
                input.extend_from_slice(&other[random.below(other.len())..]);
            }
            3 => {
                let end = (place + random.below(40)).min(input.len());
                input.drain(place..end);
            }
            4 => swap_value(&mut input, place, values[random.below(values.len())]),
            5 => swap_number(&mut input, place, values[random.below(values.len())]),
            _ => swap_number(&mut input, place, EXTREMES[random.below(EXTREMES.len())]),
        }
    }
    input.truncate(1 << 16);
    input
}

/// Replaces the value after the next colon or equals sign.
fn swap_value(input: &mut Vec<u8>, place: usize, value: &str) {
    let Some(sign) = input[place..].iter().position(|byte| b":=".contains(byte)) else {
        return;
    };
    let start = place + sign + 1;
    let ends = |byte: &u8| b",}]&\n".contains(byte);
    let rest = &input[start..];
    let length = rest.iter().position(ends).unwrap_or(rest.len());
    input.splice(start..start + length, value.bytes());
}

/// Replaces the next number by an extreme one.
fn swap_number(input: &mut Vec<u8>, place: usize, number: &str) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let start = input[place..].iter().position(is_digit).unwrap_or(0) + place;
    let is_of_it = |byte: &&u8| is_digit(byte) || b".e-".contains(byte);
    let length = input[start..].iter().take_while(is_of_it).count();
    input.splice(start..start + length, number.bytes());
}
