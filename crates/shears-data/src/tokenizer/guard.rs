//! Calls the tokenizers library, and turns its errors and panics into one line.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Whether this thread is in the library.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread comes from the tokenizers library or from what that calls. It is
/// then caught and becomes an error, and a panic hook need not report it.
pub fn is_tokenizing() -> bool {
    GUARDED.get()
}

/// Runs the library. Panics become errors too, but the panic hook hears of them first.
pub(crate) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let was_guarded = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(was_guarded);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error.to_string())),
        Err(_) => Err("the tokenizers library fails on it: use another file".to_owned()),
    }
}

/// Translates the library's message about a file that it cannot load.
pub(crate) fn plain_message(message: &str) -> String {
    let (what, place) = message.split_once(" at line ").unwrap_or((message, ""));
    let place = match place.is_empty() {
        true => String::new(),
        false => format!(" at line {}", place.replace(" column", ", column")),
    };
    let part = what.strip_prefix("data did not match any variant of untagged enum ");
    let part = part.map(|part| {
        part.trim_end_matches("Untagged")
            .trim_end_matches("Wrapper")
    });
    let name = what.split('`').nth(1).unwrap_or_default();
    let problem = match part {
        Some("Model") => "its `model` is of an unknown type, or lacks a part".to_owned(),
        Some("Normalizer") => "its `normalizer` is of an unknown type".to_owned(),
        Some("PreTokenizer") => "its `pre_tokenizer` is of an unknown type".to_owned(),
        Some("PostProcessor") => "its `post_processor` is of an unknown type".to_owned(),
        Some("Decoder") => "its `decoder` is of an unknown type".to_owned(),
        Some(_) => "a part of it is of an unknown type".to_owned(),
        None if what.starts_with("missing field") => format!("it lacks `{name}`"),
        None if what.starts_with("unknown ") => format!("it has an unknown `{name}`"),
        None if what.starts_with("invalid ") => "a value in it has the wrong type".to_owned(),
        None if what.contains("UnkIdNotInVocabulary") => {
            "its `unk_id` is not in the vocabulary".to_owned()
        }
        None => what.to_owned(),
    };
    format!("{problem}{place}: use another file")
}

/// Fits a message that may quote a hostile file into one line of a terminal.
pub(crate) fn one_line(message: &str) -> String {
    message
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{guarded, is_tokenizing, plain_message};

    #[test]
    fn a_panic_of_the_library_is_known_while_it_is_raised() {
        assert!(!is_tokenizing());
        let within = guarded(|| Ok(guarded(|| Ok(is_tokenizing())).unwrap() && is_tokenizing()));
        assert_eq!(within, Ok(true));
        let error = guarded(|| -> tokenizers::Result<()> { Err("two\nlines".into()) });
        assert_eq!(error, Err("two lines".to_owned()));
        let empty: [u8; 0] = [];
        let panicked = guarded(|| Ok(empty[empty.len()]));
        assert!(panicked.unwrap_err().contains("fails on it"));
        assert!(!is_tokenizing());
    }

    #[test]
    fn messages_of_the_library_are_translated() {
        for (message, words) in [
            (
                "data did not match any variant of untagged enum PreTokenizerUntagged at line 1 \
                 column 80",
                "its `pre_tokenizer` is of an unknown type at line 1, column 80: use another file",
            ),
            (
                "missing field `unk_token` at line 1 column 62",
                "it lacks `unk_token` at line 1, column 62: use another file",
            ),
            (
                "invalid type: null, expected a sequence at line 1 column 36",
                "a value in it has the wrong type at line 1, column 36: use another file",
            ),
            (
                "Unknown tokenizer version '2.0'",
                "Unknown tokenizer version '2.0': use another file",
            ),
        ] {
            assert_eq!(plain_message(message), words);
        }
    }
}
