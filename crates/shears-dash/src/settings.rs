//! The settings of a run, and where they differ from its preset.

use std::collections::BTreeMap;

use serde::Serialize;

/// Keys that identify a run's input rather than deviate from its preset.
const OWN: [&str; 12] = [
    "preset",
    "text",
    "val",
    "plan-format",
    "text-sha256",
    "val-sha256",
    "tokenizer-sha256",
    "init-from",
    "init-sha256",
    "vocabulary",
    "end-token",
    "seed",
];

/// Changes are shown separately, and the folder where a text's path was typed is private.
const NO_SETTINGS: [&str; 2] = ["changes", "paths-from"];

/// One key of `plan.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// As in TOML, but strings without quotes.
    pub(crate) value: String,
    /// The preset's value, if it differs.
    pub(crate) preset: Option<String>,
}

/// A setting as the page shows it.
pub(crate) fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(number) if *number != 0.0 && !(1e-4..1e15).contains(&number.abs()) => {
            format!("{number:e}")
        }
        toml::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            items.join(", ")
        }
        other => other.to_string(),
    }
}

/// What a size of 0 stands for.
fn derived(name: &str, value: &toml::Value) -> Option<String> {
    let words = match name {
        "kv-heads" => "as heads",
        "inner" => "from hidden",
        "context" => "as window",
        _ => return None,
    };
    (value.as_integer() == Some(0)).then(|| words.to_string())
}

/// The settings of a plan's preset, if they are known.
pub(crate) fn preset_of<'a>(
    plan: &toml::Table,
    presets: &'a BTreeMap<String, toml::Table>,
) -> Option<&'a toml::Table> {
    let name = plan.get("preset").and_then(toml::Value::as_str)?;
    presets.get(name)
}

/// A plan's model in words: "lstm, 2 layers of 128".
pub(crate) fn model(plan: &toml::Table) -> Option<String> {
    let kind = plan.get("model")?.as_str()?;
    let [layers, hidden] = ["layers", "hidden"].map(|name| plan.get(name)?.as_integer());
    Some(match layers.zip(hidden) {
        Some((1, hidden)) => format!("{kind}, 1 layer of {hidden}"),
        Some((layers, hidden)) => format!("{kind}, {layers} layers of {hidden}"),
        None => kind.to_string(),
    })
}

/// All settings of a plan, compared with its preset.
pub(crate) fn compared(
    plan: &toml::Table,
    presets: &BTreeMap<String, toml::Table>,
) -> Vec<Setting> {
    let preset = preset_of(plan, presets);
    let differing = |name: &str, value: &toml::Value| {
        let preset = preset.filter(|_| !OWN.contains(&name))?;
        match preset.get(name) {
            Some(expected) if expected == value => None,
            Some(expected) => Some(derived(name, expected).unwrap_or_else(|| shown(expected))),
            None => Some("none".to_string()),
        }
    };
    plan.iter()
        .filter(|(name, _)| !NO_SETTINGS.contains(&name.as_str()))
        .map(|(name, value)| Setting {
            name: name.clone(),
            value: derived(name, value).unwrap_or_else(|| shown(value)),
            preset: differing(name, value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn deviations_from_the_preset_are_named() {
        let plan = table(
            "preset = \"rnn-128\"\ntext = [\"a.txt\", \"b.txt\"]\nlr = 2.0\nepsilon = 1e-8\n\
             clip = \"none\"\nval = \"v\"\npaths-from = \"/home\"\n[[changes]]\nstep = 3\n",
        );
        let preset = table(
            "preset = \"rnn-128\"\ntext = []\nlr = 0.002\nepsilon = 1e-8\nclip = \"global-norm:5\"",
        );
        let presets = BTreeMap::from([("rnn-128".to_string(), preset)]);
        let settings = compared(&plan, &presets);
        let differing: Vec<_> = settings
            .iter()
            .filter_map(|setting| Some((setting.name.as_str(), setting.preset.as_deref()?)))
            .collect();
        assert_eq!(differing, [("clip", "global-norm:5"), ("lr", "0.002")]);
        let value = |name: &str| {
            let setting = settings.iter().find(|setting| setting.name == name);
            setting.unwrap().value.clone()
        };
        let hidden = |name: &&str| settings.iter().any(|setting| setting.name == *name);
        assert!(!NO_SETTINGS.iter().any(hidden));
        assert_eq!(value("text"), "a.txt, b.txt");
        assert_eq!(value("epsilon"), "1e-8");
        assert!(
            compared(&plan, &BTreeMap::new())
                .iter()
                .all(|s| s.preset.is_none())
        );
    }

    #[test]
    fn sizes_that_follow_from_others_are_words() {
        let plan = table("preset = 'gpt-128'\nkv-heads = 2\ninner = 0\nwarmup = 0");
        let presets = BTreeMap::from([("gpt-128".to_string(), table("kv-heads = 0\ninner = 0"))]);
        let settings = compared(&plan, &presets);
        let setting = |name: &str| {
            let setting = settings.iter().find(|setting| setting.name == name);
            setting.map(|setting| (setting.value.as_str(), setting.preset.as_deref()))
        };
        assert_eq!(setting("kv-heads"), Some(("2", Some("as heads"))));
        assert_eq!(setting("inner"), Some(("from hidden", None)));
        assert_eq!(setting("warmup"), Some(("0", Some("none"))));
    }

    #[test]
    fn a_model_is_described_by_its_own_settings() {
        let words = |plan: &str| model(&table(plan));
        let plan = "preset = 'lstm-128'\nmodel = 'gru'\nlayers = 2\nhidden = 64";
        assert_eq!(words(plan).as_deref(), Some("gru, 2 layers of 64"));
        let plan = "model = 'rnn'\nlayers = 1\nhidden = 16";
        assert_eq!(words(plan).as_deref(), Some("rnn, 1 layer of 16"));
        assert_eq!(words("layers = 1"), None);
    }
}
