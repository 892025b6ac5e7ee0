//! How long a stranger's tokenizer takes, tried before a long text is given to it.
//!
//! A pattern that goes back and forth, or a model that tries every part of a word, takes a time
//! that grows with the square of a run of equal characters, or faster. A text of some kilobytes
//! shows it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::guard::guarded;

/// Characters of the texts that are tried: the longer has four times as many.
pub(crate) const SHORT: usize = 1 << 14;
const LONG: usize = 1 << 16;
/// What the longer text may take if it takes more than in proportion.
const BRIEF: Duration = Duration::from_secs(1);
/// How many times as long the longer text may take; in proportion it would be 4, by the square 16.
const TIMES_MAX: u32 = 8;
/// What any text may take: hundreds of times what published tokenizers do.
const TIME_MAX: Duration = Duration::from_secs(20);
/// How many characters of the file's own patterns are tried.
const OWN_CHARACTERS: usize = 16;

/// The characters that patterns name, or some of them.
pub(crate) fn own_characters(patterns: &[&str]) -> Vec<char> {
    let all = patterns.iter().flat_map(|pattern| pattern.chars());
    let all: BTreeSet<char> = all
        .filter(|character| character.is_alphanumeric())
        .collect();
    all.into_iter().take(OWN_CHARACTERS).collect()
}

/// Refuses a tokenizer that takes more than in proportion to the length of a text.
pub(crate) fn check(
    tokenizer: &Arc<tokenizers::Tokenizer>,
    own_characters: &[char],
) -> Result<(), String> {
    for character in "a 1.\n".chars().chain(own_characters.iter().copied()) {
        let time = |length: usize| {
            let text = String::from_iter(std::iter::repeat_n(character, length));
            time_of(tokenizer.clone(), text)
        };
        let too_slow = match (time(SHORT), time(LONG)) {
            (Some(short), Some(long)) => long > BRIEF && long > short * TIMES_MAX,
            _ => true,
        };
        if too_slow {
            return Err(format!(
                "{} kB of {character:?} take it too long, and twice as many four times as long or \
                 more: a pattern or word of it is tried again and again; use another file",
                LONG / 1000
            ));
        }
    }
    Ok(())
}

/// How long a text takes; none if that is too long. What takes too long goes on in its thread,
/// until it ends or the process does.
fn time_of(tokenizer: Arc<tokenizers::Tokenizer>, text: String) -> Option<Duration> {
    let (sender, receiver) = mpsc::channel();
    let started = Instant::now();
    std::thread::spawn(move || {
        // What it gives, or that it fails, is nobody's concern here.
        let encoded = guarded(|| tokenizer.encode_fast(text, false));
        let _ = sender.send(encoded.is_ok());
    });
    receiver.recv_timeout(TIME_MAX).ok()?;
    Some(started.elapsed())
}
