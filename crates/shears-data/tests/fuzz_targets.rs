//! The bodies of the fuzz targets, and a fuzzer on stable Rust: over a saved corpus, and over changes
//! of it for some seconds.
//!
//! `SHEARS_FUZZ_SECONDS` sets for how long, 5 unless told otherwise. The changes follow from a fixed
//! seed, so that a failure names everything that is needed to see it again.

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use shears_data::Tokenizer;

const SEED: u64 = 0x7368_6561_7273;

/// What an input may take; what takes longer hangs.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Any file is refused in one line, or is a tokenizer whose ids are those of its vocabulary.
fn tokenizer_json(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, data).unwrap();
    let tokenizer = match Tokenizer::load(&path) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            return;
        }
    };
    for text in [
        "",
        "hello, world. 12 34\n",
        "zażółć 龍\u{1F9F6}\u{301}\0",
        &"ab ".repeat(200),
    ] {
        match tokenizer.encode(text) {
            Ok(ids) => {
                assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
                let _ = tokenizer.decode(&ids);
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    let _ = tokenizer.decode(&[0, 1, u32::MAX]);
    assert!(!tokenizer.describe().contains(char::is_control));
}

#[test]
fn files_of_tokenizers() {
    let corpus = corpus("tokenizer_json");
    for (name, input) in &corpus {
        check(name, tokenizer_json, input);
    }
    let seconds = std::env::var("SHEARS_FUZZ_SECONDS").unwrap_or_else(|_| "5".to_owned());
    let end = Instant::now() + Duration::from_secs_f64(seconds.parse().unwrap());
    let mut count = 0;
    while Instant::now() < end {
        let input = changed(&corpus, &mut Random(SEED + count));
        check(&format!("input number {count}"), tokenizer_json, &input);
        count += 1;
    }
    println!("{count} inputs");
}

fn check(which: &str, body: fn(&[u8]), input: &[u8]) {
    let started = Instant::now();
    let result = catch_unwind(|| body(input));
    assert!(result.is_ok(), "{which}: b\"{}\"", input.escape_ascii());
    let time = started.elapsed();
    assert!(
        time < TIME_MAX,
        "{which}: {time:?}: b\"{}\"",
        input.escape_ascii()
    );
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    // Folders have no order of their own, and the changes must not depend on it.
    files.sort();
    assert!(files.len() >= 12, "{target}: the corpus has lost its files");
    files
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// What stands in place of a value: extremes, and parts that belong elsewhere.
const VALUES: [&str; 16] = [
    "0",
    "-1",
    "4294967295",
    "18446744073709551616",
    "1e999",
    "null",
    "true",
    "\"\"",
    "\"a\"",
    "[]",
    "{}",
    "{\"Regex\":\"(a*)*b\"}",
    "{\"Regex\":\"\"}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaa\"}",
    "{\"type\":\"FixedLength\",\"length\":0}",
    "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}",
];

/// One file of the corpus with up to four changes.
fn changed(corpus: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        let place = random.below(input.len());
        match random.below(6) {
            0 => input
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => {
                let other = &corpus[random.below(corpus.len())].1;
                input.truncate(place);
                input.extend_from_slice(&other[random.below(other.len())..]);
            }
            2 => {
                let end = (place + random.below(8)).min(input.len());
                input.drain(place..end);
            }
            _ => swap_value(&mut input, place, random),
        }
    }
    input.truncate(1 << 16);
    input
}

/// Puts another value behind the next colon, where a comma or a bracket ends the first.
fn swap_value(input: &mut Vec<u8>, place: usize, random: &mut Random) {
    let Some(colon) = input[place..].iter().position(|byte| *byte == b':') else {
        return;
    };
    let start = place + colon + 1;
    let ends = |byte: &u8| b",}]\n".contains(byte);
    let length = input[start..].iter().position(ends).unwrap_or(0);
    let value = VALUES[random.below(VALUES.len())].bytes();
    input.splice(start..start + length, value);
}
