//! Streamed text: whole characters, cut exactly before the first stop text.

use burn::tensor::Device;
use shears_data::{Tokenizer, TokenizerKind};
use shears_generate::{Ending, GenerateError, Generator, Limits, Sampler, generate_text};
use shears_model::{Architecture, LanguageModel, lstm};

use crate::models::{Broken, Counting, GREEDY, PLAIN, Scripted, random};

/// A tokenizer with one token per byte.
fn bytes() -> Tokenizer {
    Tokenizer::build(&TokenizerKind::Byte, "").unwrap()
}

/// The pieces of a text with one token per byte.
struct Written {
    pieces: Vec<String>,
    ending: Option<Ending>,
    tokens: usize,
}

fn write(text: &str, tokens: usize, stop: &[&str]) -> Written {
    let script: Vec<u32> = text.bytes().map(u32::from).collect();
    let model = Scripted::new(&script, 256);
    let generator = Generator::new(&model, &Device::default());
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let limits = Limits {
        tokens,
        stop: stop.iter().map(|stop| stop.to_string()).collect(),
        end: None,
    };
    let tokenizer = bytes();
    let mut stream = generate_text(generator, sampler, &tokenizer, &[], 10, limits).unwrap();
    let pieces = stream.by_ref().map(Result::unwrap).collect();
    assert!(stream.next().is_none());
    Written {
        pieces,
        ending: stream.ending(),
        tokens: stream.tokens(),
    }
}

#[track_caller]
fn check(text: &str, stop: &[&str], expected: &[&str], ending: Ending) {
    let written = write(text, text.len(), stop);
    assert_eq!(written.pieces, expected);
    assert_eq!(written.ending, Some(ending));
}

#[test]
fn a_text_has_as_many_tokens_as_requested() {
    let written = write("abcdef", 4, &[]);
    assert_eq!(written.pieces, ["a", "b", "c", "d"]);
    assert_eq!((written.tokens, written.ending), (4, Some(Ending::Tokens)));
    let written = write("abc", 0, &[]);
    assert!(written.pieces.is_empty());
    assert_eq!((written.tokens, written.ending), (0, Some(Ending::Tokens)));
}

#[test]
fn characters_of_several_tokens_arrive_whole() {
    check("aé漢🦀b", &[], &["a", "é", "漢", "🦀", "b"], Ending::Tokens);
    // The crab is cut after three of its four bytes: no replacement character appears.
    assert_eq!(write("aé🦀", 6, &[]).pieces, ["a", "é"]);
}

#[test]
fn a_stop_text_over_several_tokens_is_cut_exactly() {
    let written = write("one\nEND two", 100, &["\nEND"]);
    assert_eq!(written.pieces, ["o", "n", "e"]);
    assert_eq!((written.tokens, written.ending), (7, Some(Ending::Stop)));
    check("END", &["END"], &[], Ending::Stop);
}

#[test]
fn a_partial_stop_text_is_held_back_and_then_released() {
    check("aENTb", &["END"], &["a", "ENT", "b"], Ending::Tokens);
    check("aEN", &["END"], &["a", "EN"], Ending::Tokens);
    check("EENDx", &["END"], &["E"], Ending::Stop);
}

#[test]
fn the_earliest_of_overlapping_stop_texts_wins() {
    check("xabcdef", &["cd", "abcdef"], &["x"], Ending::Stop);
    check("xabcdxx", &["cd", "abcdef"], &["x", "ab"], Ending::Stop);
    check("xabcd", &["cd", "abcdef"], &["x", "ab"], Ending::Stop);
    check("xabc", &["bc", "ab"], &["x"], Ending::Stop);
}

#[test]
fn stop_texts_may_contain_characters_of_several_tokens() {
    check("aé漢字!", &["漢字"], &["a", "é"], Ending::Stop);
    check("a漢x", &["漢字"], &["a", "漢x"], Ending::Tokens);
    // Both characters start with the same byte; only the second is the stop text.
    check("aéè", &["è"], &["a", "é"], Ending::Stop);
}

#[test]
fn an_empty_stop_text_is_an_error() {
    let model = Counting::new(Scripted::new(&[1], 256));
    let generator = Generator::new(&model, &Device::default());
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let limits = Limits {
        tokens: 1,
        stop: vec![String::new()],
        end: None,
    };
    let tokenizer = bytes();
    let stream = generate_text(generator, sampler, &tokenizer, &[], 0, limits);
    assert_eq!(stream.err(), Some(GenerateError::EmptyStop));
    assert_eq!(model.reads(), 0);
}

