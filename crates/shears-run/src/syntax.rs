//! What is wrong with a file of JSON or TOML, without the words of the library that reads it.

use serde_json::error::Category;

/// A fragment of a sentence that follows the file's name: "is cut off at line 2, column 10".
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> String {
    let problem = match error.classify() {
        Category::Io => return "cannot be read".to_string(),
        Category::Eof => "is cut off".to_string(),
        Category::Syntax => "is not JSON".to_string(),
        Category::Data => data_problem(&error.to_string()),
    };
    // A value that was converted and not read has no place.
    match error.line() {
        0 => problem,
        line => format!("{problem} at line {line}, column {}", error.column()),
    }
}

/// Letters of a name or value that are shown: a stranger's file may have any number.
const SHOWN: usize = 60;

/// JSON that is something else than was asked for.
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
        Some("map") => "has an object in the place of something else".to_string(),
        Some("sequence") => "has a list in the place of something else".to_string(),
        Some(value) => format!("has {} in the place of something else", brief(value)),
        None if starts("data did not match") => "has a part of an unknown kind".to_string(),
        // In the words of who reads it.
        None => message.to_string(),
    }
}

/// The same of TOML, where the words may be those of who reads it, as a sentence of its own.
#[must_use]
pub fn toml_problem(error: &toml::de::Error) -> String {
    let message = error.message();
    if message.starts_with("invalid type: integer") {
        // All others are read as they are, and refused by their own names.
        return "a number is larger than TOML has them".to_string();
    }
    let before_what_was_expected = message.split(", expected ").next();
    before_what_was_expected
        .unwrap_or(message)
        .replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn problems_are_said_in_words_of_our_own() {
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
                "has string \"a\" in the place of something else at line 1, column 12",
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
                "a number is larger than TOML has them",
            ),
            ("a = b", "string values must be quoted"),
        ] {
            let error = text.parse::<toml::Table>().unwrap_err();
            assert_eq!(toml_problem(&error), problem);
        }
    }
}
