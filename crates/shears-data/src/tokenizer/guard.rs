//! Calls of the tokenizers library, whose errors and panics become one line.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the library. Its panics become errors too; the panic hook still reports them.
pub(crate) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error.to_string())),
        Err(_) => Err("the tokenizers library panicked on it: use another file".to_owned()),
    }
}

/// A message that may quote a hostile file, fit for one line of a terminal.
pub(crate) fn one_line(message: &str) -> String {
    message
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
