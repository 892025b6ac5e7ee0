//! From what was typed to the plan: preset, then config file, then flags.

use std::path::Path;

use gradclip::UnitAxis;
use shears_model::Architecture;
use shears_train::{OptimizerKind, Plan, Preset};
use toml::{Table, Value};

use crate::arguments::TrainArguments;
use crate::exit::Misuse;

/// Steps of a run on the text that the program carries: about a minute on two cores.
const CARRIED_STEPS: i64 = 300;

/// Evaluations of such a run are quick, and its loss falls quickly.
const CARRIED_EVAL_EVERY: i64 = 100;

/// What a config file may have beside the plan: where to write and how.
pub(crate) const OUTSIDE: [&str; 6] = ["out", "threads", "quiet", "json", "tensorboard", "tui"];

/// The flags with a config file's keys beneath them.
pub(crate) fn with_config_file(arguments: TrainArguments) -> anyhow::Result<TrainArguments> {
    let Some(path) = arguments.config.clone() else {
        return Ok(arguments);
    };
    let mut merged = read_config(&path)?;
    merged.extend(to_table(&arguments)?);
    let merged: TrainArguments = from_table(merged)
        .map_err(|message| Misuse(format!("config {}: {message}", path.display())))?;
    Ok(TrainArguments {
        config: arguments.config,
        resume: arguments.resume,
        ..merged
    })
}

/// The plan of a new run.
pub(crate) fn resolve(arguments: &TrainArguments) -> anyhow::Result<Plan> {
    let named = arguments.model.as_deref().map(str::parse::<Architecture>);
    let architecture = named
        .transpose()
        .map_err(|error| Misuse(error.to_string()))?;
    let named = arguments
        .preset
        .as_deref()
        .map(str::parse::<Preset>)
        .transpose();
    let preset = match (named.map_err(Misuse)?, architecture) {
        (Some(preset), _) => preset,
        (None, Some(architecture)) => Preset::of(architecture),
        (None, None) => Preset::Lstm128,
    };
    let given = plan_settings(arguments)?;
    let mut table = Table::try_from(preset.plan())?;
    table.extend(implied(&given, &preset.plan()));
    table.extend(given);
    let plan: Plan = from_table(table).map_err(Misuse)?;
    if plan.model.is_recurrent() != preset.plan().model.is_recurrent() {
        return Err(Misuse(format!(
            "model {} does not go with preset {preset}",
            plan.model
        ))
        .into());
    }
    plan.validate()?;
    Ok(of_our_models(plan))
}

/// The plan of settings that are given as a table, with the names of a config file.
pub(crate) fn resolve_table(table: Table) -> anyhow::Result<Plan> {
    check_keys(&table).map_err(Misuse)?;
    resolve(&from_table(table).map_err(Misuse)?)
}

/// All parameters of our models have their output units on the first axis, whatever `agc` says.
fn of_our_models(plan: Plan) -> Plan {
    Plan {
        clip: plan.clip.with_unit_axis(UnitAxis::First),
        ..plan
    }
}

/// The plan of a run that is resumed: its own, if nothing that was typed differs from it.
pub(crate) fn check_unchanged(arguments: &TrainArguments, plan: &Plan) -> anyhow::Result<()> {
    let mut table = Table::try_from(plan)?;
    table.extend(plan_settings(arguments)?);
    let asked = of_our_models(from_table(table).map_err(Misuse)?);
    let differing: Vec<String> = shears_train::compare_plans(plan, &asked)
        .into_iter()
        .map(|(name, was, asked)| format!("{name}: the run has {was}, not {asked}"))
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let message = "a resumed run keeps its settings; start a new run to change them";
    Err(Misuse(format!("{message} ({})", differing.join("; "))).into())
}

/// What was typed, as far as it belongs to the plan.
fn plan_settings(arguments: &TrainArguments) -> anyhow::Result<Table> {
    let mut table = to_table(arguments)?;
    for outside in OUTSIDE {
        table.remove(outside);
    }
    Ok(table)
}

/// Defaults that depend on what was typed.
fn implied(given: &Table, preset: &Plan) -> Table {
    let mut implied = Table::new();
    if let Some(hidden) = given.get("hidden") {
        implied.insert("embedding".into(), hidden.clone());
    }
    if !given.contains_key("text") && !given.contains_key("preset") {
        implied.insert("steps".into(), Value::Integer(CARRIED_STEPS));
        implied.insert("eval-every".into(), Value::Integer(CARRIED_EVAL_EVERY));
    }
    // PyTorch's own defaults of weight decay, when the optimizer is not the preset's.
    let optimizer = given.get("optimizer").and_then(Value::as_str);
    if let Some(Ok(kind)) = optimizer.map(str::parse::<OptimizerKind>)
        && kind != preset.optimizer
    {
        let decay = if kind == OptimizerKind::AdamW {
            0.01
        } else {
            0.0
        };
        implied.insert("weight-decay".into(), Value::Float(decay));
    }
    implied
}

fn read_config(path: &Path) -> Result<Table, Misuse> {
    let fail = |problem: String| Misuse(format!("config {}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let mut table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| fail(error.message().replace('\n', " ")))?;
    // A run's plan can serve as a config; the identity of its text is not a setting.
    table.remove("text-sha256");
    table.remove("val-sha256");
    check_keys(&table).map_err(fail)?;
    Ok(table)
}

fn check_keys(table: &Table) -> Result<(), String> {
    let known = known_keys();
    for key in table.keys() {
        if !known.contains(key) {
            let nearest = known.iter().max_by(|left, right| {
                strsim::jaro_winkler(left, key).total_cmp(&strsim::jaro_winkler(right, key))
            });
            let hint = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            return Err(format!("unknown key `{key}`{hint}"));
        }
    }
    Ok(())
}

/// The keys of a config file: those of the plan, and where to write and how.
fn known_keys() -> Vec<String> {
    let plan = Plan {
        val: Some("val".into()),
        ..Preset::Lstm128.plan()
    };
    let table = Table::try_from(plan).unwrap_or_default();
    let outside = OUTSIDE.map(String::from);
    table
        .into_iter()
        .map(|(key, _)| key)
        .chain(outside)
        .collect()
}

fn to_table(arguments: &TrainArguments) -> anyhow::Result<Table> {
    let table = Table::try_from(arguments);
    let limit = i64::MAX;
    Ok(table.map_err(|error| Misuse(format!("{error}; whole numbers go up to {limit}")))?)
}

fn from_table<T: serde::de::DeserializeOwned>(table: Table) -> Result<T, String> {
    table
        .try_into()
        .map_err(|error: toml::de::Error| error.to_string().trim().replace('\n', " "))
}

/// For clap: keeps the text, and checks that it is one of a `T`.
pub(crate) fn checked<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<String, String> {
    match text.parse::<T>() {
        Ok(_) => Ok(text.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
