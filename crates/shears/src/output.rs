//! Writing to the terminal. Unlike `println!`, nothing here panics on a closed pipe.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use gradclip_judge::Tone;
use serde::Serialize;
use shears_parallel::Launcher;

/// Prints a line to standard output, on a terminal without control characters. If that fails, the
/// work continues and the program exits with code 1 at the end ([`code_of_output`]).
macro_rules! say {
    ($($argument:tt)*) => { $crate::output::print(format_args!($($argument)*)) };
}

/// Prints a line to standard error, on a terminal without control characters. If that fails, the
/// work continues.
macro_rules! complain {
    ($($argument:tt)*) => { $crate::output::print_error(format_args!($($argument)*)) };
}

pub(crate) use {complain, say};

/// Why a line could not be written.
static LOST: OnceLock<String> = OnceLock::new();

/// Whether a launcher of several processes forwards our output. We cannot know whether that ends on
/// a terminal, so it gets whole lines, no colours and no control characters.
pub(crate) fn is_passed_on() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| Launcher::detect().is_some_and(|launcher| launcher.forwards_output()))
}

pub(crate) fn print(line: fmt::Arguments<'_>) {
    note(writeln!(
        std::io::stdout(),
        "{}",
        visible(&line.to_string())
    ));
}

/// Prints a long line of JSON without having all of it in memory, except for a terminal.
pub(crate) fn print_json(value: &impl Serialize) {
    if std::io::stdout().is_terminal() || is_passed_on() {
        return match serde_json::to_string(value) {
            Ok(line) => say!("{}", visible_json(&line)),
            Err(error) => note(Err(error.into())),
        };
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer(&mut out, value).map_err(std::io::Error::from);
    note(
        written
            .and_then(|()| writeln!(out))
            .and_then(|()| out.flush()),
    );
}

/// The name that every process but the first puts before its messages.
static PREFIX: OnceLock<String> = OnceLock::new();

/// Makes this process one of several: unless it is the first, every line on standard error begins
/// with its name. A panic then ends all of them, since the others would wait forever.
pub(crate) fn begin_messages_with(rank: usize, host: &str) {
    let name = match rank {
        0 => String::new(),
        _ => format!("rank {rank} on {host}: "),
    };
    // It is only set once.
    let _ = PREFIX.set(name);
}

pub(crate) fn print_error(line: fmt::Arguments<'_>) {
    let prefix = PREFIX.get().map_or("", String::as_str);
    let line = format!("{prefix}{line}");
    let line = match std::io::stderr().is_terminal() || is_passed_on() {
        true => escaped(&match terminal_width().filter(|_| !is_passed_on()) {
            Some(columns) => wrap(&line, columns, 2),
            None => line,
        }),
        false => line,
    };
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a line to standard error without allocating memory, for when there is none left.
pub(crate) fn complain_without_memory(line: fmt::Arguments<'_>) {
    let mut buffer = [0; 1024];
    let mut rest = &mut buffer[..];
    let prefix = PREFIX.get().map_or("", String::as_str);
    // It fits.
    let _ = writeln!(rest, "{prefix}{line}");
    let length = 1024 - rest.len();
    let _ = std::io::stderr().write_all(&buffer[..length]);
}

/// A text for standard output, with control characters escaped if it is a terminal, which would
/// obey them.
///
/// Names in files and text from a model may contain any characters. `say!` and `complain!` call
/// this, so nothing else has to escape them.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    match std::io::stdout().is_terminal() || is_passed_on() {
        true => Cow::Owned(escaped(text)),
        false => Cow::Borrowed(text),
    }
}

/// Escapes control characters other than line breaks and tabs, and characters that break or reorder
/// a line.
/// Colours of [`paint`] become the codes of a terminal.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let marks = COLOURS.map(|(_, mark, code)| (mark, code));
    let marks = || marks.into_iter().chain([PAINT_END]);
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            _ if let Some((_, code)) = marks().find(|(mark, _)| *mark == character) => {
                shown.push_str(code);
            }
            _ if obeyed(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

/// A line of JSON in which no text has a character that a terminal obeys; it stays JSON. That has
/// the characters below a space escaped anyhow.
pub(crate) fn visible_json(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for character in line.chars() {
        match obeyed(character) {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => shown.push(character),
        }
    }
    shown
}

/// Whether a terminal does something at a character, breaks the line there, or shows those behind it
/// in another order. Joiners (U+200C, U+200D) are not among them, because scripts need them.
fn obeyed(character: char) -> bool {
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    // Unicode's Bidi_Control.
    let reorders = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    breaks || reorders || character.is_control()
}

/// Remembers that a line was lost, unless its reader closed the pipe.
pub(crate) fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first one is enough.
        let _ = LOST.set(error.to_string());
    }
}

/// Whether a line could not be written.
pub(crate) fn is_lost() -> bool {
    LOST.get().is_some()
}

/// The exit code of a command that ended with `code`, or a failure if any of its output was lost.
pub(crate) fn code_of_output(code: ExitCode) -> ExitCode {
    note(std::io::stdout().flush());
    if let Some(why) = LOST.get()
        && code == ExitCode::SUCCESS
    {
        complain!("shears: cannot write to standard output: {why}");
        return ExitCode::FAILURE;
    }
    code
}

