//! Values of settings, as flags and in TOML.

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

/// The type of a setting. Error messages do not name the setting.
pub(crate) trait SettingValue: Sized {
    /// The possible values, if it is an enumeration.
    const NAMES: &'static [&'static str] = &[];
    /// Whether the bare flag means `true`.
    const IS_SWITCH: bool = false;

    /// Parses the value of a flag.
    fn parse(text: &str) -> Result<Self, String>;

    /// Converts to TOML; fails for values that TOML cannot represent.
    fn to_toml(&self) -> Result<Value, String>;

    /// Converts from a plan or config file.
    fn from_toml(value: Value) -> Result<Self, String>;
}

/// Reads a value; `kind` describes the type in errors.
fn read<T: DeserializeOwned>(value: Value, kind: &str) -> Result<T, String> {
    let shown = value.to_string();
    let read = value.try_into();
    read.map_err(|_: toml::de::Error| format!("{shown} is not {kind}"))
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Numbers and booleans, native TOML types.
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

/// Types that print as they parse, TOML strings.
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

/// The largest TOML integer.
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

/// A repeated flag, or a TOML list.
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

/// `None` is a missing key in TOML.
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
