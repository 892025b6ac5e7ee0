//! From what was typed to the plan: preset, then config file, then flags.

use std::path::Path;

use gradclip::UnitAxis;
use shears_model::UnknownName;
use shears_train::{BelongsTo, OptimizerKind, Plan, PlanError, Preset};
use toml::{Table, Value};

use crate::arguments::TrainArguments;
use crate::exit::Misuse;

/// Steps of a run on the text that the program carries: about a minute on two cores.
const CARRIED_STEPS: i64 = 300;

/// Evaluations of such a run are quick, and its loss falls quickly.
const CARRIED_EVAL_EVERY: i64 = 100;

/// What a config file may have beside the plan: where to write and how.
pub(crate) const OUTSIDE: [&str; 6] = ["out", "threads", "quiet", "json", "tensorboard", "tui"];

/// The key by which the plan of a run is known from a config file that somebody has written.
const OF_A_RUN: &str = "text-sha256";

/// The flags with a config file's keys beneath them.
///
/// The plan of a run may serve as a config: with another model or optimizer than the run's, what does
/// not belong to that is left out. Of a file that somebody has written, it is refused.
pub(crate) fn with_config_file(arguments: TrainArguments) -> anyhow::Result<TrainArguments> {
    let Some(path) = arguments.config.clone() else {
        return Ok(arguments);
    };
    let fail = |message| Misuse(format!("config {}: {message}", path.display()));
    let mut config = read_config(&path)?;
    let is_of_run = config.remove(OF_A_RUN).is_some();
    // The identity of a text is not a setting.
    config.remove("val-sha256");
    check_keys(&config).map_err(fail)?;
    let typed = to_table(&arguments)?;
    let merge = |mut config: Table| -> Result<TrainArguments, Misuse> {
        config.extend(typed.clone());
        from_table(config).map_err(fail)
    };
    let mut merged = merge(config.clone())?;
    if is_of_run {
        let (plan, _) = unchecked(&merged)?;
        config.retain(|key, _| BelongsTo::of(key).check(key, &plan).is_ok());
        merged = merge(config)?;
    }
    Ok(TrainArguments {
        config: arguments.config,
        resume: arguments.resume,
        ..merged
    })
}

/// The plan of a new run.
pub(crate) fn resolve(arguments: &TrainArguments) -> anyhow::Result<Plan> {
    let (plan, preset) = unchecked(arguments)?;
    if plan.model.is_recurrent() != preset.plan().model.is_recurrent() {
        let message = format!("model {} does not go with preset {preset}", plan.model);
        return Err(Misuse(message).into());
    }
    check_belonging(&plan_settings(arguments)?, &plan)?;
    plan.validate()?;
    Ok(of_our_models(plan))
}

/// Refuses settings that do not belong to the model, the optimizer or the schedule of the plan.
fn check_belonging(given: &Table, plan: &Plan) -> Result<(), PlanError> {
    let mut names = given.keys();
    names.try_for_each(|name| BelongsTo::of(name).check(name, plan))
}

/// The preset with what was typed in place of its own, and the preset.
fn unchecked(arguments: &TrainArguments) -> anyhow::Result<(Plan, Preset)> {
    let model = arguments.model.as_deref().map(str::parse).transpose();
    let preset = arguments.preset.as_deref().map(str::parse).transpose();
    let misuse = |error: UnknownName| Misuse(error.to_string());
    let preset = match (preset.map_err(misuse)?, model.map_err(misuse)?) {
        (Some(preset), _) => preset,
        (None, Some(architecture)) => Preset::of(architecture),
        (None, None) => Preset::Lstm128,
    };
    let given = plan_settings(arguments)?;
    let mut table = Table::try_from(preset.plan())?;
    table.extend(implied(&given, &preset.plan()));
    table.extend(given);
    Ok((from_table(table).map_err(Misuse)?, preset))
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
    let given = plan_settings(arguments)?;
    check_belonging(&given, plan)?;
    let mut table = Table::try_from(plan)?;
    table.extend(given);
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
    let table = text.parse();
    table.map_err(|error: toml::de::Error| fail(error.message().replace('\n', " ")))
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
