//! From flags and config file to the plan: the preset, then the config file, then flags.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};
use gradclip::{ClipPolicy, UnitAxis};
use shears_run::toml_problem;
use shears_train::{Plan, PlanError, Preset, Section, Setting};
use toml::{Table, Value};

use crate::exit::{Misuse, misuse};

/// Which settings of a plan a command takes.
pub(crate) trait Scope {
    /// Whether it takes this one.
    fn takes(setting: &Setting) -> bool;
}

/// The settings given as flags, by name. The command has a flag for each setting that `S` takes,
/// with help and checks from [`Plan::settings`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings<S>(pub(crate) Table, PhantomData<S>);

impl<S: Scope> Settings<S> {
    fn all() -> Vec<&'static Setting> {
        let mut taken: Vec<&Setting> = Plan::settings().iter().filter(|s| S::takes(s)).collect();
        taken.sort_by_key(|setting| setting.section);
        taken
    }
}

impl<S: Scope> Args for Settings<S> {
    fn augment_args(command: Command) -> Command {
        command.args(Self::all().into_iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Scope> FromArgMatches for Settings<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Settings(Table::new(), PhantomData);
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for Setting { name, .. } in Self::all() {
            let values = matches
                .get_many::<Value>(name)
                .into_iter()
                .flatten()
                .cloned();
            // Only the text may have several values.
            let value = values.reduce(|left, right| match (left, right) {
                (Value::Array(left), Value::Array(right)) => Value::Array([left, right].concat()),
                (_, right) => right,
            });
            if let Some(value) = value {
                self.0.insert(name.clone(), value);
            }
        }
        Ok(())
    }
}

/// A setting as a flag; the text is a positional argument.
fn flag(setting: &'static Setting) -> Arg {
    let (short, long) = help(setting);
    let flag = Arg::new(setting.name.as_str())
        .value_name(setting.value_name)
        .help(short)
        .long_help(long)
        .hide_possible_values(!setting.is_switch);
    let parse = |text: &str| setting.parse(text);
    let flag = match setting.names {
        [] if setting.is_switch => flag
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(
                PossibleValuesParser::new(["true", "false"]).try_map(move |text| parse(&text)),
            ),
        [] => flag.value_parser(parse),
        names => flag.value_parser(
            PossibleValuesParser::new(names.iter().copied()).try_map(move |text| parse(&text)),
        ),
    };
    match setting.name.as_str() {
        "text" => flag
            .num_args(0..)
            .action(ArgAction::Append)
            .value_hint(ValueHint::AnyPath),
        name => flag.long(name).help_heading(heading(setting.section)),
    }
}

fn heading(section: Section) -> &'static str {
    match section {
        Section::Text => "Text",
        Section::Model => "Model",
        Section::Batches => "Batches",
        Section::Optimizer => "Optimizer",
        Section::Schedule => "Learning rate",
        Section::Clipping => "Clipping",
        Section::Run => "Run",
    }
}

/// The short and the long help.
fn help(setting: &Setting) -> (String, String) {
    let lines = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = setting.documentation.split("\n\n").map(lines);
    let mut short = paragraphs.next().unwrap_or_default();
    if !setting.names.is_empty() {
        short.push_str(&format!(": {}", setting.names.join(", ")));
    }
    let belongs_to = setting.belongs_to.to_string();
    if !belongs_to.is_empty() {
        short.push_str(&format!(" ({belongs_to})"));
    }
    if let Some(default) = setting.default() {
        short.push_str(&format!(" [default: {default}]"));
    }
    let mut long: Vec<String> = std::iter::once(short.clone()).chain(paragraphs).collect();
    if setting.may_change {
        long.push("May change when a run is resumed.".to_string());
    }
    if setting.name == "preset" {
        let presets = Preset::ALL.iter();
        let presets = presets.map(|preset| format!("{preset}: {}", preset.summary()));
        long.push(presets.collect::<Vec<_>>().join("\n"));
    }
    (short, long.join("\n\n").trim_end().to_string())
}

/// Keys of a config file that are not settings of the plan: where to write, and how.
const OUTSIDE: [&str; 7] = [
    "out",
    "threads",
    "quiet",
    "json",
    "verbose",
    "tensorboard",
    "tui",
];

/// The settings given by flags and by a config file.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    typed: Table,
    config: Table,
    file: Option<PathBuf>,
    /// Whether the file is the plan of a run, which has every setting that belongs to the run.
    is_of_run: bool,
    /// The keys of the file that are not settings.
    pub(crate) outside: Table,
    /// The line of the file that each key is in.
    lines: BTreeMap<String, usize>,
}

