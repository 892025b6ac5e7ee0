//! Plain messages for syntax errors in JSON and TOML, without the words of the parser.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

/// A fragment that follows the file's name: "is cut off at line 2, column 10".
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> String {
    let problem = match error.classify() {
        Category::Io => return "cannot be read".to_string(),
        Category::Eof => "is cut off".to_string(),
        Category::Syntax => "is not JSON".to_string(),
        Category::Data => data_problem(&error.to_string()),
    };
    // A converted value has no position in a file.
    match error.line() {
        0 => problem,
        line => format!("{problem} at line {line}, column {}", error.column()),
    }
}

/// The most letters shown of a name or value, which may be of any length in a stranger's file.
const SHOWN: usize = 60;

/// JSON of the wrong shape.
fn data_problem(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    let brief = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let name = message.split('`').nth(1).map(brief).unwrap_or_default();
    let starts = |start: &str| message.starts_with(start);
    if starts("missing field") {
        return format!("lacks `{name}`");
    }
    if starts("unknown ") || starts("duplicate ") {
        return format!("has an unknown or second `{name}`");
    }
    let value = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|start| message.strip_prefix(start));
    match value.and_then(|value| value.split(", expected").next()) {
        Some("map") => "has an object where something else belongs".to_string(),
        Some("sequence") => "has a list where something else belongs".to_string(),
        Some(value) => format!("has {} where something else belongs", brief(value)),
        None if starts("data did not match") => "has a part of an unknown kind".to_string(),
        // A message of the type that was read.
        None => message.to_string(),
    }
}

/// The same for TOML, as a sentence of its own; its messages may come from the types that are read.
#[must_use]
pub fn toml_problem(error: &toml::de::Error) -> String {
    let message = error.message();
    if message.starts_with("invalid type: integer") {
        // All other types are read as they are, and refused under their own names.
        return "a number exceeds the range of TOML".to_string();
    }
    let without_expectation = message.split(", expected ").next();
    without_expectation.unwrap_or(message).replace('\n', " ")
}

/// The most tensors of a file.
const MOST_TENSORS: usize = 100_000;
/// The most bytes of a tensor's name.
const LONGEST_NAME: usize = 10_000;

/// What is wrong with the names in the header of a safetensors file: one that is there twice, of
/// which readers take one without a word, one that is no name, and more than anybody has.
///
/// # Errors
///
/// If the header is no object of JSON.
pub fn names_problem(header: &[u8]) -> Result<Option<String>, serde_json::Error> {
    let Names {
        count,
        longest,
        repeated,
    } = serde_json::from_slice(header)?;
    let brief = |name: &str| name.chars().take(SHOWN).collect::<String>();
    Ok(if let Some(name) = repeated {
        Some(format!("has two tensors `{}`", brief(&name)))
    } else if count > MOST_TENSORS {
        Some(format!("has {count} tensors; {MOST_TENSORS} are the most"))
    } else if longest.len() > LONGEST_NAME {
        let (bytes, name) = (longest.len(), brief(&longest));
        Some(format!(
            "has a name of {bytes} bytes, `{name}...`; {LONGEST_NAME} are the most"
        ))
    } else {
        None
    })
}

/// What is to be known of the keys of an object.
struct Names {
    count: usize,
    longest: String,
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let (mut seen, mut repeated) = (BTreeSet::new(), None);
                while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                    repeated = repeated.or(seen.replace(name));
                }
                Ok(Names {
                    count: seen.len(),
                    longest: seen.into_iter().max_by_key(String::len).unwrap_or_default(),
                    repeated,
                })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn duplicate_long_and_excess_names_are_found() {
        let problem = |header: &str| names_problem(header.as_bytes()).unwrap();
        assert_eq!(problem("{\"a\": {\"b\": 1, \"b\": 2}, \"b\": [{}]}"), None);
        let twice = problem("{\"a\": 1, \"b\": 2, \"b\": 2, \"a\": 3}");
        assert_eq!(twice.as_deref(), Some("has two tensors `b`"));
        let long = problem(&format!("{{\"{}\": 0}}", "n".repeat(1 << 20)));
        assert!(long.is_some_and(|said| said.contains("1048576 bytes") && said.len() < 200));
        let names = |count: usize| {
            let names = (0..count).map(|number| format!("\"{number}\":0"));
            format!("{{{}}}", names.collect::<Vec<_>>().join(","))
        };
        assert_eq!(problem(&names(100_000)), None);
        let many = problem(&names(100_001));
        assert_eq!(
            many.as_deref(),
            Some("has 100001 tensors; 100000 are the most")
        );
        assert!(names_problem(b"[]").is_err());
    }

    #[test]
    fn syntax_errors_have_plain_messages() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Two {
            #[serde(rename = "count")]
            _count: u64,
        }
        for (text, problem) in [
            ("{\"count\":", "is cut off at line 1, column 9"),
            ("{\"count\" 3}", "is not JSON at line 1, column 10"),
            ("{}", "lacks `count` at line 1, column 2"),
            (
                "{\"count\":\"a\"}",
                "has string \"a\" where something else belongs at line 1, column 12",
            ),
            (
                "{\"cuont\":1}",
                "has an unknown or second `cuont` at line 1, column 8",
            ),
        ] {
            let error = serde_json::from_str::<Two>(text).unwrap_err();
            assert_eq!(json_problem(&error), problem);
        }
        let error = serde_json::from_value::<Two>(serde_json::json!({})).unwrap_err();
        assert_eq!(json_problem(&error), "lacks `count`");
        for (text, problem) in [
            (
                "a = 99999999999999999999",
                "a number exceeds the range of TOML",
            ),
            ("a = b", "string values must be quoted"),
        ] {
            let error = text.parse::<toml::Table>().unwrap_err();
            assert_eq!(toml_problem(&error), problem);
        }
    }
}
