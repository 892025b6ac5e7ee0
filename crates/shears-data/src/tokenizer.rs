//! Text to ids and back; every tokenizer can be stored as a Hugging Face `tokenizer.json`.

mod bounds;
mod byte_level;
mod check;
mod format;
mod guard;
mod in_place;
mod kind;
mod library;
mod probe;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

pub use self::byte_level::symbols as byte_alphabet;
pub use self::guard::is_tokenizing;
pub use self::kind::TokenizerKind;
use self::library::Library;
use crate::content::Content;
use crate::corpus::unreadable;
use crate::error::DataError;
use crate::limits::{BPE_SIZE_MAX, BPE_SIZE_MIN};
use crate::tokens::{Tokens, Writer};

/// Three times the largest published `tokenizer.json`; a longer file is something else.
const FILE_BYTES_MAX: u64 = 100 << 20;

/// The usual bytes per token of a vocabulary of some thousand tokens, on the text it was made for.
const BYTES_OF_A_TOKEN: u64 = 4;

/// The memory of the tokenizers library itself: its pattern, its cache, what it has read.
const BYTES_OF_THE_LIBRARY: u64 = 6_000_000;

/// The memory of the library for each token: its text, its merge, its entries in both directions,
/// and its line of the file.
const BYTES_OF_A_VOCABULARY: u64 = 900;

/// Turns text into ids and ids into text.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    engine: Engine,
    json: String,
    /// The type of the model, as in `describe`.
    model: String,
    name: String,
}

#[derive(Debug, Clone)]
enum Engine {
    Byte,
    Char {
        symbols: Vec<char>,
        ids: HashMap<char, u32>,
    },
    /// Tokens are sequences of bytes, listed by id.
    ByteLevel {
        library: Library,
        bytes: Vec<Vec<u8>>,
    },
    Other(Library),
}

/// The units of a tokenizer by id, if they do not depend on context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units<'a> {
    /// The 256 bytes.
    Bytes,
    /// These characters.
    Characters(&'a [char]),
    /// Something else, as described by [`Tokenizer::json`].
    Other,
}

/// The text of a single id, as far as it does not depend on its neighbours.
pub(crate) enum Piece<'a> {
    Character(char),
    Bytes(&'a [u8]),
    /// The text of an id depends on the ids around it.
    InContext,
}

impl Tokenizer {
    /// Builds or loads a tokenizer. The vocabulary of `char` is all characters of the given text,
    /// by code point, so the text should include the validation part. `bpe:N` learns from the text,
    /// and has fewer than N tokens if the text has too few repeated pairs.
    ///
    /// # Errors
    ///
    /// If the text is empty for `char`, if N is out of bounds, or as [`Tokenizer::load`].
    pub fn build(kind: &TokenizerKind, training_text: &str) -> Result<Self, DataError> {
        let name = kind.to_string();
        let json = match kind {
            TokenizerKind::Byte => format::byte_json(),
            TokenizerKind::Char => {
                // One by one: collecting into a set would first buffer all characters.
                let mut symbols = BTreeSet::new();
                symbols.extend(training_text.chars());
                format::char_json(&symbols.into_iter().collect::<Vec<_>>())
            }
            TokenizerKind::Bpe(size) if (BPE_SIZE_MIN..=BPE_SIZE_MAX).contains(size) => {
                library::train_bpe(*size, training_text).map_err(|problem| {
                    DataError::Tokenizer {
                        name: name.clone(),
                        problem,
                    }
                })?
            }
            TokenizerKind::Bpe(size) => {
                return Err(DataError::VocabularySize {
                    given: size.to_string(),
                });
            }
            TokenizerKind::File(path) => return Self::load(path),
        };
        Self::from_json(json, name)
    }

