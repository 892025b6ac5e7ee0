//! What a setting is: its name, help, default, range, and the choices it belongs to.
//!
//! `settings!` defines the plan as a list of them. All that the program knows of a setting comes
//! from its entry there: flag, key of `plan.toml` and config files, help, checks.

mod belongs;
mod value;

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use shears_model::Architecture;
use toml::Value;

use crate::plan::Preset;
use crate::plan::{Plan, PlanError};

pub use belongs::BelongsTo;
pub(crate) use value::SettingValue;

/// One setting of a [`Plan`], as `settings!` makes it of an entry.
#[derive(Debug)]
pub struct Setting {
    /// The name of flag and key.
    pub name: String,
    /// What it is about, and its heading in the help text.
    pub section: Section,
    /// What stands for the value in the help text.
    pub value_name: &'static str,
    /// Its documentation: lines of Markdown, the first paragraph a summary.
    pub documentation: &'static str,
    /// When the default is another one, in words.
    pub unless: Option<&'static str>,
    /// The names to choose from, where these are all.
    pub names: &'static [&'static str],
    /// Whether the flag alone means `true`.
    pub is_switch: bool,
    /// The choices it belongs to.
    pub belongs_to: BelongsTo,
    pub(crate) parse: fn(&str) -> Result<Value, String>,
    pub(crate) get: fn(&Plan) -> Option<Value>,
    pub(crate) set: fn(&mut Plan, Value) -> Result<(), String>,
    /// What the range is, if the plan's value is not in it.
    pub(crate) outside: fn(&Plan) -> Option<String>,
}

/// What a setting is about, in the order of the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The text and how it is read.
    Text,
    /// The model.
    Model,
    /// The batches, and how they become updates.
    Batches,
    /// The update rule.
    Optimizer,
    /// The learning rate over time.
    Schedule,
    /// Clipping, and gradients that are not finite.
    Clipping,
    /// Everything else.
    Run,
}

impl Setting {
    /// The value of the plan; none where it has none.
    pub fn value_in(&self, plan: &Plan) -> Option<Value> {
        (self.get)(plan)
    }

    /// Reads a value as it stands behind a flag.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, without the name of the setting.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        (self.parse)(text)
    }

    /// Sets the value of a plan, unchecked.
    pub(crate) fn set(&self, plan: &mut Plan, value: Value) -> Result<(), PlanError> {
        let set = (self.set)(plan, value);
        set.map_err(|problem| PlanError::about(&self.name, format!("`{}`: {problem}", self.name)))
    }

    /// Whether it belongs to what the plan has chosen.
    pub fn belongs(&self, plan: &Plan) -> bool {
        self.belongs_to.holds(plan)
    }

    /// Refuses the setting if it does not belong.
    pub(crate) fn check_belonging(&self, plan: &Plan) -> Result<(), PlanError> {
        if self.belongs(plan) {
            return Ok(());
        }
        let (name, these, chosen) = (&self.name, self.belongs_to, self.belongs_to.chosen(plan));
        let message = format!("{name} belongs to {these}, not to {chosen}");
        Err(PlanError::about(name, message))
    }

    /// Refuses a value that is out of range.
    pub(crate) fn check_range(&self, plan: &Plan) -> Result<(), PlanError> {
        let Some(range) = (self.outside)(plan) else {
            return Ok(());
        };
        let value = self
            .value_in(plan)
            .map_or(String::new(), |value| shown(&value));
        let message = format!("{} is {value}; it must be {range}", self.name);
        Err(PlanError::about(&self.name, message))
    }

    /// The default in words: that of recurrent models, that of the Transformer where it is another,
    /// and whether there are others.
    pub fn default(&self) -> Option<String> {
        let value = |preset: Preset| self.value_in(&preset.plan());
        let [recurrent, transformer] = [Preset::Lstm128, Preset::Gpt128].map(value);
        let mut words = match (self.name.as_str(), self.belongs_to) {
            // These two choose the defaults of the others.
            ("preset", _) => return recurrent.as_ref().map(shown),
            ("model", _) => return Some("the preset's".to_string()),
            (_, BelongsTo::Models(&[Architecture::Transformer])) => shown(&transformer?),
            (_, BelongsTo::Models(_)) => shown(&recurrent?),
            _ if recurrent == transformer => shown(&recurrent?),
            _ => format!(
                "{}; {} for the Transformer",
                shown(&recurrent?),
                shown(&transformer?)
            ),
        };
        let is_its_own = |preset: &Preset| value(*preset) != value(Preset::of(preset.model()));
        if Preset::ALL.iter().any(is_its_own) {
            words.push_str(", or the preset's");
        }
        if let Some(unless) = self.unless {
            words = format!("{words}; {unless}");
        }
        Some(words).filter(|words| !words.is_empty())
    }
}

