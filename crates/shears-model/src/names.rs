//! Enums whose values have names, for display, command lines and files.

/// A text that is not the name of a value of an enum defined by [`named_enum!`](crate::named_enum).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{given}`: choose one of {}", names.join(", "))]
pub struct UnknownName {
    /// The text.
    pub given: String,
    /// What kind of value was expected.
    pub kind: &'static str,
    /// The valid names.
    pub names: &'static [&'static str],
}

/// Defines a fieldless enum whose values have names, with `ALL` (the values in order), `NAMES`,
/// `name`, `Display`, `FromStr`, and Serde's traits, which use the name.
#[macro_export]
macro_rules! named_enum {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $Enum:ident: $kind:literal {
            $($(#[$of_value:meta])* $Value:ident = $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $Enum {
            $($(#[$of_value])* $Value,)+
        }

        impl $Enum {
            /// All values, in the order of the help text.
            $visibility const ALL: &'static [Self] = &[$(Self::$Value),+];

            /// The names of all values.
            $visibility const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name, as it is printed and parsed.
            $visibility const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }

        impl ::std::fmt::Display for $Enum {
            fn fmt(&self, formatter: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                formatter.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $Enum {
            type Err = $crate::UnknownName;

            fn from_str(given: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().find(|value| value.name() == given);
                found.copied().ok_or_else(|| $crate::UnknownName {
                    given: given.to_string(),
                    kind: $kind,
                    names: Self::NAMES,
                })
            }
        }

        impl ::serde::Serialize for $Enum {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $Enum {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let given = <String as ::serde::Deserialize>::deserialize(deserializer)?;
                given.parse().map_err(::serde::de::Error::custom)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    crate::named_enum! {
        /// A way to move.
        enum Gait: "gait" {
            /// Slow.
            Walk = "walk",
            /// Fast.
            Run = "run",
        }
    }

    #[test]
    fn values_print_as_they_parse() {
        assert_eq!(Gait::NAMES, ["walk", "run"]);
        for (gait, name) in Gait::ALL.iter().zip(Gait::NAMES) {
            assert_eq!(gait.to_string(), *name);
            assert_eq!(name.parse(), Ok(*gait));
            let text: StrDeserializer<'_, Error> = name.into_deserializer();
            assert_eq!(Gait::deserialize(text), Ok(*gait));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_valid_ones() {
        let error = "fly".parse::<Gait>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown gait `fly`: choose one of walk, run"
        );
        let text: StrDeserializer<'_, Error> = "fly".into_deserializer();
        let error = Gait::deserialize(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown gait `fly`: choose one of walk, run"
        );
    }
}
