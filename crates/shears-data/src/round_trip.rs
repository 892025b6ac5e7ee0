//! Measures what a tokenizer loses of a text: some drop unknown characters, others change letters.

use std::collections::BTreeMap;

use crate::error::DataError;
use crate::tokenizer::Tokenizer;

/// The most bytes of text that are tried; of a longer text, evenly spread pieces.
const TRIED: usize = 4 << 20;
/// The number of pieces.
const PIECES: usize = 8;

/// The result of encoding and decoding a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The number of characters tried.
    pub characters: usize,
    /// How many of them were lost.
    pub lost: usize,
    /// The character that was lost most often.
    pub most_lost: Option<char>,
    /// The number of decoded characters, including wrong ones.
    pub decoded: usize,
}

impl RoundTrip {
    /// Encodes and decodes a text, or pieces of a long one.
    ///
    /// A character is lost if it is decoded less often than it was encoded; so an upper-case letter
    /// that becomes lower-case is lost.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn of(tokenizer: &Tokenizer, text: &str) -> Result<Self, DataError> {
        let mut found = RoundTrip {
            characters: 0,
            lost: 0,
            most_lost: None,
            decoded: 0,
        };
        // Negative for characters that were decoded more often.
        let mut missing: BTreeMap<char, i64> = BTreeMap::new();
        if tokenizer.keeps_all() {
            let characters = text.chars().count();
            return Ok(RoundTrip {
                characters,
                decoded: characters,
                ..found
            });
        }
        for piece in pieces(text) {
            for character in piece.chars() {
                *missing.entry(character).or_default() += 1;
                found.characters += 1;
            }
            for character in tokenizer.decode(&tokenizer.encode(piece)?).chars() {
                *missing.entry(character).or_default() -= 1;
                found.decoded += 1;
            }
        }
        missing.retain(|_, times| *times > 0);
        let most = missing.iter().max_by_key(|(_, times)| **times);
        found.most_lost = most.map(|(character, _)| *character);
        found.lost = missing.values().sum::<i64>() as usize;
        Ok(found)
    }

    /// The share of characters that was lost.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.lost as f64 / self.characters.max(1) as f64
    }

    /// The number of decoded characters for this many encoded ones.
    #[must_use]
    pub fn decoded_of(&self, characters: usize) -> usize {
        match self.lost {
            0 => characters,
            _ => {
                let ratio = self.decoded as f64 / self.characters.max(1) as f64;
                (characters as f64 * ratio).round() as usize
            }
        }
    }
}

/// The text, or pieces of it that start with a word.
fn pieces(text: &str) -> Vec<&str> {
    if text.len() <= TRIED {
        return vec![text];
    }
    let word_from = |place: usize| {
        let start = text.ceil_char_boundary(place);
        let gap = text[start..].find(char::is_whitespace).unwrap_or(0);
        let rest = text[start + gap..].trim_start();
        text.len() - rest.len()
    };
    let starts = (0..PIECES).map(|piece| word_from(text.len() / PIECES * piece));
    let end = |start: usize| text.floor_char_boundary(start + TRIED / PIECES);
    starts.map(|start| &text[start..end(start)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_start_with_words() {
        let text = "na\u{ef}ve words ".repeat(TRIED / 6);
        let pieces = pieces(&text);
        assert_eq!(pieces.len(), PIECES);
        for piece in pieces {
            assert!(
                piece.starts_with("na\u{ef}ve") || piece.starts_with("words"),
                "{piece:.20}"
            );
            assert!(piece.len() <= TRIED / PIECES);
        }
        assert_eq!(super::pieces("short"), ["short"]);
    }
}