/// A value as a person writes it.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Float(number) => format!("{number:?}").trim_end_matches(".0").to_string(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A range in words, if the value is outside of it.
pub(crate) fn outside<T: PartialOrd + Display>(
    value: &T,
    range: impl RangeBounds<T>,
) -> Option<String> {
    if range.contains(value) {
        return None;
    }
    let finite = |bound: &T| bound.to_string() != "inf";
    Some(match (range.start_bound(), range.end_bound()) {
        (Bound::Included(least), Bound::Included(most)) => format!("from {least} to {most}"),
        (least, most) => {
            let least = match least {
                Bound::Included(least) => format!("at least {least}"),
                Bound::Excluded(least) => format!("above {least}"),
                Bound::Unbounded => "any number".to_string(),
            };
            let most = match most {
                Bound::Included(most) => format!("at most {most}"),
                Bound::Excluded(most) if finite(most) => format!("below {most}"),
                Bound::Excluded(_) => "finite".to_string(),
                Bound::Unbounded => return Some(least),
            };
            format!("{least} and {most}")
        }
    })
}

/// Defines [`Plan`] and the table of its settings. An entry is a setting:
///
/// ```text
/// /// Documentation: the first paragraph is the short help.
/// min_lr: f64 {
///     section: Schedule, value: "RATE",
///     default: 0.0, transformer: 1e-4,           // of presets without and with a Transformer
///     unless: "in words, when it is another",
///     range: NOT_NEGATIVE,                       // any `RangeBounds`
///     belongs_to: Schedules(&[Cosine, Linear]),  // all plans have it, if this is left out
/// }
/// ```
///
/// `transformer`, `unless`, `range` and `belongs_to` may be left out; the order is fixed.
macro_rules! settings {
    ($(
        $(#[doc = $line:literal])+
        $name:ident: $Type:ty {
            section: $section:ident, value: $value:literal, default: $default:expr
            $(, transformer: $transformer:expr)? $(, unless: $unless:literal)?
            $(, range: $range:expr)? $(, belongs_to: $belongs_to:expr)? $(,)?
        }
    )+) => {
        /// Every setting of a run, resolved, with nothing implicit.
        ///
        /// Its form in TOML is `plan.toml` of the run's folder: the settings that belong to its
        /// model, optimizer, schedule and rule for gradients that are not finite, under the names
        /// of their flags. A setting belongs or it is refused: nothing that was given is without
        /// effect. The one exception is a `plan.toml` that is read: earlier versions wrote every
        /// setting into it, and what does not belong is left out. In memory such a setting has its
        /// default.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Plan {
            $($(#[doc = $line])+ pub $name: $Type,)+
            /// What the settings mean: see [`Plan::FORMAT`].
            pub format: u32,
            /// SHA-256 of the training and validation text together, filled in when it is read.
            pub text_sha256: String,
            /// SHA-256 of the file given by `val`.
            pub val_sha256: String,
            /// SHA-256 of the run's tokenizer; none in a plan of an earlier version.
            pub tokenizer_sha256: String,
            /// SHA-256 and name of each file of `init_from`, filled in when it is read.
            pub init_sha256: Vec<String>,
            /// Rows of the embedding, where a model that it started from has more than the
            /// tokenizer has tokens; 0 otherwise.
            pub vocabulary: usize,
            /// The token that ends a text, where a model that it started from has one.
            pub end_token: Option<u32>,
            /// The folder that relative paths of the text were typed in; none if there are none,
            /// and in a plan of an earlier version.
            pub paths_from: Option<PathBuf>,
            /// Settings that were changed when the run went on, the oldest first.
            pub changes: Vec<Change>,
        }

        impl Plan {
            /// The defaults of a kind of model.
            pub(crate) fn defaults(model: Architecture) -> Plan {
                let transformer = model == Architecture::Transformer;
                Plan {
                    $($name: {
                        let value = $default;
                        $(let value = if transformer { $transformer } else { value };)?
                        value
                    },)+
                    format: Plan::FORMAT,
                    text_sha256: String::new(),
                    val_sha256: String::new(),
                    tokenizer_sha256: String::new(),
                    init_sha256: Vec::new(),
                    vocabulary: 0,
                    end_token: None,
                    paths_from: None,
                    changes: Vec::new(),
                }
            }
        }

        fn table_of_settings() -> Vec<Setting> {
            vec![$(Setting {
                name: stringify!($name).replace('_', "-"),
                section: Section::$section,
                value_name: $value,
                documentation: concat!($($line, "\n"),+),
                unless: [$($unless)?].first().copied(),
                names: <$Type as SettingValue>::NAMES,
                is_switch: <$Type as SettingValue>::IS_SWITCH,
                belongs_to: [$($belongs_to,)? BelongsTo::All][0],
                parse: |text| <$Type as SettingValue>::parse(text)?.to_toml(),
                get: |plan| plan.$name.to_toml().ok(),
                set: |plan, value| {
                    plan.$name = <$Type as SettingValue>::from_toml(value)?;
                    Ok(())
                },
                outside: |_plan| {
                    $(if let Some(range) = outside(&_plan.$name, $range) {
                        return Some(range);
                    })?
                    None
                },
            }),+]
        }
    };
}
pub(crate) use settings;
