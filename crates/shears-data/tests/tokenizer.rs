//! Round trips, determinism, speed, and the file format.

use std::fs;
use std::time::{Duration, Instant};

use shears_data::{Corpus, DataError, Source, Tokenizer, TokenizerKind};

const CHINESE: &str = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\r\n天地玄黃 🐉\0\n  天地玄黃";

fn kinds() -> [TokenizerKind; 3] {
    [
        TokenizerKind::Byte,
        TokenizerKind::Char,
        TokenizerKind::Bpe(300),
    ]
}

#[test]
fn texts_round_trip_even_after_saving() {
    let folder = tempfile::tempdir().unwrap();
    for kind in kinds() {
        let path = folder.path().join("tokenizer.json");
        let built = Tokenizer::build(&kind, CHINESE).unwrap();
        built.save(&path).unwrap();
        let loaded = Tokenizer::load(&path).unwrap();
        let ids = built.encode(CHINESE).unwrap();
        assert_eq!(loaded.encode(CHINESE).unwrap(), ids);
        assert_eq!(loaded.decode(&ids), CHINESE);
        assert_eq!(loaded.describe(), built.describe());
        assert!(ids.iter().all(|id| (*id as usize) < built.vocab_size()));
        let again = folder.path().join("again.json");
        loaded.save(&again).unwrap();
        assert_eq!(fs::read(path).unwrap(), fs::read(again).unwrap());
    }
}

#[test]
fn ids_have_their_meaning() {
    let byte = Tokenizer::build(&TokenizerKind::Byte, "").unwrap();
    assert_eq!(byte.encode("Aé").unwrap(), [65, 0xC3, 0xA9]);
    assert_eq!(byte.describe(), "byte, 256 symbols");
    let char = Tokenizer::build(&TokenizerKind::Char, "龍ba\nab").unwrap();
    assert_eq!(char.encode("\nab龍").unwrap(), [0, 1, 2, 3]);
    assert_eq!(char.describe(), "char, 4 symbols");
    let bpe = Tokenizer::build(&TokenizerKind::Bpe(1000), "no no no no").unwrap();
    assert!(bpe.vocab_size() < 1000 && bpe.vocab_size() > 256);
    assert_eq!(bpe.decode(&bpe.encode(CHINESE).unwrap()), CHINESE);
}

#[test]
fn bpe_training_is_deterministic() {
    let corpus = Corpus::load(&Source::Embedded).unwrap();
    let text = corpus.content.text().unwrap().to_owned() + CHINESE;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let run = || {
        Tokenizer::build(&TokenizerKind::Bpe(2000), &text)
            .unwrap()
            .save(&path)
            .unwrap();
        fs::read(&path).unwrap()
    };
    let first = run();
    assert!((0..4).all(|_| run() == first));
}

#[test]
fn errors_say_what_to_do() {
    let char = Tokenizer::build(&TokenizerKind::Char, "ab\n").unwrap();
    let error = char.encode("ab\naé").unwrap_err();
    assert!(matches!(
        error,
        DataError::UnknownCharacter {
            character: 'é',
            line: 2,
            column: 2
        }
    ));
    assert!(Tokenizer::build(&TokenizerKind::Char, "").is_err());
    assert!(Tokenizer::build(&TokenizerKind::Bpe(256), "a").is_err());
    assert!(char.save("/nonexistent/folder/tokenizer.json").is_err());
    assert!(matches!(
        "bpe:256".parse::<TokenizerKind>(),
        Err(DataError::VocabularySize { .. })
    ));
    assert!("bpe:x".parse::<TokenizerKind>().is_err());
    let error = "words".parse::<TokenizerKind>().unwrap_err().to_string();
    assert!(error.contains("byte, char, bpe:N"), "{error}");
    for text in ["byte", "char", "bpe:257", "some/tokenizer.json"] {
        assert_eq!(text.parse::<TokenizerKind>().unwrap().to_string(), text);
    }
}

#[test]
fn a_repeated_character_is_tokenized_in_linear_time() {
    let text = "a".repeat(1 << 20);
    for kind in kinds() {
        let tokenizer = Tokenizer::build(&kind, &text).unwrap();
        let start = Instant::now();
        let ids = tokenizer.encode(&text).unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{kind}: {:?}",
            start.elapsed()
        );
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn long_texts_are_cut_without_a_trace() {
    // The other regex flags would make a difference here: runs of white space at the cuts.
    let text = "word  two\n\n  three's\t ".repeat(200_000);
    let tokenizer = Tokenizer::build(&TokenizerKind::Bpe(280), &text).unwrap();
    let unit = tokenizer
        .encode(&"word  two\n\n  three's\t ".repeat(10))
        .unwrap();
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids[..unit.len() - 8], unit[..unit.len() - 8]);
    assert_eq!(tokenizer.decode(&ids), text);
}
