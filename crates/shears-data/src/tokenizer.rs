//! Text to ids and back, always storable as a `tokenizer.json` of the Hugging Face format.

mod bounds;
mod byte_level;
mod check;
mod format;
mod guard;
mod kind;
mod library;
mod probe;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

pub use self::byte_level::symbols as byte_alphabet;
pub use self::kind::TokenizerKind;
use self::library::Library;
use crate::content::Content;
use crate::corpus::unreadable;
use crate::error::DataError;
use crate::limits::{BPE_SIZE_MAX, BPE_SIZE_MIN};
use crate::tokens::{Tokens, Writer};

/// Three times the largest published `tokenizer.json`; what is longer is something else.
const FILE_BYTES_MAX: u64 = 100 << 20;

/// Of a text that a vocabulary of some thousand tokens was made for.
const BYTES_OF_A_TOKEN: u64 = 4;

/// What the library of tokenizers takes for itself: its pattern, its cache, what it has read.
const BYTES_OF_THE_LIBRARY: u64 = 6_000_000;

/// For each token that the library knows: its text, its merge, its place in both directions, and
/// its line of the file.
const BYTES_OF_A_VOCABULARY: u64 = 900;

/// Turns text into ids and ids into text.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    engine: Engine,
    json: String,
    /// The type of the model as `describe` says it.
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
    /// Tokens are pieces of bytes, listed by id.
    ByteLevel {
        library: Library,
        bytes: Vec<Vec<u8>>,
    },
    Other(Library),
}

/// What the tokens of a tokenizer are, by id, where each is the same in any text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units<'a> {
    /// The 256 bytes.
    Bytes,
    /// These characters.
    Characters(&'a [char]),
    /// Something else: [`Tokenizer::json`] says what.
    Other,
}

/// What a single id stands for, as far as it can be said without its neighbours.
pub(crate) enum Piece<'a> {
    Character(char),
    Bytes(&'a [u8]),
    /// The text of an id depends on the ids around it.
    InContext,
}

impl Tokenizer {
    /// Builds or loads a tokenizer. The vocabulary of `char` is that of the whole text given, by
    /// code point, so the text should include the validation part; `bpe:N` learns from the text
    /// and has fewer than N tokens if it holds too few repeated pairs.
    ///
    /// # Errors
    ///
    /// If there is no character for `char`, if N is out of bounds, or as [`Tokenizer::load`].
    pub fn build(kind: &TokenizerKind, training_text: &str) -> Result<Self, DataError> {
        let name = kind.to_string();
        let json = match kind {
            TokenizerKind::Byte => format::byte_json(),
            TokenizerKind::Char => {
                // One by one: a set that is collected keeps all characters first.
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

    /// Loads a `tokenizer.json`, whoever wrote it. Truncation and padding in it are ignored.
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

    /// A char tokenizer: each character's id is its place.
    ///
    /// # Errors
    ///
    /// If there is none, or one is there twice.
    pub fn of_characters(symbols: &[char]) -> Result<Self, DataError> {
        Self::from_json(format::char_json(symbols), "char".to_owned())
    }

    /// The tokenizer of the text of a `tokenizer.json`; `name` is what messages call it.
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

    /// Writes the tokenizer as `tokenizer.json`; one that was loaded, as it was.
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

    /// What [`Tokenizer::save`] writes.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// What its tokens are.
    #[must_use]
    pub fn units(&self) -> Units<'_> {
        match &self.engine {
            Engine::Byte => Units::Bytes,
            Engine::Char { symbols, .. } => Units::Characters(symbols),
            Engine::ByteLevel { .. } | Engine::Other(_) => Units::Other,
        }
    }

    /// SHA-256 of what [`Tokenizer::save`] writes, in hexadecimal: a run goes on with the tokenizer
    /// that it was started with, or not at all.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::hash::sha256_hex(self.json.as_bytes())
    }

    /// The ids of a text, without any special token around them.
    ///
    /// # Errors
    ///
    /// If a char tokenizer does not know a character, or a foreign one cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::new();
        self.for_each_id(text, &mut |id| ids.push(id))?;
        Ok(ids)
    }

    /// The same, for a whole corpus: in as little memory as the ids can be kept in.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn tokens<'a>(&self, content: impl Into<Content<'a>>) -> Result<Tokens, DataError> {
        let content = content.into();
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

    /// Whether it takes any bytes, and not only text.
    #[must_use]
    pub fn takes_any_bytes(&self) -> bool {
        matches!(self.engine, Engine::Byte)
    }

    /// Whether every text that it encodes comes back as it was.
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

    /// Bytes of memory that [`Tokenizer::tokens`] of these two texts takes, one after the other,
    /// about.
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

    /// Bytes of memory that the tokenizer itself takes, about.
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

    /// The text of ids, special tokens included. What is no text, U+FFFD stands for.
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

    /// How many ids there are: all of `0..vocab_size()`.
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