impl Given {
    /// Reads the config file, if there is one.
    ///
    /// The plan of a run may serve as a config file. If a flag then chooses another model or
    /// optimizer, settings that do not belong to it are dropped; in a file written by hand they are
    /// refused.
    pub(crate) fn read(typed: Table, file: Option<&Path>) -> anyhow::Result<Given> {
        let mut given = Given {
            typed,
            config: Table::new(),
            file: file.map(Path::to_path_buf),
            is_of_run: false,
            outside: Table::new(),
            lines: BTreeMap::new(),
        };
        let Some(file) = file else {
            return Ok(given);
        };
        let (mut config, lines) = read_config(file)?;
        given.lines = lines;
        given.is_of_run = Plan::is_stored(&config);
        if given.is_of_run {
            Plan::locate_stored(&mut config);
            let known = Plan::remove_identity(&mut config);
            known.map_err(|error| of_config(file, None, &error.to_string()))?;
        }
        for key in config.keys() {
            check_key(key).map_err(|problem| given.of_config(key, &problem))?;
        }
        let is_outside = |(key, _): &(String, Value)| OUTSIDE.contains(&key.as_str());
        (given.outside, given.config) = config.into_iter().partition(is_outside);
        if given.is_of_run {
            let mut written = given.config.clone();
            let retained = Plan::retain_belonging(&mut written, &given.typed);
            retained.map_err(|error| given.blame(error))?;
            given.config = written;
        }
        Ok(given)
    }

    /// Refuses settings that a command does not use; from the plan of a run they are dropped.
    pub(crate) fn restrict(
        &mut self,
        command: &str,
        uses: impl Fn(&Setting) -> bool,
    ) -> anyhow::Result<()> {
        let is_used = |name: &str| Plan::setting(name).is_some_and(&uses);
        if self.is_of_run {
            self.config.retain(|name, _| is_used(name));
        }
        let given = self.all();
        let unused = given.keys().find(|name| !is_used(name));
        let message = match (unused, self.outside.keys().next()) {
            (Some(name), _) => (name, format!("{name} is not used by {command}")),
            (None, Some(name)) => (name, format!("{name} is a key for `shears train` only")),
            (None, None) => return Ok(()),
        };
        Err(self.blame(PlanError::about(message.0, message.1)))
    }

    /// A copy with another value of a setting.
    pub(crate) fn with(&self, name: &str, value: impl Into<Value>) -> Given {
        let mut given = self.clone();
        given.typed.insert(name.to_string(), value.into());
        given
    }

    /// Drops a setting that comes from the plan of a run.
    pub(crate) fn remove_if_of_a_run(&mut self, name: &str) {
        if self.is_of_run {
            self.config.remove(name);
        }
    }

    /// Whether a setting was given by a flag.
    pub(crate) fn is_typed(&self, name: &str) -> bool {
        self.typed.contains_key(name)
    }

    /// Whether a setting was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.is_typed(name) || self.config.contains_key(name)
    }

    /// The value given for a setting.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.typed.get(name).or_else(|| self.config.get(name))
    }

    /// Adds the settings of the model that a run starts from.
    ///
    /// # Errors
    ///
    /// If settings were given that differ from them; the message lists all.
    pub(crate) fn take(&mut self, source: &Path, settings: Table) -> Result<(), Misuse> {
        let differing = settings.iter().filter_map(|(name, value)| {
            let given = self.get(name).filter(|given| *given != value)?;
            Some(format!("{name}: it has {value}, not {given}"))
        });
        let differing: Vec<String> = differing.collect();
        if !differing.is_empty() {
            let (source, list) = (source.display(), differing.join("; "));
            misuse!("the model in {source} differs ({list}); leave these settings out");
        }
        self.typed.extend(settings);
        Ok(())
    }

    /// The plan of a new run.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let plan = Plan::resolve(&self.all()).map_err(|error| self.blame(error))?;
        Ok(of_our_models(plan))
    }

    /// The plan of a run that is resumed after `step` steps with these settings.
    pub(crate) fn changed(&self, plan: &Plan, step: u64) -> anyhow::Result<Plan> {
        let mut given = self.all();
        if let Some(policy) = given.get("clip").and_then(Value::as_str)
            && let Ok(policy) = policy.parse::<ClipPolicy>()
        {
            let policy = policy.with_unit_axis(UnitAxis::First).to_string();
            given.insert("clip".to_string(), policy.into());
        }
        let changed = plan.changed(&given, step);
        let mut changed = changed.map_err(|error| self.blame(error))?;
        let [text, val] = ["text", "val"].map(|name| self.has(name));
        if text || val {
            let typed = changed.clone();
            (changed.text, changed.val) = (plan.text.clone(), plan.val.clone());
            changed.relocate(&typed, text, val);
        }
        Ok(changed)
    }

    /// Flags override the file.
    pub(crate) fn all(&self) -> Table {
        let mut all = self.config.clone();
        all.extend(self.typed.clone());
        all
    }

    /// Adds the line of the file to an error about a setting from the file.
    fn blame(&self, error: PlanError) -> anyhow::Error {
        let Some(name) = error.setting() else {
            return error.into();
        };
        let is_in_file = self.config.contains_key(name) || self.outside.contains_key(name);
        let problem = error.to_string();
        if is_in_file && !self.is_typed(name) {
            return self.of_config(name, &problem).into();
        }
        error.into()
    }

    /// A problem with a key of the file.
    pub(crate) fn of_config(&self, key: &str, problem: &str) -> Misuse {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        of_config(file, self.lines.get(key).copied(), problem)
    }
}