    /// Loads any `tokenizer.json`. Its truncation and padding are ignored.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is something else, or has ids that are not `0..n`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|source| unreadable(path, source))?;
        let json = if bytes.len() as u64 > FILE_BYTES_MAX {
            Err("it is larger than 100 MiB: give a tokenizer.json".to_owned())
        } else {
            String::from_utf8(bytes)
                .map_err(|_| "it is not UTF-8 text: give a tokenizer.json".to_owned())
        };
        let json = json.map_err(|problem| DataError::Tokenizer {
            name: name.clone(),
            problem,
        })?;
        Self::from_json(json, name)
    }

    /// A char tokenizer; the id of a character is its index.
    ///
    /// # Errors
    ///
    /// If there are no characters, or duplicates.
    pub fn of_characters(symbols: &[char]) -> Result<Self, DataError> {
        Self::from_json(format::char_json(symbols), "char".to_owned())
    }

    /// A tokenizer from the text of a `tokenizer.json`; messages call it `name`.
    ///
    /// # Errors
    ///
    /// If it is something else, or has ids that are not `0..n`.
    pub fn from_json(json: String, name: String) -> Result<Self, DataError> {
        match Engine::of(&json) {
            Ok((engine, model)) => Ok(Self {
                engine,
                json,
                model,
                name,
            }),
            Err(problem) => Err(DataError::Tokenizer {
                name,
                problem: guard::one_line(&problem),
            }),
        }
    }

    /// Writes the tokenizer as `tokenizer.json`; a loaded one unchanged.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        let path = path.as_ref();
        let written = File::create(path).and_then(|mut file| {
            file.write_all(self.json.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|source| DataError::Unwritable {
            path: path.to_owned(),
            source,
        })
    }

    /// The text that [`Tokenizer::save`] writes.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The units of its tokens.
    #[must_use]
    pub fn units(&self) -> Units<'_> {
        match &self.engine {
            Engine::Byte => Units::Bytes,
            Engine::Char { symbols, .. } => Units::Characters(symbols),
            Engine::ByteLevel { .. } | Engine::Other(_) => Units::Other,
        }
    }

    /// The SHA-256 of what [`Tokenizer::save`] writes, in hexadecimal: a run can only resume with
    /// the tokenizer that it was started with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::hash::sha256_hex(self.json.as_bytes())
    }

    /// The ids of a text, without special tokens around them.
    ///
    /// # Errors
    ///
    /// If a char tokenizer lacks a character, or a foreign one cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::new();
        self.for_each_id(text, &mut |id| ids.push(id))?;
        Ok(ids)
    }

    /// The ids of a whole corpus, in as little memory as possible: see [`Tokenizer::reuses`].
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn tokens<'a>(&self, content: impl Into<Content<'a>>) -> Result<Tokens, DataError> {
        let content = content.into();
        if self.reuses(&content) {
            return match &self.engine {
                Engine::Char { ids, .. } => in_place::characters(content.into_bytes(), ids),
                _ => Ok(Tokens::of_bytes(content.into_bytes())),
            };
        }
        let length = content.bytes().len();
        let expected = match &self.engine {
            Engine::Byte => length,
            Engine::Char { .. } => content.characters(),
            Engine::ByteLevel { .. } | Engine::Other(_) => length / BYTES_OF_A_TOKEN as usize,
        };
        let mut tokens = Writer::new(self.vocab_size(), expected);
        match (&content, &self.engine) {
            (Content::Text(text), _) => self.for_each_id(text, &mut |id| tokens.push(id))?,
            (Content::Bytes(bytes), Engine::Byte) => {
                bytes.iter().for_each(|byte| tokens.push(u32::from(*byte)));
            }
            (Content::Bytes(_), _) => return Err(self.fails("it takes text, not any bytes")),
        }
        Ok(tokens.finish())
    }

    /// The ids of the training and the validation part of a text: see [`Content::split`].
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn tokens_of_parts(&self, content: Content<'_>) -> Result<(Tokens, Tokens), DataError> {
        let (train, validation) = content.split();
        if !self.reuses(&content) {
            return Ok((self.tokens(train)?, self.tokens(validation)?));
        }
        let place = match &self.engine {
            Engine::Char { .. } => train.characters(),
            _ => train.bytes().len(),
        };
        Ok(self.tokens(content)?.split_at(place))
    }

    /// Whether the ids of this text take its place in memory: a character or byte of a text that
    /// is given away becomes an id of one byte.
    #[must_use]
    pub fn reuses(&self, content: &Content<'_>) -> bool {
        let has_short_ids = Tokens::bytes_each(self.vocab_size()) == 1;
        match (&self.engine, content) {
            (Engine::Byte, Content::Text(Cow::Owned(_)) | Content::Bytes(Cow::Owned(_))) => true,
            (Engine::Char { .. }, Content::Text(Cow::Owned(_))) => has_short_ids,
            _ => false,
        }
    }

    /// Whether it accepts any bytes, and not only text.
    #[must_use]
    pub fn takes_any_bytes(&self) -> bool {
        matches!(self.engine, Engine::Byte)
    }

    /// Whether every text that it encodes is decoded unchanged.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        match &self.engine {
            Engine::Byte | Engine::Char { .. } => true,
            Engine::ByteLevel { library, .. } | Engine::Other(library) => library.is_plain(),
        }
    }

    fn fails(&self, problem: impl Into<String>) -> DataError {
        DataError::Tokenizer {
            name: self.name.clone(),
            problem: problem.into(),
        }
    }

    /// The approximate memory in bytes of calling [`Tokenizer::tokens`] on these two texts, one
    /// after the other, where it does not reuse theirs.
    #[must_use]
    pub fn memory_of_tokens(&self, first: &Content<'_>, second: &Content<'_>) -> u64 {
        let lengths = [first, second].map(|content| content.bytes().len() as u64);
        let bytes = lengths[0] + lengths[1];
        let each = Tokens::bytes_each(self.vocab_size()) as u64;
        match &self.engine {
            Engine::Byte => bytes * each,
            Engine::Char { .. } => (first.characters() + second.characters()) as u64 * each,
            Engine::ByteLevel { library, .. } | Engine::Other(library) => {
                let longest = lengths[0].max(lengths[1]);
                bytes / BYTES_OF_A_TOKEN * each + library.memory_of_encoding(longest)
            }
        }
    }

    /// The approximate memory of the tokenizer itself, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        match &self.engine {
            Engine::Byte | Engine::Char { .. } => 0,
            Engine::ByteLevel { .. } | Engine::Other(_) => {
                BYTES_OF_THE_LIBRARY + BYTES_OF_A_VOCABULARY * self.vocab_size() as u64
            }
        }
    }

    fn for_each_id(&self, text: &str, take: &mut dyn FnMut(u32)) -> Result<(), DataError> {
        match &self.engine {
            Engine::Byte => text.bytes().for_each(|byte| take(u32::from(byte))),
            Engine::Char { ids, .. } => {
                for (offset, character) in text.char_indices() {
                    let id = ids.get(&character);
                    take(*id.ok_or_else(|| unknown(text, offset, character))?);
                }
            }
            Engine::ByteLevel { library, .. } | Engine::Other(library) => {
                let encoded = library.encode(text, take);
                encoded.map_err(|problem| self.fails(problem))?;
            }
        }
        Ok(())
    }

    /// The text of ids, including special tokens. Invalid UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        if let Engine::Other(library) = &self.engine {
            return library.decode(ids);
        }
        let mut bytes = Vec::with_capacity(ids.len());
        for id in ids {
            match self.piece(*id) {
                Piece::Character(character) => {
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Piece::Bytes(piece) => bytes.extend_from_slice(piece),
                Piece::InContext => {}
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The number of ids, which are all of `0..vocab_size()`.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match &self.engine {
            Engine::Byte => 256,
            Engine::Char { symbols, .. } => symbols.len(),
            Engine::ByteLevel { library, .. } | Engine::Other(library) => library.size,
        }
    }

    /// Kind and size in words, such as "char, 65 symbols".
    #[must_use]
    pub fn describe(&self) -> String {
        let unit = match &self.engine {
            Engine::Byte | Engine::Char { .. } => "symbol",
            Engine::ByteLevel { .. } | Engine::Other(_) => "token",
        };
        let size = self.vocab_size();
        format!(
            "{}, {size} {unit}{}",
            self.model,
            if size == 1 { "" } else { "s" }
        )
    }

    pub(crate) fn piece(&self, id: u32) -> Piece<'_> {
        static ALL_BYTES: [u8; 256] = {
            let mut bytes = [0; 256];
            let mut byte = 0;
            while byte < 256 {
                bytes[byte] = byte as u8;
                byte += 1;
            }
            bytes
        };
        let place = id as usize;
        let bytes = match &self.engine {
            Engine::Byte => ALL_BYTES.get(place..place.saturating_add(1)),
            Engine::Char { symbols, .. } => {
                let known = symbols.get(place).copied();
                return Piece::Character(known.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Engine::ByteLevel { bytes, .. } => bytes.get(place).map(Vec::as_slice),
            Engine::Other(_) => return Piece::InContext,
        };
        bytes.map_or(Piece::Character(char::REPLACEMENT_CHARACTER), Piece::Bytes)
    }
}

impl Engine {
    fn of(json: &str) -> Result<(Self, String), String> {
        let value: Value = serde_json::from_str(json).map_err(|error| explain(json, &error))?;
        check::check(&value)?;
        bounds::check(&value)?;
        if format::is_byte(&value) {
            return Ok((Self::Byte, "byte".to_owned()));
        }
        if let Some(symbols) = format::char_symbols(&value) {
            let ids = symbols.iter().copied().zip(0..).collect();
            return Ok((Self::Char { symbols, ids }, "char".to_owned()));
        }
        let model = value["model"]["type"]
            .as_str()
            .unwrap_or("tokenizer")
            .to_lowercase();
        let library = Library::load(json, &value)?;
        let engine = if format::has_byte_level_decoder(&value) {
            Self::ByteLevel {
                bytes: library.token_bytes(),
                library,
            }
        } else {
            Self::Other(library)
        };
        Ok((engine, guard::one_line(&model)))
    }
}

fn explain(json: &str, error: &serde_json::Error) -> String {
    let start = json.trim_start();
    if start.is_empty() {
        "the file is empty: train or download it again".to_owned()
    } else if start.starts_with("version https://git-lfs") {
        "it is a git-LFS pointer: fetch the real file with `git lfs pull`".to_owned()
    } else if start.starts_with('<') {
        "it is a web page: download the file itself".to_owned()
    } else if error.is_eof() {
        format!(
            "it is cut off at line {}: copy or download it again",
            error.line()
        )
    } else {
        let (line, column) = (error.line(), error.column());
        format!("it is not JSON at line {line}, column {column}: give a tokenizer.json")
    }
}

fn unknown(text: &str, offset: usize, character: char) -> DataError {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    DataError::UnknownCharacter {
        character,
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}
