//! What clap needs beyond the derived commands: completions, and error messages of our own.

use std::error::Error;
use std::ffi::OsStr;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ColorChoice, Command};
use clap_complete::CompletionCandidate;
use clap_complete::engine::{ArgValueCompleter, PathCompleter, ValueCompleter};
use gradclip::ClipRule;

use crate::commands::runs;
use crate::output::is_passed_on;

/// Settings for all commands: the last of several equal flags wins, a value may begin with a minus,
/// and runs and policies are completed.
pub(crate) fn prepared(command: Command) -> Command {
    let prepare = |argument: Arg| {
        let takes_values = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let argument = match argument.get_long().is_some() && takes_values {
            true => argument.allow_negative_numbers(true),
            false => argument,
        };
        let name = argument.get_value_names().and_then(|names| names.first());
        match name.map(|name| name.as_str()) {
            Some("RUN") => argument.add(ArgValueCompleter::new(complete_run)),
            Some("POLICY") => argument.add(ArgValueCompleter::new(complete_policy)),
            _ => argument,
        }
    };
    let command = match is_passed_on() {
        true => command.color(ColorChoice::Never),
        false => command,
    };
    let command = command.args_override_self(true);
    command.mut_subcommands(|command| command.mut_args(prepare))
}

/// The runs in the usual folder, and all folders.
fn complete_run(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed_text = typed.to_string_lossy();
    let known = runs().into_iter().map(|(_, run)| run);
    let known = known.filter(|run| run.to_string_lossy().starts_with(typed_text.as_ref()));
    let mut candidates: Vec<_> = known.map(CompletionCandidate::new).collect();
    if candidates.is_empty() {
        candidates = PathCompleter::dir().complete(typed);
    }
    candidates
}

/// The names of the rules, also after a `+`.
fn complete_policy(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let before = typed.rfind('+').map_or(0, |plus| plus + 1);
    let forms = ClipRule::forms().into_iter();
    let rules = forms.map(|form| (form.name, format!("{}, {}", form.form, form.source)));
    let none = (before == 0).then(|| ("none", "no clipping".to_string()));
    let all = none.into_iter().chain(rules);
    all.filter(|(name, _)| name.starts_with(&typed[before..]))
        .map(|(name, help)| {
            let text = format!("{}{name}", &typed[..before]);
            CompletionCandidate::new(text).help(Some(help.into()))
        })
        .collect()
}

/// Words of earlier versions, and what to type now.
const RENAMED: [(&str, &str); 6] = [
    ("advise", "part of `shears inspect RUN`"),
    (
        "experiment",
        "`cargo run --release -p shears-train --example temporal-order`, in a clone",
    ),
    ("export-events", "`shears export RUN`"),
    ("--policy", "--clip"),
    ("--nonfinite", "--non-finite"),
    ("--set", "--KEY VALUE, such as --optimizer sgd"),
];

/// The problem in one line.
pub(crate) fn problem(error: &clap::Error) -> String {
    own_words(error).unwrap_or_else(|| on_one_line(&error.render().to_string()))
}

/// The problem, where we can say more than clap does.
fn own_words(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidSubcommand).or(argument)?;
            let (_, now) = RENAMED.iter().find(|(before, _)| *before == word)?;
            Some(format!("`{word}` is now {now}"))
        }
        ErrorKind::InvalidValue => {
            let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue) else {
                return None;
            };
            let name = argument?.split([' ', '=', '[']).next()?;
            let value = text(ContextKind::InvalidValue)?;
            // Without a value, clap says that one is needed.
            let is_given = !value.is_empty() && !valid.is_empty();
            let similar = text(ContextKind::SuggestedValue);
            let similar = similar.map_or(String::new(), |it| format!("; did you mean '{it}'?"));
            is_given.then(|| {
                let valid = valid.join(", ");
                format!("{name} {value}: it must be one of {valid}{similar}")
            })
        }
        ErrorKind::ValueValidation => {
            let name = argument?.split([' ', '=']).next()?;
            let value = text(ContextKind::InvalidValue)?;
            Some(format!("{name} {value}: {}", reason(error.source()?)))
        }
        _ => None,
    }
}

/// An error of clap without its heading and the usage below it. The command that the usage names
/// has the help.
fn on_one_line(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_usage = |line: &str| line.starts_with("Usage:") || line.starts_with("For more");
    let mut problem = String::new();
    for line in lines.clone().take_while(|line| !is_usage(line)) {
        let line = line.strip_prefix("tip: ").unwrap_or(line);
        // Nobody means that.
        if line.starts_with("to pass '") {
            continue;
        }
        problem.push_str(match problem.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        });
        problem.push_str(line);
    }
    let usage = lines.clone().find_map(|line| line.strip_prefix("Usage: "));
    let words = usage.unwrap_or("shears").split(' ');
    let command = words.take_while(|word| word.starts_with(|first: char| first.is_alphabetic()));
    let command = command.collect::<Vec<_>>().join(" ");
    format!("{problem}; see `{command} --help`")
}

/// The reason without the wording of the standard library.
fn reason(error: &(dyn Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<ParseIntError>() {
        return match error.kind() {
            IntErrorKind::PosOverflow => "it is too large",
            IntErrorKind::NegOverflow => "it is too small",
            _ => "it must be a whole number, at least 0",
        }
        .to_string();
    }
    match error.downcast_ref::<ParseFloatError>() {
        Some(_) => "it must be a number".to_string(),
        None => in_range(&error.to_string()).unwrap_or_else(|| error.to_string()),
    }
}

/// Rewords what clap says of a number out of range: "0 is not in 1..=1000".
fn in_range(message: &str) -> Option<String> {
    let (_, range) = message.split_once(" is not in ")?;
    let (least, most) = range.split_once("..")?;
    // The largest value of an integer type is not a limit that anyone chose.
    let most = most.strip_prefix('=').filter(|most| most.len() < 10);
    Some(match most {
        Some(most) => format!("it must be from {least} to {most}"),
        None => format!("it must be at least {least}"),
    })
}
