//! Replaces the characters of a text by their ids, without memory for both.

use std::collections::HashMap;

use crate::error::DataError;
use crate::tokens::Tokens;

/// The bytes that are copied at a time, to be read while ids are written over them.
const PIECE: usize = 1 << 16;
/// The ids of ASCII characters are looked up in a table, which is ten times as fast.
const ASCII: usize = 128;

/// The ids, all below 256, of the characters of a text in UTF-8. No id is longer than its
/// character, so that what is written never reaches what is still to be read.
pub(super) fn characters(mut text: Vec<u8>, ids: &HashMap<char, u32>) -> Result<Tokens, DataError> {
    let id_of = |character: char| ids.get(&character).and_then(|id| u8::try_from(*id).ok());
    let table: [Option<u8>; ASCII] = std::array::from_fn(|code| id_of(char::from(code as u8)));
    let (mut read, mut written) = (0, 0);
    let mut piece = Vec::with_capacity(PIECE);
    while read < text.len() {
        let is_start = |place: &usize| text.get(*place).is_none_or(|byte| byte & 0xC0 != 0x80);
        let last = text.len().min(read + PIECE);
        let end = (read + 1..=last).rev().find(is_start).unwrap_or(last);
        piece.clear();
        piece.extend_from_slice(&text[read..end]);
        read = end;
        for character in String::from_utf8_lossy(&piece).chars() {
            let known = table.get(character as usize);
            let id = known.map_or_else(|| id_of(character), |id| *id);
            let Some(id) = id else {
                return Err(unknown(&text[..written], id_of('\n'), character));
            };
            text[written] = id;
            written += 1;
        }
    }
    text.truncate(written);
    text.shrink_to_fit();
    Ok(Tokens::of_bytes(text))
}

/// The error for a character after those with the ids `before`.
fn unknown(before: &[u8], newline: Option<u8>, character: char) -> DataError {
    let is_newline = |id: &u8| Some(*id) == newline;
    let line_start = before.iter().rposition(is_newline).map_or(0, |at| at + 1);
    DataError::UnknownCharacter {
        character,
        line: before.iter().filter(|id| is_newline(id)).count() + 1,
        column: before.len() - line_start + 1,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use crate::content::Content;
    use crate::tokenizer::{Tokenizer, TokenizerKind};

    fn owned(text: &str) -> Content<'static> {
        Content::Text(Cow::Owned(text.to_owned()))
    }

    /// The ids and the errors are those of a text that stays as it is.
    #[test]
    fn a_text_that_is_given_away_has_the_ids_of_one_that_is_kept() {
        let some = "a\u{e9}\n\u{9f8d}b \u{1f600}\n";
        let long = some.repeat(3 * super::PIECE / some.len());
        let char = Tokenizer::build(&TokenizerKind::Char, some).unwrap();
        let byte = Tokenizer::build(&TokenizerKind::Byte, "").unwrap();
        for tokenizer in [&char, &byte] {
            for text in ["", "a", some, &long, &long[1..]] {
                assert!(tokenizer.reuses(&owned(text)) && !tokenizer.reuses(&text.into()));
                let (given, kept) = (tokenizer.tokens(owned(text)), tokenizer.tokens(text));
                let (given, kept) = (given.unwrap(), kept.unwrap());
                assert_eq!(given.slice(0..given.len()), kept.slice(0..kept.len()));
                let given = tokenizer.tokens_of_parts(owned(text)).unwrap();
                let kept = tokenizer.tokens_of_parts(text.into()).unwrap();
                for (given, kept) in [(given.0, kept.0), (given.1, kept.1)] {
                    assert_eq!(given.slice(0..given.len()), kept.slice(0..kept.len()));
                }
            }
        }
        for text in ["x", "a\n\u{e9}x", &format!("{long}ab\u{e9}\u{e8}")] {
            let given = char.tokens(owned(text)).unwrap_err().to_string();
            assert_eq!(given, char.tokens(text).unwrap_err().to_string());
        }
    }
}
