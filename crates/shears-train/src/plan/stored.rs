//! Reading and writing `plan.toml`.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shears_model::ModelConfig;
use toml::{Table, Value};

use super::{Plan, PlanError, Section};
use crate::plan::Preset;

/// The keys of the file that are not settings.
const FORMAT: &str = "plan-format";
const HASHES: [&str; 3] = ["text-sha256", "val-sha256", "tokenizer-sha256"];
const INIT: [&str; 3] = ["init-sha256", "vocabulary", "end-token"];
pub(super) const PATHS_FROM: &str = "paths-from";
const CHANGES: &str = "changes";

impl Plan {
    /// Whether a table is a run's stored plan, not a user's config.
    pub fn is_stored(table: &Table) -> bool {
        table.contains_key(HASHES[0])
    }

    /// Removes the keys that are not settings: format, hashes, paths and changes.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if this version does not know the format.
    pub fn remove_identity(table: &mut Table) -> Result<(), PlanError> {
        for name in HASHES.into_iter().chain(INIT).chain([PATHS_FROM, CHANGES]) {
            table.remove(name);
        }
        read_format(table.remove(FORMAT)).map(|_| ())
    }

    /// Every setting, including those that do not belong.
    pub fn complete(&self) -> Table {
        let values = Plan::settings().iter();
        let values = values.filter_map(|s| Some((s.name.clone(), s.value_in(self)?)));
        values.collect()
    }

    /// The plan with the sizes of the model in place of zeros, for a reader.
    pub fn with_sizes(&self) -> Plan {
        let model = self.model_config();
        Plan {
            kv_heads: model.kv_heads(),
            inner: model.inner(),
            context: model.context,
            ..self.clone()
        }
    }

    /// The settings of a model with this configuration, by name. Sizes that can be numbers or
    /// derived are written as in `given`, if both are the same.
    pub fn settings_of(config: &ModelConfig, given: &Table) -> Table {
        let plan = Plan {
            model: config.architecture,
            layers: config.layers,
            hidden: config.hidden,
            embedding: config.embedding,
            heads: config.heads,
            kv_heads: config.block.kv_heads,
            norm: config.block.norm,
            norm_epsilon: config.block.norm_epsilon,
            position: config.block.position,
            rope_theta: config.block.rope_theta,
            mlp: config.block.mlp,
            inner: config.block.inner,
            bias: config.block.bias,
            context: config.context,
            tied: config.tied,
            nonlinearity: config.nonlinearity,
            ..Plan::defaults(config.architecture)
        };
        let mut sizes = given.clone();
        sizes.retain(|name, _| ["kv-heads", "inner"].contains(&name));
        let plan = match plan.with(&sizes) {
            Ok(typed) => typed.with_equal_sizes(plan),
            // It is refused with all given settings.
            Err(_) => plan,
        };
        // These concern initialisation and training.
        let others = ["preset", "init-from", "dropout", "forget-bias", "precision"];
        let of_shape = Plan::settings().iter().filter(|setting| {
            let is_other = others.contains(&setting.name.as_str());
            setting.section == Section::Model && !is_other && setting.belongs(&plan)
        });
        let named = of_shape.filter_map(|s| Some((s.name.clone(), s.value_in(&plan)?)));
        named.collect()
    }

