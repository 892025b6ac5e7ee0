//! Ids one by one to text in whole characters.

use crate::tokenizer::{Piece, Tokenizer};

/// After this many tokens without a whole character, they count as text as they are.
const HELD_TOKENS_MAX: usize = 32;

/// Turns ids into text as they arrive. Bytes of an unfinished character wait for the rest of it;
/// U+FFFD replaces only what can no longer become a character.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The start of a character: at most three bytes between calls.
    unfinished: Vec<u8>,
    /// For tokens that depend on context: those last shown, then those held back.
    ids: Vec<u32>,
    shown: usize,
}

impl<'a> StreamDecoder<'a> {
    /// Starts at the beginning of a text.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            unfinished: Vec::new(),
            ids: Vec::new(),
            shown: 0,
        }
    }

    /// Starts after these ids, whose text is not repeated: the next text may need a space before
    /// it.
    #[must_use]
    pub fn after(tokenizer: &'a Tokenizer, ids: &[u32]) -> Self {
        let in_context = |id: &&u32| matches!(tokenizer.piece(**id), Piece::InContext);
        let ids: Vec<u32> = ids.iter().filter(in_context).copied().collect();
        let ids = ids[ids.len().saturating_sub(HELD_TOKENS_MAX)..].to_vec();
        Self {
            shown: ids.len(),
            ids,
            ..Self::new(tokenizer)
        }
    }

    /// Adds the next id; returns the text that is now certain, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        match self.tokenizer.piece(id) {
            Piece::Bytes(bytes) => {
                self.unfinished.extend_from_slice(bytes);
                non_empty(self.whole_characters())
            }
            Piece::Character(character) => {
                let mut text = self.finish().unwrap_or_default();
                text.push(character);
                Some(text)
            }
            Piece::InContext => {
                self.ids.push(id);
                self.difference(self.ids.len() - self.shown >= HELD_TOKENS_MAX)
            }
        }
    }

    /// Ends the text, and returns what was held back.
    pub fn finish(&mut self) -> Option<String> {
        if self.ids.len() > self.shown {
            return self.difference(true);
        }
        let rest = std::mem::take(&mut self.unfinished);
        non_empty(String::from_utf8_lossy(&rest).into_owned())
    }

    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut start = 0;
        while let Err(error) = std::str::from_utf8(&self.unfinished[start..]) {
            let valid_end = start + error.valid_up_to();
            text.push_str(&String::from_utf8_lossy(&self.unfinished[start..valid_end]));
            start = valid_end;
            let Some(invalid) = error.error_len() else {
                self.unfinished.drain(..start);
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            start += invalid;
        }
        text.push_str(&String::from_utf8_lossy(&self.unfinished[start..]));
        self.unfinished.clear();
        text
    }

    /// The text that the ids held back add to that of those shown last. Only these two groups are
    /// decoded, so the cost of a token does not grow with the text.
    fn difference(&mut self, all: bool) -> Option<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown]);
        let now = self.tokenizer.decode(&self.ids);
        if !all && (now.len() <= before.len() || now.ends_with(char::REPLACEMENT_CHARACTER)) {
            return None;
        }
        let common: usize = before
            .chars()
            .zip(now.chars())
            .take_while(|(a, b)| a == b)
            .map(|(character, _)| character.len_utf8())
            .sum();
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        non_empty(now[common..].to_owned())
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
