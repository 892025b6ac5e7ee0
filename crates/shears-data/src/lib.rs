//! Training text: where it comes from, how it becomes token ids, and in which order these reach a
//! model.
//!
//! [`Corpus::load`] reads a text, [`split()`] sets the last tenth aside for validation, a
//! [`Tokenizer`] turns both parts into ids, and [`StreamBatches`] or [`RandomWindows`] cut the ids
//! into [`Batch`]es. [`StreamDecoder`] goes the other way: from ids, as a generator produces them
//! one by one, to whole characters.
//!
//! Two properties hold throughout. Every batch is a pure function of the step, so that a resumed
//! run sees exactly what the uninterrupted one would have seen. And no file, however broken, causes
//! a panic: it causes a [`DataError`] that says what is wrong, where, and what to do.
#![forbid(unsafe_code)]

mod batches;
mod content;
mod corpus;
mod decode_stream;
mod encoding;
mod error;
mod foreign;
mod hash;
mod limits;
mod round_trip;
mod split;
mod tokenizer;
mod tokens;

pub use batches::{
    Batch, ConsecutiveWindows, EvaluationStreams, RandomWindows, StreamBatches, evaluation_batches,
};
pub use content::Content;
pub use corpus::{Corpus, Room, Source, read_text};
pub use decode_stream::StreamDecoder;
pub use encoding::{Encoding, ReadAs};
pub use error::DataError;
pub use foreign::{FOREIGN_BYTES, foreign_kind};
pub use hash::{Sha256Writer, sha256_hex, sha256_of};
pub use limits::{BPE_SIZE_MAX, BPE_SIZE_MIN};
pub use round_trip::RoundTrip;
pub use split::split;
pub use tokenizer::{Tokenizer, TokenizerKind, Units, byte_alphabet, is_tokenizing};
pub use tokens::Tokens;