/// The text sampled from a small random model, with tokens as bytes.
fn random_text<M: LanguageModel>(model: &M, prompt: &[u32], seed: u64) -> String {
    let generator = Generator::new(model, &Device::default());
    let sampler = Sampler::new(PLAIN, seed).unwrap();
    let limits = Limits {
        tokens: 30,
        stop: Vec::new(),
        end: None,
    };
    let tokenizer = bytes();
    let stream = generate_text(generator, sampler, &tokenizer, prompt, 7, limits).unwrap();
    stream.map(Result::unwrap).collect()
}

#[test]
fn the_seed_decides_the_text() {
    let model = random(lstm, Architecture::Lstm, 0);
    assert_eq!(
        random_text(&model, &[1, 2], 1),
        random_text(&model, &[1, 2], 1)
    );
    assert_ne!(
        random_text(&model, &[1, 2], 1),
        random_text(&model, &[1, 2], 2)
    );
    assert_eq!(random_text(&model, &[1, 2], 1).len(), 30);
}

#[test]
fn without_a_prompt_the_text_starts_after_the_start_token() {
    let model = Counting::new(random(lstm, Architecture::Lstm, 0));
    assert_eq!(random_text(&model, &[], 1), random_text(&model, &[7], 1));
    assert_eq!(model.reads(), 2 * 30);
}

#[test]
fn an_error_ends_the_stream() {
    let model = Broken::after(65);
    let generator = Generator::new(&model, &Device::default());
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let tokenizer = bytes();
    let limits = until(9, None);
    let mut stream = generate_text(generator, sampler, &tokenizer, &[], 0, limits).unwrap();
    assert_eq!(stream.next(), Some(Ok("A".to_string())));
    assert_eq!(stream.next(), Some(Err(GenerateError::NanLogits)));
    assert_eq!(stream.next(), None);
    assert_eq!(stream.ending(), Some(Ending::Error));
}

/// Limits: `tokens` tokens, or up to the token `end`.
fn until(tokens: usize, end: Option<u32>) -> Limits {
    Limits {
        tokens,
        stop: Vec::new(),
        end,
    }
}

#[test]
fn a_token_that_the_tokenizer_lacks_is_never_sampled() {
    // The tokenizer lacks 300, although the embedding has a row for it.
    let model = Scripted::new(&[65, 300, 66], 400);
    let generator = Generator::new(&model, &Device::default());
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let tokenizer = bytes();
    let limits = until(3, None);
    let stream = generate_text(generator, sampler, &tokenizer, &[], 0, limits).unwrap();
    let text: Result<String, GenerateError> = stream.collect();
    // The other logits are equal, so the lowest id is sampled instead.
    assert_eq!(text.unwrap(), "A\0B");
}

#[test]
fn the_end_token_is_not_part_of_the_text() {
    for (end, expected, ending) in [
        (Some(66), "AA", Ending::End),
        (None, "AABA", Ending::Tokens),
    ] {
        let model = Scripted::new(&[65, 65, 66, 65], 256);
        let generator = Generator::new(&model, &Device::default());
        let sampler = Sampler::new(GREEDY, 0).unwrap();
        let tokenizer = bytes();
        let limits = until(4, end);
        let mut stream = generate_text(generator, sampler, &tokenizer, &[], 0, limits).unwrap();
        let text: String = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!((text.as_str(), stream.ending()), (expected, Some(ending)));
    }
}

#[test]
fn a_prompt_with_an_unknown_token_is_an_error() {
    let model = Counting::new(Scripted::new(&[65], 256));
    for (prompt, start) in [(&[65, 256][..], 0), (&[], 256)] {
        let generator = Generator::new(&model, &Device::default());
        let sampler = Sampler::new(GREEDY, 0).unwrap();
        let limits = Limits {
            tokens: 1,
            stop: Vec::new(),
            end: None,
        };
        let tokenizer = bytes();
        let stream = generate_text(generator, sampler, &tokenizer, prompt, start, limits);
        let error = GenerateError::UnknownToken {
            token: 256,
            vocabulary: 256,
        };
        assert_eq!(stream.err(), Some(error));
    }
    assert_eq!(model.reads(), 0);
}
