//! Files beside the weights.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::error::ExchangeError;

/// Writes pretty-printed JSON.
pub(crate) fn write_json(folder: &Path, name: &str, value: &Value) -> Result<(), ExchangeError> {
    write_text(folder, name, &format!("{value:#}\n"))
}

pub(crate) fn write_text(folder: &Path, name: &str, text: &str) -> Result<(), ExchangeError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(ExchangeError::write(&path))
}

/// Writes `tokenizer.json`.
pub(crate) fn write_tokenizer(folder: &Path, json: &str) -> Result<(), ExchangeError> {
    write_text(folder, "tokenizer.json", &without_frame(json))
}

/// A `tokenizer.json` with the same ids as here, where a text is neither truncated nor padded, and
/// no token is added before or after it, as other programs would do if the file says so.
fn without_frame(json: &str) -> Cow<'_, str> {
    let Ok(mut tokenizer) = serde_json::from_str::<Value>(json) else {
        return json.into();
    };
    let mut is_changed = false;
    for key in ["post_processor", "truncation", "padding"] {
        let found = tokenizer.get_mut(key);
        // GPT-2's post-processor only changes offsets into the text.
        if let Some(found) = found.filter(|of| !of.is_null() && of["type"] != "ByteLevel") {
            *found = Value::Null;
            is_changed = true;
        }
    }
    match is_changed {
        true => format!("{tokenizer:#}\n").into(),
        false => json.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn post_processors_that_add_tokens_are_removed() {
        let json = |after: Value| json!({ "model": {}, "post_processor": after }).to_string();
        for kept in [Value::Null, json!({ "type": "ByteLevel" })] {
            let json = json(kept);
            assert_eq!(without_frame(&json), json);
        }
        let template = json!({ "type": "TemplateProcessing", "single": [] });
        let without: Value = serde_json::from_str(&without_frame(&json(template))).unwrap();
        assert_eq!(without, json!({ "model": {}, "post_processor": null }));
    }
}
