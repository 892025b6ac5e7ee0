//! All errors of this crate, each one line: what, where, what to do.

use std::io;
use std::path::PathBuf;

use crate::limits::{BPE_SIZE_MAX, BPE_SIZE_MIN};

/// Why a text or a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The batch shape has a zero in it.
    #[error("{name} is 0: give at least 1")]
    ZeroSize {
        /// The size that is zero, `batch` or `window`.
        name: &'static str,
    },

    /// An empty text.
    #[error("{name} is empty: give a text that is not")]
    Empty {
        /// File names, or the name of the stream.
        name: String,
    },

    /// A file or folder that does not exist.
    #[error("{} does not exist: check the path", path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },

    /// `Source::Files` without a path.
    #[error("no file was named: give a text file or a folder of text files")]
    NoFiles,

    /// A folder without text files.
    #[error("no text file in {}: it must hold *.txt, *.md or *.text files", folder.display())]
    NoTextFiles {
        /// The folder as it was given.
        folder: PathBuf,
    },

    /// Bytes that are not UTF-8 text.
    #[error("{name} is not UTF-8 text: invalid byte at offset {offset}; {hint}")]
    NotUtf8 {
        /// File name, or the name of the stream.
        name: String,
        /// Offset of the first invalid byte, from 0.
        offset: usize,
        /// What the file seems to be and what to do about it.
        hint: String,
    },

    /// UTF-8 text that was to be read as UTF-16.
    #[error("{name} is UTF-8, and would be nonsense in {encoding}: give --encoding utf-8")]
    AnotherEncoding {
        /// File name, or the name of the stream.
        name: String,
        /// The encoding.
        encoding: String,
    },

    /// Bytes that are not text in the requested encoding.
    #[error("{name} is not text in {encoding}: give another --encoding")]
    NotInEncoding {
        /// File name, or the name of the stream.
        name: String,
        /// The encoding.
        encoding: String,
    },

    /// An unknown encoding.
    #[error(
        "unknown encoding {given:?}: use utf-8, utf-16, latin1, windows-1252 or another name of the \
         WHATWG's list"
    )]
    UnknownEncoding {
        /// The given name.
        given: String,
    },

    /// More bytes than allowed, for example in a prompt.
    #[error("{name} has over {} MB: give less", most / 1_000_000)]
    TooLarge {
        /// File name, or the name of the stream.
        name: String,
        /// The allowed number of bytes.
        most: u64,
    },

    /// A tokenizer that cannot be built, loaded or applied.
    #[error("tokenizer {name}: {problem}")]
    Tokenizer {
        /// Path of the file, or the kind of tokenizer.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },

    /// Not enough tokens for one batch.
    #[error(
        "the text is too short: it has {tokens} token{}, but batch {batch} and window {window} \
         need {needed}; make --batch or --window smaller or give more text",
        if *tokens == 1 { "" } else { "s" }
    )]
    TooShort {
        /// The number of tokens.
        tokens: usize,
        /// The number of tokens that a usable text has at least.
        needed: usize,
        /// Rows of a batch.
        batch: usize,
        /// Tokens of a row.
        window: usize,
    },

    /// A character that is not in the vocabulary of a char tokenizer.
    #[error(
        "character {character:?} (U+{:04X}) in line {line}, column {column} is not in the \
         vocabulary: remove it from the text, or train with the tokenizer `byte`",
        u32::from(*character)
    )]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Line in the encoded text, from 1.
        line: usize,
        /// Character within the line, from 1.
        column: usize,
    },

    /// An unknown kind of tokenizer.
    #[error(
        "{given:?} is not a tokenizer: use byte, char, bpe:N (N from {BPE_SIZE_MIN} to \
         {BPE_SIZE_MAX}) or the path of a tokenizer.json"
    )]
    UnknownTokenizer {
        /// The given name.
        given: String,
    },

    /// A file that exists but cannot be read.
    #[error("cannot read {name}: check that it is a readable file or folder")]
    Unreadable {
        /// File name, or the name of the stream.
        name: String,
        /// The system's error.
        source: io::Error,
    },

    /// A file that cannot be written.
    #[error(
        "cannot write {}: check that the folder exists, is writable and has room",
        path.display()
    )]
    Unwritable {
        /// The path as it was given.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// `bpe:N` with N outside the bounds.
    #[error("bpe:{given} is out of bounds: N goes from {BPE_SIZE_MIN} to {BPE_SIZE_MAX}")]
    VocabularySize {
        /// The given N.
        given: String,
    },
}
