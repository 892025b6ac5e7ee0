//! What a setting can be: a text behind a flag, a value in TOML.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use gradclip::{ClipPolicy, NonFinite};
use serde::de::DeserializeOwned;
use shears_data::{Encoding, TokenizerKind};
use shears_model::{Architecture, Mlp, Nonlinearity, Norm, Position, Precision};
use toml::Value;

use crate::optimizer::OptimizerKind;
use crate::plan::Preset;
use crate::schedule::ScheduleKind;

/// A type that settings have. Errors are without the name of the setting.
pub(crate) trait SettingValue: Sized {
    /// The names to choose from, where these are all.
    const NAMES: &'static [&'static str] = &[];
    /// Whether the flag alone means `true`.
    const IS_SWITCH: bool = false;

    /// As it stands behind a flag.
    fn parse(text: &str) -> Result<Self, String>;

    /// As a plan has it; an error is a value that there is no TOML for.
    fn to_toml(&self) -> Result<Value, String>;

    /// From a plan or a config file.
    fn from_toml(value: Value) -> Result<Self, String>;
}

/// Reads a value, which is to be `kind`.
fn read<T: DeserializeOwned>(value: Value, kind: &str) -> Result<T, String> {
    let shown = value.to_string();
    let read = value.try_into();
    read.map_err(|_: toml::de::Error| format!("{shown} is not {kind}"))
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Numbers and truth values are themselves in TOML.
macro_rules! plain {
    ($($Type:ty: $kind:expr $(, $constant:item)?;)+) => {$(
        impl SettingValue for $Type {
            $($constant)?

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("it must be {}", $kind))
            }

            fn to_toml(&self) -> Result<Value, String> {
                Value::try_from(self).map_err(|_| format!("it must be {}", $kind))
            }

            fn from_toml(value: Value) -> Result<Self, String> {
                read(value, $kind)
            }
        }
    )+};
}

/// What prints as it parses is a string in TOML.
macro_rules! text {
    ($($Type:ty $(, $names:expr)?;)+) => {$(
        impl SettingValue for $Type {
            $(const NAMES: &'static [&'static str] = $names;)?

            fn parse(text: &str) -> Result<Self, String> {
                parse(text)
            }

            fn to_toml(&self) -> Result<Value, String> {
                Ok(Value::String(self.to_string()))
            }

            fn from_toml(value: Value) -> Result<Self, String> {
                parse(&read::<String>(value, TEXT)?)
            }
        }
    )+};
}

/// TOML has no greater ones.
const WHOLE: &str = "a whole number from 0 to 9223372036854775807";
const TEXT: &str = "a text in quotes";

plain! {
    usize: WHOLE;
    u64: WHOLE;
    f64: "a number";
    bool: "true or false", const IS_SWITCH: bool = true;;
}

text! {
    String;
    TokenizerKind;
    Encoding;
    ClipPolicy;
    NonFinite;
    Preset, Preset::NAMES;
    Architecture, Architecture::NAMES;
    Nonlinearity, Nonlinearity::NAMES;
    Mlp, Mlp::NAMES;
    Norm, Norm::NAMES;
    Position, Position::NAMES;
    Precision, Precision::NAMES;
    OptimizerKind, OptimizerKind::NAMES;
    ScheduleKind, ScheduleKind::NAMES;
}

/// Several flags, or a list in TOML.
impl SettingValue for Vec<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(vec![PathBuf::from(text)])
    }

    fn to_toml(&self) -> Result<Value, String> {
        Value::try_from(self).map_err(|error| error.to_string())
    }

    fn from_toml(value: Value) -> Result<Self, String> {
        read(value, "a list of texts in quotes")
    }
}

/// None is no key in TOML.
impl SettingValue for Option<PathBuf> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Some(PathBuf::from(text)))
    }

    fn to_toml(&self) -> Result<Value, String> {
        let path = self.as_ref().ok_or("no value")?;
        Value::try_from(path).map_err(|error| error.to_string())
    }

    fn from_toml(value: Value) -> Result<Self, String> {
        read(value, TEXT).map(Some)
    }
}
