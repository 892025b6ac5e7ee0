//! Plain messages for syntax errors in JSON and TOML, without the words of the parser.

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

/// Escapes control characters, so that a name from a stranger's file stays in its line.
#[must_use]
pub fn escaped(text: &str) -> String {
    let characters = text.chars().map(|character| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    });
    characters.collect()
}

/// A name or value in a message.
fn brief(text: &str) -> String {
    escaped(&text.chars().take(SHOWN).collect::<String>())
}

/// JSON of the wrong shape.
fn data_problem(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
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
        None => escaped(message),
    }
}

/// The same for TOML, as a sentence of its own; its messages may come from the types that are read.
#[must_use]
pub fn toml_problem(error: &toml::de::Error) -> String {
    let message = error.message();
    let is_beyond = message.contains("was too large") || message.contains("number overflowed");
    if is_beyond || message.starts_with("invalid type: integer") {
        // All other types are read as they are, and refused under their own names.
        return "a number exceeds the range of TOML".to_string();
    }
    let without_expectation = message.split(", expected ").next();
    escaped(&without_expectation.unwrap_or(message).replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

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
            (
                "a = 18446744073709551615",
                "a number exceeds the range of TOML",
            ),
            ("a = 1e400", "a number exceeds the range of TOML"),
            ("a = b", "string values must be quoted"),
        ] {
            let error = text.parse::<toml::Table>().unwrap_err();
            assert_eq!(toml_problem(&error), problem);
        }
    }
}