/// All parameters of our models have their output units on the first axis, whatever axis `agc` was
/// given.
fn of_our_models(plan: Plan) -> Plan {
    Plan {
        clip: plan.clip.with_unit_axis(UnitAxis::First),
        ..plan
    }
}

/// Maximum bytes of a config file; a plan has one or two thousand.
const LONGEST_CONFIG: u64 = 1_000_000;

fn of_config(file: &Path, line: Option<usize>, problem: &str) -> Misuse {
    let line = line.map_or(String::new(), |line| format!(", line {line}"));
    Misuse(format!("config {}{line}: {problem}", file.display()))
}

/// The table of a config file, and the line of each of its keys.
fn read_config(file: &Path) -> Result<(Table, BTreeMap<String, usize>), Misuse> {
    let name = format!("config {}", file.display());
    let text = crate::input::read_file(file, &name, LONGEST_CONFIG)?;
    let line_at = |place: usize| text[..place.min(text.len())].matches('\n').count() + 1;
    let fail = |error: toml::de::Error| {
        let line = error.span().map(|span| line_at(span.start));
        of_config(file, line, &toml_problem(&error))
    };
    let table = text.parse().map_err(fail)?;
    let keys = toml::de::DeTable::parse(&text).map_err(fail)?;
    let lines = keys.get_ref().keys();
    let lines = lines.map(|key| (key.get_ref().to_string(), line_at(key.span().start)));
    Ok((table, lines.collect()))
}

fn check_key(key: &str) -> Result<(), String> {
    let settings = Plan::settings().iter();
    let mut known = settings.map(|setting| setting.name.as_str()).chain(OUTSIDE);
    match known.clone().any(|name| name == key) {
        true => Ok(()),
        false => {
            let similar = |name: &&str| strsim::jaro_winkler(name, key);
            let near = known.by_ref().filter(|name| similar(name) > 0.7);
            let near = near.max_by(|left, right| similar(left).total_cmp(&similar(right)));
            let hint = near.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            Err(format!("unknown key `{key}`{hint}"))
        }
    }
}

/// A value as text: strings without quotes, and 1e-8 rather than 0.00000001.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

/// A parser for clap that keeps the text, and checks that it parses as a `T`.
pub(crate) fn checked<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<String, String> {
    match text.parse::<T>() {
        Ok(_) => Ok(text.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_the_defaults_of_the_plan() {
        let given: Table = "text = [\"a.txt\"]".parse().unwrap();
        let plan = Plan::resolve(&given).unwrap();
        let mut without = Vec::new();
        for setting in Plan::settings() {
            let help = flag(setting).get_help().unwrap().to_string();
            let Some((_, default)) = help.split_once(" [default: ") else {
                without.push(setting.name.as_str());
                continue;
            };
            let default = default.split([';', ',', ']']).next().unwrap();
            match setting.name.as_str() {
                "model" => assert_eq!(default, "the preset's"),
                // What the recurrent models do not have.
                "heads" => assert_eq!(default, "4"),
                _ => {
                    let value = setting.value_in(&plan).unwrap();
                    assert_eq!(setting.parse(default), Ok(value), "{}", setting.name);
                }
            }
        }
        assert_eq!(without, ["text", "val", "init-from"]);
    }

    #[test]
    fn the_help_says_what_a_setting_belongs_to() {
        let help = |name| help(Plan::setting(name).unwrap()).0;
        assert!(help("epsilon").contains("(optimizer rmsprop, adam or adamw)"));
        assert!(help("decay-every").contains("(schedule step)"));
        assert!(help("optimizer").contains("sgd, momentum, rmsprop, adam, adamw"));
        assert!(!help("lr").contains('('));
    }
}
