//! Limits that are checked, and named in messages.

/// The smallest N of `bpe:N`: all bytes and one merge.
pub const BPE_SIZE_MIN: usize = 257;
/// The largest N of `bpe:N`: beyond any published vocabulary.
pub const BPE_SIZE_MAX: usize = 1_000_000;
