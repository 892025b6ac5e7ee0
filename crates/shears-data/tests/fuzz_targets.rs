//! The body of the fuzz target of tokenizers.

use std::path::Path;

use shears_data::Tokenizer;

use crate::fuzzing;

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
            assert!(
                !message.contains(", expected") && !message.contains("untagged"),
                "{message}"
            );
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/tokenizer_json");
    let corpus = fuzzing::corpus(&folder);
    fuzzing::run("tokenizers", &corpus, &VALUES, tokenizer_json);
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