    fn from_stored(mut table: Table) -> Result<Plan, PlanError> {
        let hash = |name: &str| stored::<String>(name, table.remove(name));
        let [text_sha256, val_sha256, tokenizer_sha256] = HASHES.map(hash);
        let [init_sha256, vocabulary, end_token] = INIT.map(|name| table.remove(name));
        let format = read_format(table.remove(FORMAT))?;
        let paths_from = stored(PATHS_FROM, table.remove(PATHS_FROM))?;
        let changes = table
            .remove(CHANGES)
            .map_or(Ok(Vec::new()), Value::try_into);
        let changes = changes.map_err(|_: toml::de::Error| {
            let problem = "is not a list of changes with step, name, before and after";
            PlanError::new(format!("`{CHANGES}` {problem}; put back what it was"))
        })?;
        let mut plan = Preset::Lstm128.plan();
        for (name, value) in &table {
            plan.set(name, value.clone())?;
        }
        // Settings that do not belong get their defaults, ignoring what earlier versions wrote.
        let defaults = plan.preset.plan();
        for setting in Plan::settings() {
            let is_there = table.contains_key(&setting.name);
            let default = setting.value_in(&defaults);
            match default {
                // Optional paths may be missing, and earlier versions lacked some settings.
                None => {}
                Some(_) if is_there && setting.belongs(&plan) => {}
                Some(default) if !setting.belongs(&plan) || setting.is_later => {
                    setting.set(&mut plan, default)?;
                }
                Some(_) => {
                    let message = format!("`{}` is missing", setting.name);
                    return Err(PlanError::about(&setting.name, message));
                }
            }
        }
        Ok(Plan {
            format,
            text_sha256: text_sha256?.unwrap_or_default(),
            val_sha256: val_sha256?.unwrap_or_default(),
            tokenizer_sha256: tokenizer_sha256?.unwrap_or_default(),
            init_sha256: stored(INIT[0], init_sha256)?.unwrap_or_default(),
            vocabulary: stored(INIT[1], vocabulary)?.unwrap_or_default(),
            end_token: stored(INIT[2], end_token)?,
            paths_from,
            changes,
            ..plan
        })
    }
}

/// Converts a stored value.
fn stored<T: DeserializeOwned>(name: &str, value: Option<Value>) -> Result<Option<T>, PlanError> {
    let value = value.map(Value::try_into).transpose();
    value.map_err(|_: toml::de::Error| {
        PlanError::new(format!(
            "`{name}` is not what a run writes; restore the original value"
        ))
    })
}

