//! Unusable tokenizer files give an error in one line, never a panic.

use std::fs;

use shears_data::{DataError, Tokenizer, TokenizerKind};

fn load(bytes: &[u8]) -> Result<Tokenizer, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, bytes).unwrap();
    Tokenizer::load(&path)
}

fn check(bytes: &[u8], expected: &str) {
    let message = load(bytes).unwrap_err().to_string();
    assert!(
        message.contains(expected) && !message.contains('\n'),
        "{message}"
    );
}

fn bpe(vocab: &str, merges: &str, rest: &str) -> Vec<u8> {
    format!(
        r#"{{"version":"1.0","model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}}{rest}}}"#
    )
    .into_bytes()
}

#[test]
fn other_files() {
    check(b"", "is empty");
    check(b"{\"version\": ", "cut off");
    check(b"hello", "not JSON");
    check(b"\xFF\xFE", "not UTF-8");
    check(
        b"version https://git-lfs.github.com/spec/v1\noid",
        "git-LFS",
    );
    check(b"<!DOCTYPE html>", "web page");
    check("[".repeat(10_000).as_bytes(), "not JSON");
    check(b"[]", "no `model`");
    check(b"{}", "no `model`");
    check(br#"{"model":{"type":"BPE"}}"#, "`model.vocab` is missing");
    check(
        br#"{"model":{"type":"Nonsense","vocab":{"a":0}}}"#,
        "tokenizer",
    );
    assert!(matches!(
        Tokenizer::load("/nonexistent.json"),
        Err(DataError::Missing { .. })
    ));
}

#[test]
fn ids_that_are_not_dense() {
    check(&bpe("{}", "[]", ""), "empty");
    check(&bpe(r#"{"a":0,"b":0}"#, "[]", ""), "two tokens");
    check(&bpe(r#"{"a":0,"b":2}"#, "[]", ""), "without gaps");
    check(&bpe(r#"{"a":0,"b":4294967295}"#, "[]", ""), "4294967295");
    check(&bpe(r#"{"a":-1}"#, "[]", ""), "0 or more");
    check(&bpe(r#"{"a":0.5}"#, "[]", ""), "0 or more");
    let added = |id: &str| format!(r#","added_tokens":[{{"id":{id},"content":"<s>"}}]"#);
    check(&bpe(r#"{"a":0}"#, "[]", &added("0")), "another token");
    check(&bpe(r#"{"a":0}"#, "[]", &added("7")), "without gaps");
    check(
        &bpe(r#"{"a":0}"#, "[]", r#","added_tokens":7"#),
        "not a list",
    );
}

#[test]
fn merges_outside_the_vocabulary_are_refused() {
    check(&bpe(r#"{"a":0,"b":1}"#, r#"[["a","b"]]"#, ""), "merge 0");
    check(
        &bpe(
            r#"{"a":0,"b":1,"ab":2}"#,
            r#"["a b", "ab xxxxxxxxxxxxxxxx"]"#,
            "",
        ),
        "merge 1",
    );
    check(&bpe(r#"{"a":0}"#, "[[1]]", ""), "not a pair");
    check(&bpe(r#"{"a":0}"#, "7", ""), "tokenizer");
}

#[test]
fn every_truncation_and_many_bit_flips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    Tokenizer::build(&TokenizerKind::Char, "ab龍")
        .unwrap()
        .save(&path)
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() - 2 {
        assert!(load(&bytes[..length]).is_err(), "{length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(tokenizer) = load(&flipped) {
            let ids = tokenizer.encode("ab").unwrap_or_default();
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        }
    }
}

/// A valid file with this normalizer.
fn with_normalizer(normalizer: &str) -> Vec<u8> {
    bpe(
        r#"{"a":0}"#,
        "[]",
        &format!(r#","normalizer":{normalizer}"#),
    )
}

#[test]
fn replacements_that_double_a_text_repeatedly() {
    let double = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
    let sequence = |count: usize| {
        let steps = vec![double; count].join(",");
        with_normalizer(&format!(r#"{{"type":"Sequence","normalizers":[{steps}]}}"#))
    };
    check(&sequence(24), "16777216 times as long");
    assert_eq!(load(&sequence(6)).unwrap().encode("a").unwrap().len(), 64);
    // Neither nested sequences nor a pattern that matches the empty string get around the limit.
    let nested = r#"{"type":"Sequence","normalizers":["#.repeat(12) + double + &"]}".repeat(12);
    assert!(load(&with_normalizer(&nested)).is_ok());
    let content = "a".repeat(100);
    let empty = format!(r#"{{"type":"Replace","pattern":{{"Regex":""}},"content":"{content}"}}"#);
    check(&with_normalizer(&empty), "101 times as long");
    let lower = vec![r#"{"type":"Lowercase"}"#; 33].join(",");
    let steps = format!(r#"{{"type":"Sequence","normalizers":[{lower}]}}"#);
    check(&with_normalizer(&steps), "33 steps");
    let before = format!(r#"{{"type":"Prepend","prepend":"{}"}}"#, "a".repeat(5000));
    check(
        &with_normalizer(&before),
        "the prefix of a text has 5000 bytes",
    );
}

#[test]
fn a_character_map_that_claims_gigabytes() {
    let map = |base64: &str| {
        with_normalizer(&format!(
            r#"{{"type":"Precompiled","precompiled_charsmap":"{base64}"}}"#
        ))
    };
    // A trie of 4 GB, in a file without one.
    check(&map("/////w=="), "`precompiled_charsmap` is damaged");
    check(&map("!"), "`precompiled_charsmap` is damaged");
    // No trie, and 300 bytes to substitute.
    let long = format!("AAAA{}", "AGFh".to_owned() + &"YWFh".repeat(100));
    check(&map(&long), "302 bytes in place of a character");
}

#[test]
fn patterns_and_words_that_take_the_square_of_the_time() {
    let split = |pattern: &str| {
        bpe(
            r#"{"z":0}"#,
            "[]",
            &format!(
                r#","pre_tokenizer":{{"type":"Split","pattern":{{"Regex":"{pattern}"}},"behavior":"Isolated","invert":false}}"#
            ),
        )
    };
    let slow = load(&split("z*y|z")).unwrap();
    assert!(slow.encode("zz").is_ok());
    let long = "z".repeat(20_000);
    // It is probed only once.
    for error in [
        slow.encode(&long).unwrap_err(),
        slow.encode(&long).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("65 kB of 'z' take it too long"), "{error}");
    }
    // GPT-2's pattern.
    let usual =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    assert!(load(&split(usual)).unwrap().encode(&long).is_ok());
    check(&split(&"z".repeat(5000)), "a pattern has 5000 bytes");
}
