//! Writing to the terminal without the panic that `println!` has when nobody reads any more.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Prints a line on standard output. If it cannot be written the work goes on, and the program ends
/// with exit code 1 ([`code_of_output`]).
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        $crate::output::note(writeln!(std::io::stdout(), $($argument)*));
    }};
}

/// Prints a line on standard error; if nobody reads it, the work goes on.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

pub(crate) use {complain, say};

/// Whether a line could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Remembers that a line was lost, unless its reader has seen enough.
pub(crate) fn note(written: std::io::Result<()>) {
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// The exit code of a command that ended with `code`: a failure if some of its output was lost.
pub(crate) fn code_of_output(code: ExitCode) -> ExitCode {
    note(std::io::stdout().flush());
    if code == ExitCode::SUCCESS && LOST.load(Ordering::Relaxed) {
        complain!("shears: cannot write to standard output");
        return ExitCode::FAILURE;
    }
    code
}

/// Prints a line that is the result of a command: that it cannot be written is an error, unless its
/// reader has seen enough.
pub(crate) fn print_result(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("cannot write to standard output"))
        }
        _ => Ok(()),
    }
}

/// A text without control characters, which names in files may have and terminals obey.
pub(crate) fn one_line(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => ' ',
        _ if character.is_control() => '?',
        _ => character,
    };
    text.chars().map(shown).collect()
}

/// Makes a bug of ours one line, and what a library panics about, which is caught and told as an
/// error, none.
pub(crate) fn set_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), ToString::to_string);
        if place.contains("/tokenizers-") {
            return;
        }
        // The line is not to vanish with a screen.
        crate::screen::leave();
        let message = panic
            .payload_as_str()
            .unwrap_or("no message")
            .replace('\n', " ");
        complain!("shears: internal error at {place}: {message}; please report this as a bug");
    }));
}
