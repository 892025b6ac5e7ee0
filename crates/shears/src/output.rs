//! Writing to the terminal without the panic that `println!` has when nobody reads any more.

use std::io::{ErrorKind, IsTerminal, Write};
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

/// The columns of the terminal that standard output is; none of a pipe or a file.
pub(crate) fn columns() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    // A terminal that does not know its size says 0.
    (columns > 0).then_some(usize::from(columns))
}

/// Breaks each line of a text between words, so that it fits the terminal; lines that follow are
/// `indent` columns in. Pipes and files get whole lines.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    match columns() {
        Some(columns) => wrap(text, columns, indent),
        None => text.to_string(),
    }
}

/// The same for a width that is known.
pub(crate) fn wrap(text: &str, columns: usize, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let start = line.len() - line.trim_start().len();
        let mut current = line[..start].to_string();
        let mut width = start;
        for (index, word) in line[start..].split(' ').enumerate() {
            let length = word.chars().count();
            if index > 0 && width + 1 + length > columns {
                lines.push(std::mem::replace(&mut current, " ".repeat(indent)));
                width = indent;
            } else if index > 0 {
                current.push(' ');
                width += 1;
            }
            current.push_str(word);
            width += length;
        }
        lines.push(current);
    }
    lines.join("\n")
}

/// How a text is to be seen on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Good,
    Bad,
    Dim,
}

/// Colours a text, on terminals that have colours and whose user wants them (no-color.org).
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if unwanted || is_dumb || !std::io::stdout().is_terminal() {
        return text.to_string();
    }
    let code = match colour {
        Colour::Good => 32,
        Colour::Bad => 31,
        Colour::Dim => 2,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        let wrapped = wrap("  one two three four\nfive", 11, 4);
        assert_eq!(wrapped, "  one two\n    three\n    four\nfive");
        // A word that is longer than the terminal stays whole.
        assert_eq!(wrap("a longest-word b", 5, 0), "a\nlongest-word\nb");
        assert_eq!(wrap("", 5, 0), "");
    }
}
