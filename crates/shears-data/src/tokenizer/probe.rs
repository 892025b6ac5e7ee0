//! Measures how long a stranger's tokenizer takes, before it gets a long text.
//!
//! A backtracking pattern, or a model that tries every part of a word, can take a time that grows
//! with the square of a run of equal characters, or faster. A text of some kilobytes shows it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::guard::guarded;

/// The characters of the two texts that are tried.
pub(crate) const SHORT: usize = 1 << 14;
const LONG: usize = 1 << 16;
/// Times up to this are accepted however they grow.
const BRIEF: Duration = Duration::from_secs(1);
/// The most times as long that the longer text may take; linear growth gives 4, quadratic 16.
const TIMES_MAX: u32 = 8;
/// The limit for any text: hundreds of times what published tokenizers take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// The most characters from the file's own patterns that are tried.
const OWN_CHARACTERS: usize = 16;

/// Some of the characters in patterns.
pub(crate) fn own_characters(patterns: &[&str]) -> Vec<char> {
    let all = patterns.iter().flat_map(|pattern| pattern.chars());
    let all: BTreeSet<char> = all
        .filter(|character| character.is_alphanumeric())
        .collect();
    all.into_iter().take(OWN_CHARACTERS).collect()
}

/// Refuses a tokenizer whose time grows faster than the length of a text.
pub(crate) fn check(
    tokenizer: &Arc<tokenizers::Tokenizer>,
    own_characters: &[char],
) -> Result<(), String> {
    for character in "a 1.\n".chars().chain(own_characters.iter().copied()) {
        let time = |length: usize| {
            let text = String::from_iter(std::iter::repeat_n(character, length));
            time_of(tokenizer.clone(), text)
        };
        let too_slow = match (time(SHORT)?, time(LONG)?) {
            (Some(short), Some(long)) => long > BRIEF && long > short * TIMES_MAX,
            _ => true,
        };
        if too_slow {
            return Err(format!(
                "{} kB of {character:?} take it too long, and twice as much takes four times as \
                 long or more, because of a pattern or word in it: use another file",
                LONG / 1000
            ));
        }
    }
    Ok(())
}

/// The time for a text; `None` if it is too long. In that case the thread keeps running until it is
/// done or the process ends.
fn time_of(
    tokenizer: Arc<tokenizers::Tokenizer>,
    text: String,
) -> Result<Option<Duration>, String> {
    let (sender, receiver) = mpsc::channel();
    let started = Instant::now();
    let thread = std::thread::Builder::new().spawn(move || {
        // Neither result nor failure matters here.
        let encoded = guarded(|| tokenizer.encode_fast(text, false));
        let _ = sender.send(encoded.is_ok());
    });
    thread.map_err(|_| "the system refuses this process a thread to try it".to_string())?;
    let is_done = receiver.recv_timeout(TIME_MAX).is_ok();
    Ok(is_done.then(|| started.elapsed()))
}