/// Reads the format, which the first versions did not write.
fn read_format(value: Option<Value>) -> Result<u32, PlanError> {
    let format = match value {
        None => return Ok(1),
        Some(value) => value
            .as_integer()
            .and_then(|format| u32::try_from(format).ok()),
    };
    match format {
        Some(format) if (2..=Plan::FORMAT).contains(&format) => Ok(format),
        Some(format) if format > Plan::FORMAT => Err(PlanError::new(format!(
            "the run is of a newer shears: its format is {format}, and this version reads formats up \
             to {}; use the newer one",
            Plan::FORMAT
        ))),
        _ => Err(PlanError::new(
            "`plan-format` is not a valid format; restore the original value",
        )),
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for setting in Plan::settings() {
            if setting.belongs(self)
                && let Some(value) = setting.value_in(self)
            {
                map.serialize_entry(&setting.name, &value)?;
            }
        }
        if self.format > 1 {
            map.serialize_entry(FORMAT, &self.format)?;
        }
        map.serialize_entry(HASHES[0], &self.text_sha256)?;
        map.serialize_entry(HASHES[1], &self.val_sha256)?;
        if !self.tokenizer_sha256.is_empty() {
            map.serialize_entry(HASHES[2], &self.tokenizer_sha256)?;
        }
        if !self.init_sha256.is_empty() {
            map.serialize_entry(INIT[0], &self.init_sha256)?;
        }
        if self.vocabulary > 0 {
            map.serialize_entry(INIT[1], &self.vocabulary)?;
        }
        if let Some(token) = self.end_token {
            map.serialize_entry(INIT[2], &token)?;
        }
        if let Some(folder) = &self.paths_from {
            map.serialize_entry(PATHS_FROM, folder)?;
        }
        // TOML tables come last.
        if !self.changes.is_empty() {
            map.serialize_entry(CHANGES, &self.changes)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let plan = Plan::from_stored(Table::deserialize(deserializer)?);
        plan.map_err(D::Error::custom)
    }
}

/// A setting in which two plans differ: name, value in the first, value in the second.
pub type Difference = (String, String, String);

/// The settings and hashes in which two plans differ. Ignores recorded changes and the folder of
/// relative paths.
pub fn compare_plans(left: &Plan, right: &Plan) -> Vec<Difference> {
    let table = |plan: &Plan| {
        let mut table = Table::try_from(plan).unwrap_or_default();
        table.retain(|name, _| name != PATHS_FROM && name != CHANGES);
        table
    };
    let (left, right) = (table(left), table(right));
    let show = |value: Option<&toml::Value>| value.map_or("none".to_string(), |v| v.to_string());
    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name));
    differing
        .map(|name| (name.clone(), show(left.get(name)), show(right.get(name))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_round_trip() {
        for &preset in Preset::ALL {
            let plan = preset.plan();
            plan.validate().unwrap();
            let text = toml::to_string(&plan).unwrap();
            assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan, "{preset}");
        }
    }

    #[test]
    fn a_plan_stores_only_settings_that_belong() {
        let plan = Preset::Gpt128.plan();
        let table = Table::try_from(&plan).unwrap();
        for setting in Plan::settings() {
            let has_value = setting.value_in(&plan).is_some();
            let there = has_value && setting.belongs(&plan);
            assert_eq!(table.contains_key(&setting.name), there, "{}", setting.name);
        }
        assert!(!table.contains_key("momentum") && !table.contains_key("nonlinearity"));
    }

    #[test]
    fn a_complete_plan_of_an_earlier_version_is_the_same() {
        for &preset in Preset::ALL {
            // Earlier versions only had the first format.
            let plan = Plan {
                format: 1,
                ..preset.plan()
            };
            let mut complete = plan.complete();
            // Their values of settings that do not belong.
            complete.insert(
                "heads".into(),
                plan.heads.try_into().map(Value::Integer).unwrap(),
            );
            complete.insert("momentum".into(), Value::Float(0.5));
            // `val` and `init-from` have no value.
            assert_eq!(complete.len(), Plan::settings().len() - 2);
            let read = Plan::deserialize(complete).unwrap();
            assert_eq!(read, plan);
            assert_eq!(compare_plans(&read, &plan), []);
        }
    }

    #[test]
    fn a_plan_that_lacks_a_setting_is_refused() {
        let plan = Preset::Lstm128.plan();
        for setting in Plan::settings() {
            let mut table = Table::try_from(&plan).unwrap();
            let removed = table.remove(&setting.name).is_some();
            let read = Plan::deserialize(table);
            match removed && !setting.is_later {
                true => {
                    let error = read.unwrap_err().to_string();
                    assert!(error.contains(&format!("`{}`", setting.name)), "{error}");
                }
                false => assert_eq!(read.unwrap(), plan),
            }
        }
        let mut table = Table::try_from(&plan).unwrap();
        for name in HASHES.into_iter().chain(INIT).chain([PATHS_FROM, CHANGES]) {
            let mut edited = table.clone();
            edited.insert(name.into(), Value::Float(0.5));
            let error = Plan::deserialize(edited).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}` is not")), "{error}");
        }
        table.insert("stpes".into(), Value::Integer(1));
        let error = Plan::deserialize(table).unwrap_err().to_string();
        assert!(error.contains("`stpes`"), "{error}");
    }

    #[test]
    fn a_plan_keeps_its_format_and_a_newer_one_is_refused() {
        let plan = Preset::Lstm128.plan();
        let mut table = Table::try_from(&plan).unwrap();
        let newer = Value::Integer(i64::from(Plan::FORMAT) + 1);
        for (format, expected) in [
            (newer, "newer shears"),
            (Value::Integer(1), "not a valid format"),
            (Value::Integer(-1), "not a valid format"),
            (Value::String("2".into()), "not a valid format"),
        ] {
            table.insert(FORMAT.into(), format);
            let error = Plan::deserialize(table.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        table.remove(FORMAT);
        let first = Plan::deserialize(table.clone()).unwrap();
        assert_eq!(first, Plan { format: 1, ..plan });
        assert_eq!(Table::try_from(&first).unwrap(), table);
    }

    #[test]
    fn plans_differ_by_name_and_value() {
        let left = Preset::Lstm128.plan();
        let right = Plan {
            lr: 0.1,
            hidden: 64,
            ..left.clone()
        };
        let differing = compare_plans(&left, &right);
        let expected = [("hidden", "128", "64"), ("lr", "0.002", "0.1")];
        let expected = expected.map(|(n, l, r)| (n.to_string(), l.to_string(), r.to_string()));
        assert_eq!(differing, expected);
        assert_eq!(compare_plans(&left, &left), []);
    }
}
