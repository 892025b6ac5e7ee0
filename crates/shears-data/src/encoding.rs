//! Decodes bytes to text, and guesses the encoding if that fails.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use encoding_rs::{Decoder, DecoderResult, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE};

use crate::content::Content;
use crate::error::DataError;
use crate::foreign::foreign_kind;

/// A text encoding, by its WHATWG name: `utf-8`, `utf-16`, `latin1`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding(&'static encoding_rs::Encoding);

impl Encoding {
    /// The default encoding.
    pub const UTF_8: Encoding = Encoding(UTF_8);

    /// About how many bytes of UTF-8 a text of so many bytes has. Most texts in UTF-16 are halved.
    #[must_use]
    pub fn decoded(self, size: u64) -> u64 {
        match [UTF_16LE, UTF_16BE].contains(&self.0) {
            true => size.div_ceil(2),
            false => size,
        }
    }
}

impl Default for Encoding {
    fn default() -> Self {
        Encoding::UTF_8
    }
}

impl FromStr for Encoding {
    type Err = DataError;

    fn from_str(given: &str) -> Result<Self, DataError> {
        let known = encoding_rs::Encoding::for_label(given.as_bytes());
        let known = known.filter(|known| *known != REPLACEMENT);
        known
            .map(Encoding)
            .ok_or_else(|| DataError::UnknownEncoding {
                given: given.to_owned(),
            })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.name().to_ascii_lowercase())
    }
}

/// How to read the bytes of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAs {
    /// Their encoding.
    pub encoding: Encoding,
    /// Whether to keep bytes that are not UTF-8 as they are, for the tokenizer `byte`.
    pub any_bytes: bool,
}

impl ReadAs {
    /// Decodes UTF-8, without a byte order mark; messages call it `name`. [`Decoded`] reads other
    /// encodings.
    pub(crate) fn decode(self, bytes: Vec<u8>, name: &str) -> Result<Content<'static>, DataError> {
        let not_text = |offset: usize, hint: String| DataError::NotUtf8 {
            name: name.to_owned(),
            offset,
            hint,
        };
        if !self.any_bytes {
            if let Some(which) = utf_16(&bytes) {
                let offset = std::str::from_utf8(&bytes).map_or_else(|e| e.valid_up_to(), |_| 0);
                return Err(not_text(
                    offset,
                    format!("it looks like {which}: give --encoding {which}"),
                ));
            }
            if bytes.starts_with(b"version https://git-lfs") {
                let what = foreign_kind(&bytes).unwrap_or_default();
                return Err(not_text(0, format!("it is {what}")));
            }
        }
        match String::from_utf8(bytes) {
            Ok(mut text) => {
                if text.starts_with('\u{FEFF}') {
                    text.drain(..'\u{FEFF}'.len_utf8());
                }
                Ok(Content::Text(text.into()))
            }
            Err(error) if self.any_bytes => Ok(Content::Bytes(error.into_bytes().into())),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                Err(not_text(offset, hint(error.as_bytes(), offset)))
            }
        }
    }
}

/// A text in another encoding than UTF-8, decoded part by part while it is read. What is wrong with
/// it is a [`DataError`] within an [`io::Error`].
pub(crate) struct Decoded<'a, R> {
    reader: R,
    asked: Encoding,
    name: &'a str,
    /// None before the first part, which may begin with a byte order mark.
    decoder: Option<Decoder>,
    part: Vec<u8>,
    text: String,
    /// The bytes of `text` that were given on.
    given: usize,
    is_over: bool,
}

impl<'a, R: Read> Decoded<'a, R> {
    /// Messages call the text `name`.
    pub(crate) fn new(reader: R, asked: Encoding, name: &'a str) -> Self {
        Decoded {
            reader,
            asked,
            name,
            decoder: None,
            part: Vec::new(),
            text: String::new(),
            given: 0,
            is_over: false,
        }
    }