/// The width of the terminal that standard output is; none for a pipe or a file.
pub(crate) fn columns() -> Option<usize> {
    terminal_width().filter(|_| std::io::stdout().is_terminal() && !is_passed_on())
}

/// The width of the terminal that this program was started on.
fn terminal_width() -> Option<usize> {
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    // A terminal that does not know its size reports 0.
    (columns > 0).then_some(usize::from(columns))
}

/// Wraps each line of a text between words to the width of the terminal, and indents continuation
/// lines by `indent`. Pipes and files get whole lines.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    match columns() {
        Some(columns) => wrap(text, columns, indent),
        None => text.to_string(),
    }
}

/// The same for a given width.
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

/// The colours of a text on a terminal, each with the mark that stands for it until the line is
/// printed, and its escape code. Unicode reserves these characters for use inside programs, so no
/// text has them.
const COLOURS: [(Tone, char, &str); 3] = [
    (Tone::Good, '\u{fdd1}', "\u{1b}[32m"),
    (Tone::Warning, '\u{fdd2}', "\u{1b}[33m"),
    (Tone::Bad, '\u{fdd3}', "\u{1b}[31m"),
];

/// The mark at the end of a coloured text, and its escape code.
const PAINT_END: (char, &str) = ('\u{fdd0}', "\u{1b}[0m");

/// Colours a text for `say!`, on terminals with colours whose user wants them (no-color.org).
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_plain = unwanted || is_dumb || !std::io::stdout().is_terminal() || is_passed_on();
    match COLOURS.iter().find(|(its, ..)| *its == tone && !is_plain) {
        Some((_, mark, _)) => format!("{mark}{text}{}", PAINT_END.0),
        None => text.to_string(),
    }
}

/// A text on one line, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    escaped(&text.replace(['\n', '\t'], " "))
}

/// Turns a panic into one line that asks for a bug report. Panics of the tokenizers library, of its
/// own dependencies and of its threads print nothing: they are caught and reported as errors.
pub(crate) fn set_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), ToString::to_string);
        if shears_data::is_tokenizing() || place.contains("/tokenizers-") {
            return;
        }
        // The line must not vanish with the screen of `--tui`.
        crate::screen::leave();
        let message = panic
            .payload_as_str()
            .unwrap_or("no message")
            .replace('\n', " ");
        complain!("shears: internal error at {place}: {message}; please report this as a bug");
        if PREFIX.get().is_some() {
            crate::leave::at_once(1);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics in a program of its own, which the next test starts.
    #[test]
    #[ignore = "it panics, for the next test"]
    fn a_panic_on_purpose() {
        set_panic_hook();
        panic!("of\ntwo lines");
    }

    #[test]
    fn a_panic_is_one_line_and_exit_code_101() {
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "output::tests::a_panic_on_purpose"]);
        let output = program.args(["--ignored", "--nocapture"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(101), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let place = "shears: internal error at crates/shears/src/output.rs:";
        assert!(said.starts_with(place), "{said}");
        let asks = ": of two lines; please report this as a bug\n";
        assert!(said.ends_with(asks), "{said}");
    }

    #[test]
    fn lines_are_broken_between_words() {
        let wrapped = wrap("  one two three four\nfive", 11, 4);
        assert_eq!(wrapped, "  one two\n    three\n    four\nfive");
        // A word that is longer than the terminal stays whole.
        assert_eq!(wrap("a longest-word b", 5, 0), "a\nlongest-word\nb");
        assert_eq!(wrap("", 5, 0), "");
    }

    #[test]
    fn a_terminal_gets_no_control_characters_but_our_colours() {
        let hostile = "a\u{1b}[2J\u{9b}31m\r\u{202e}b\n\tc";
        let shown = "a\\u{1b}[2J\\u{9b}31m\\u{d}\\u{202e}b\n\tc";
        assert_eq!(escaped(hostile), shown);
        for obeyed in
            "\u{85}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{2066}\u{2069}".chars()
        {
            let code = u32::from(obeyed);
            assert_eq!(escaped(&obeyed.to_string()), format!("\\u{{{code:x}}}"));
            assert_eq!(visible_json(&obeyed.to_string()), format!("\\u{code:04x}"));
        }
        // Persian, Hindi and emoji have joiners.
        let joined = "\u{645}\u{6cc}\u{200c}\u{62e}\u{648} \u{915}\u{94d}\u{200d}\u{937}";
        assert_eq!(escaped(joined), joined);
        let painted = format!("{}x{}", COLOURS[2].1, PAINT_END.0);
        assert_eq!(escaped(&painted), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(one_line("a\nb\u{7}"), "a b\\u{7}");
        let json = serde_json::to_string("a\u{1b}[2J\u{9b}\u{202e}b").unwrap();
        let shown = visible_json(&json);
        assert_eq!(shown, r#""a\u001b[2J\u009b\u202eb""#);
        let back: String = serde_json::from_str(&shown).unwrap();
        assert_eq!(back, "a\u{1b}[2J\u{9b}\u{202e}b");
    }
}
