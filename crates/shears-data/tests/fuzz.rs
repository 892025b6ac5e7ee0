//! The fuzz targets of tokenizers and texts.

use shears_data::{Corpus, DataError, ReadAs, Source, Tokenizer};

use crate::fuzzing::Target;

/// Any file is refused in one line, or is a tokenizer whose ids are those of its vocabulary.
fn check_tokenizer(data: &[u8]) {
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

pub(crate) fn tokenizer_json() -> Target {
    let target = Target::new("shears-data", "tokenizer_json", Vec::new(), check_tokenizer);
    assert!(target.seeds.len() >= 12, "the corpus has lost files");
    target.with_values(&VALUES)
}

#[test]
fn files_of_tokenizers() {
    tokenizer_json().run();
}

/// Replacements of values: extremes, and parts that belong elsewhere.
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

/// Any bytes in any encoding are a text, or are refused in one line.
pub(crate) fn text() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Files(vec![folder.path().join("text.txt")]);
    let wide = "\u{FEFF}caf\u{e9} \u{9f8d}\n".repeat(9);
    let wide: Vec<u8> = wide.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let seeds = vec![
        "caf\u{e9} \u{1F9F6}\u{301}\r\n\0".repeat(9).into_bytes(),
        wide,
        b"caf\xE9, d\xE9j\xE0 vu\n".repeat(9),
        b"\x83n\x83\x8d\x81[ \x1b$B".to_vec(),
        b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
    ];
    let encodings = [
        "utf-8",
        "utf-16",
        "utf-16be",
        "latin1",
        "shift_jis",
        "gb18030",
    ];
    Target::new("shears-data", "text", seeds, move |input| {
        std::fs::write(folder.path().join("text.txt"), input).unwrap();
        for (encoding, any_bytes) in encodings.iter().flat_map(|it| [(it, false), (it, true)]) {
            let encoding = encoding.parse().unwrap();
            let read_as = ReadAs {
                encoding,
                any_bytes,
            };
            match Corpus::load_with::<DataError>(&source, read_as, &mut |_| Ok(())) {
                Ok(corpus) => {
                    let (train, validation) = corpus.content.split();
                    let both = [train.bytes(), validation.bytes()].concat();
                    assert!(both == corpus.content.bytes());
                }
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
    })
}

#[test]
fn texts_in_any_encoding() {
    text().run();
}