    fn next_part(&mut self) -> io::Result<()> {
        self.part.clear();
        let part = self.reader.by_ref().take(SAMPLE as u64);
        { part }.read_to_end(&mut self.part)?;
        self.is_over = self.part.len() < SAMPLE;
        let (decoder, mark) = match &mut self.decoder {
            Some(decoder) => (decoder, 0),
            None => {
                let (encoding, mark) = self.marked().map_err(io::Error::other)?;
                let decoder = encoding.new_decoder_without_bom_handling();
                (self.decoder.insert(decoder), mark)
            }
        };
        let part = &self.part[mark..];
        self.text.clear();
        self.given = 0;
        let most = decoder.max_utf8_buffer_length_without_replacement(part.len());
        self.text.reserve(most.unwrap_or_default());
        let last = self.is_over;
        match decoder.decode_to_string_without_replacement(part, &mut self.text, last) {
            (DecoderResult::InputEmpty, _) => Ok(()),
            _ => Err(io::Error::other(DataError::NotInEncoding {
                name: self.name.to_owned(),
                encoding: self.asked.to_string(),
            })),
        }
    }

    /// The encoding, and the length of the byte order mark, which decides between the two byte
    /// orders of UTF-16.
    fn marked(&self) -> Result<(&'static encoding_rs::Encoding, usize), DataError> {
        let Encoding(asked) = self.asked;
        let is_utf_16 = [UTF_16LE, UTF_16BE].contains(&asked);
        let (encoding, mark) = match encoding_rs::Encoding::for_bom(&self.part) {
            Some((marked, mark)) if marked == asked || is_utf_16 => (marked, mark),
            _ => (asked, 0),
        };
        // Nearly any bytes are valid UTF-16; UTF-8 would become rare letters.
        if mark == 0 && is_utf_16 && is_utf_8(&self.part) {
            return Err(DataError::AnotherEncoding {
                name: self.name.to_owned(),
                encoding: self.asked.to_string(),
            });
        }
        Ok((encoding, mark))
    }
}

impl<R: Read> Read for Decoded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.is_over {
            self.next_part()?;
        }
        let read = { &self.text.as_bytes()[self.given..] }.read(into)?;
        self.given += read;
        Ok(read)
    }
}

/// Whether the start of a text is UTF-8 that cannot be UTF-16 as well, which would have zeros in
/// its spaces and line breaks.
fn is_utf_8(start: &[u8]) -> bool {
    // A part may end within a character.
    let is_whole =
        |error: std::str::Utf8Error| start.len() == SAMPLE && error.error_len().is_none();
    let is_valid = std::str::from_utf8(start).map_or_else(is_whole, |_| true);
    start.len() >= 32 && !start.contains(&0) && is_valid
}

/// How many bytes of a text are examined.
const SAMPLE: usize = 1 << 16;

/// Which UTF-16 the bytes seem to be: by their byte order mark, or by zeros in every second byte of
/// mostly ASCII text.
fn utf_16(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Some("utf-16");
    }
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let (pairs, _) = sample.as_chunks::<2>();
    let zeros = |place: usize| pairs.iter().filter(|pair| pair[place] == 0).count();
    let (first, second) = (zeros(0), zeros(1));
    let is_most = |count: usize| count * 10 >= pairs.len() * 6 && count >= 4;
    match (first, second) {
        (few, most) if is_most(most) && few * 20 <= most => Some("utf-16le"),
        (most, few) if is_most(most) && few * 20 <= most => Some("utf-16be"),
        _ => None,
    }
}

