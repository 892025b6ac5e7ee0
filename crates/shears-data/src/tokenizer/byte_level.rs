//! GPT-2's byte alphabet: a printable character for each byte.

use std::collections::HashMap;
use std::sync::LazyLock;

static BYTE_OF: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| symbols().into_iter().zip(0..=u8::MAX).collect());

/// The 256 characters of GPT-2's alphabet, in the order of their bytes.
pub fn symbols() -> Vec<char> {
    // Printable bytes represent themselves, the others become the characters from U+0100 on.
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => others.next().unwrap_or(char::REPLACEMENT_CHARACTER),
        })
        .collect()
}

/// The bytes of a token. A token with a character outside the alphabet, which only added tokens
/// have, represents its own text.
pub(crate) fn bytes_of(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(|symbol| BYTE_OF.get(&symbol).copied())
        .collect::<Option<_>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}
