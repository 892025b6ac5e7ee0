//! Our own tokenizers in the Hugging Face `tokenizer.json` format, and back.

use std::collections::HashMap;

use serde_json::Value;

use super::byte_level;

/// 256 symbols without merges; the id of a symbol is its byte.
pub(crate) fn byte_json() -> String {
    let model = format!(
        r#"{{
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {},
    "merges": []
  }}"#,
        vocabulary(&byte_level::symbols())
    );
    let byte_level = r#"{
    "type": "ByteLevel",
    "add_prefix_space": false,
    "trim_offsets": true,
    "use_regex": false
  }"#;
    document(byte_level, byte_level, &model)
}

/// One word per character; the id is the index in `symbols`.
pub(crate) fn char_json(symbols: &[char]) -> String {
    // `[\s\S]` instead of a dot with a flag, whose name differs in the engine of the Python
    // package. `<unk>` is in no vocabulary of single characters, so unknown ones are errors.
    let pre_tokenizer = r#"{
    "type": "Split",
    "pattern": {
      "Regex": "[\\s\\S]"
    },
    "behavior": "Isolated",
    "invert": false
  }"#;
    let decoder = r#"{
    "type": "Fuse"
  }"#;
    let model = format!(
        r#"{{
    "type": "WordLevel",
    "vocab": {},
    "unk_token": "<unk>"
  }}"#,
        vocabulary(symbols)
    );
    document(pre_tokenizer, decoder, &model)
}

/// Whether the file is the byte tokenizer.
pub(crate) fn is_byte(json: &Value) -> bool {
    serde_json::from_str::<Value>(&byte_json()).is_ok_and(|ours| &ours == json)
}

/// The characters by id, if the file is a char tokenizer.
pub(crate) fn char_symbols(json: &Value) -> Option<Vec<char>> {
    let vocabulary = json["model"]["vocab"].as_object()?;
    let mut by_id = HashMap::with_capacity(vocabulary.len());
    for (token, id) in vocabulary {
        let mut chars = token.chars();
        let (symbol, None) = (chars.next()?, chars.next()) else {
            return None;
        };
        by_id.insert(id.as_u64()?, symbol);
    }
    let symbols: Vec<char> = (0..vocabulary.len() as u64)
        .map(|id| by_id.get(&id).copied())
        .collect::<Option<_>>()?;
    let ours: Value = serde_json::from_str(&char_json(&symbols)).ok()?;
    (&ours == json && !symbols.is_empty()).then_some(symbols)
}

/// Whether the file splits words like GPT-2 and changes nothing else, like our `bpe:N`.
pub(crate) fn is_plain_byte_level_bpe(json: &Value) -> bool {
    let pre_tokenizer = &json["pre_tokenizer"];
    json["model"]["type"] == "BPE"
        && json["normalizer"].is_null()
        && json["added_tokens"].as_array().is_none_or(Vec::is_empty)
        && pre_tokenizer["type"] == "ByteLevel"
        && pre_tokenizer["add_prefix_space"] == false
        && pre_tokenizer["use_regex"] == true
        && has_byte_level_decoder(json)
}

pub(crate) fn has_byte_level_decoder(json: &Value) -> bool {
    json["decoder"]["type"] == "ByteLevel"
}

fn vocabulary(symbols: &[char]) -> String {
    let lines: Vec<String> = symbols
        .iter()
        .enumerate()
        .map(|(id, symbol)| format!("      {}: {id}", Value::from(symbol.to_string())))
        .collect();
    format!("{{\n{}\n    }}", lines.join(",\n"))
}

fn document(pre_tokenizer: &str, decoder: &str, model: &str) -> String {
    format!(
        r#"{{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [],
  "normalizer": null,
  "pre_tokenizer": {pre_tokenizer},
  "post_processor": null,
  "decoder": {decoder},
  "model": {model}
}}
"#
    )
}