/// What bytes that are not UTF-8 from `offset` on seem to be, and what to do about it.
fn hint(bytes: &[u8], offset: usize) -> String {
    if let Some(what) = foreign_kind(bytes) {
        return format!("it is {what}");
    }
    let sample = &bytes[..bytes.len().min(offset + SAMPLE)];
    let is_text = |byte: &u8| *byte >= b' ' || b"\t\n\r\x0C\x1B".contains(byte);
    if !sample.iter().all(is_text) {
        return "it does not look like text; the tokenizer `byte` takes any bytes".to_owned();
    }
    let (mut whole, mut broken) = (0_usize, 0_usize);
    for chunk in sample.utf8_chunks() {
        whole += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        broken += usize::from(!chunk.invalid().is_empty());
    }
    if whole > broken {
        let line = 1 + bytes[..offset]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let more = if broken > 1 { " and others are" } else { " is" };
        return format!("most of it is UTF-8, but line {line}{more} not: fix the file");
    }
    "it looks like latin1 (or another single-byte encoding): give --encoding latin1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], encoding: &str, any_bytes: bool) -> Result<Content<'static>, DataError> {
        let encoding = encoding.parse().unwrap();
        if encoding == Encoding::UTF_8 {
            let reading = ReadAs {
                encoding,
                any_bytes,
            };
            return reading.decode(bytes.to_vec(), "x");
        }
        let mut text = String::new();
        match Decoded::new(bytes, encoding, "x").read_to_string(&mut text) {
            Ok(_) => Ok(Content::Text(text.into())),
            Err(error) => Err(error.downcast().unwrap()),
        }
    }

    fn utf_16_of(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    }

    #[test]
    fn texts_in_other_encodings_are_read() {
        let text = "caf\u{e9}, \u{9f8d}";
        let little = utf_16_of(text, u16::to_le_bytes);
        let big = utf_16_of(&format!("\u{FEFF}{text}"), u16::to_be_bytes);
        for (bytes, encoding) in [(&little, "utf-16"), (&little, "UTF-16LE"), (&big, "utf-16")] {
            let content = read(bytes, encoding, false).unwrap();
            assert_eq!(content.text(), Some(text), "{encoding}");
        }
        let content = read(b"caf\xE9", "latin1", false).unwrap();
        assert_eq!(content.text(), Some("caf\u{e9}"));
        let error = read(b"a\xFF", "shift_jis", false).unwrap_err().to_string();
        assert_eq!(error, "x is not text in shift_jis: give another --encoding");
        let plain = "The quick brown fox jumps over the lazy dog.";
        for encoding in ["utf-16", "utf-16be"] {
            let error = read(plain.as_bytes(), encoding, false).unwrap_err();
            assert!(error.to_string().contains("is UTF-8"), "{error}");
        }
        for unknown in ["utf-99", "iso-2022-kr", ""] {
            let error = unknown.parse::<Encoding>().unwrap_err().to_string();
            assert!(error.contains("unknown encoding"), "{error}");
        }
    }

    #[test]
    fn encodings_are_recognised() {
        let long = "The quick brown fox jumps over the lazy dog.\n".repeat(20);
        let marked = format!("\u{FEFF}{long}");
        let mixed = [
            long.as_bytes(),
            "\u{e9}\u{e9}\u{e9}\ncaf".as_bytes(),
            b"\xE9\n",
        ]
        .concat();
        for (bytes, part) in [
            (utf_16_of(&marked, u16::to_le_bytes), "--encoding utf-16"),
            (utf_16_of(&long, u16::to_le_bytes), "--encoding utf-16le"),
            (utf_16_of(&long, u16::to_be_bytes), "--encoding utf-16be"),
            (b"d\xE9j\xE0 vu".to_vec(), "--encoding latin1"),
            (mixed, "line 22 is not"),
            (b"\x00\x01\xFFabc".to_vec(), "does not look like text"),
        ] {
            let error = read(&bytes, "utf-8", false).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            // With `any_bytes` they are kept as they are.
            let content = read(&bytes, "utf-8", true).unwrap();
            assert!(content.bytes() == bytes);
        }
        let zeros = "a\0b\0\0c".repeat(3);
        assert_eq!(
            read(zeros.as_bytes(), "utf-8", false).unwrap().text(),
            Some(zeros.as_str())
        );
    }
}
