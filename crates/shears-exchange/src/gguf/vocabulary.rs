//! Our tokenizers for llama.cpp, all as byte-level BPE with GPT-2's pattern.
//!
//! Char and byte vocabularies become a BPE as well. The merges of a character join its bytes from
//! left to right; lead and continuation bytes differ, so that no merge crosses characters, and
//! intermediate results need not be tokens.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use shears_data::{Units, byte_alphabet};

use super::file::Value;
use super::unsupported;
use crate::error::ExchangeError;
use crate::export::TrainedModel;

/// A merge that never applies, because no byte maps to its character: llama.cpp accepts neither a
/// vocabulary without merges nor an empty list.
const NO_MERGE: &str = "\u{2603} \u{2603}";
/// The end-of-text token of a model without one.
const END: &str = "<|endoftext|>";

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// A tokenizer as llama.cpp reads it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    end: u32,
    /// Tokens that must not be generated.
    suppressed: Vec<i32>,
}

impl Vocabulary {
    pub(super) fn of(model: &TrainedModel<'_>) -> Result<Self, ExchangeError> {
        let tokenizer = model.tokenizer;
        let (mut tokens, mut types, merges) = match tokenizer.units() {
            Units::Bytes => {
                let tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
                let types = vec![NORMAL; tokens.len()];
                (tokens, types, Vec::new())
            }
            Units::Characters(symbols) => {
                let tokens: Vec<String> = symbols.iter().map(|symbol| bytes_of(*symbol)).collect();
                let types = vec![NORMAL; tokens.len()];
                (tokens, types, merges_of(symbols))
            }
            Units::Other => bpe(tokenizer.json()).ok_or_else(|| {
                let what = format!("the tokenizer ({})", tokenizer.describe());
                let instead = "use byte, char, or byte-level BPE with GPT-2's pattern";
                unsupported(what, instead)
            })?,
        };
        // Rows of the embedding that the tokenizer lacks.
        let mut suppressed = Vec::new();
        for id in tokens.len()..model.vocabulary() {
            suppressed.push(id as i32);
            tokens.push(format!("[PAD{id}]"));
            types.push(UNUSED);
        }
        let end = model.end_token.unwrap_or_else(|| {
            // Without one llama.cpp would use token 11. This one must not be generated from its row
            // of zeros.
            tokens.push(END.to_string());
            types.push(CONTROL);
            suppressed.push(tokens.len() as i32 - 1);
            tokens.len() as u32 - 1
        });
        let merges = match merges.is_empty() {
            true => vec![NO_MERGE.to_string()],
            false => merges,
        };
        Ok(Vocabulary {
            tokens,
            types,
            merges,
            end,
            suppressed,
        })
    }

    /// As metadata of the file.
    pub(super) fn values(self) -> Vec<(String, Value)> {
        let mut values = vec![
            ("model", Value::String("gpt2".into())),
            ("pre", Value::String("gpt-2".into())),
            ("tokens", Value::Strings(self.tokens)),
            ("token_type", Value::Integers(self.types)),
            ("merges", Value::Strings(self.merges)),
            ("bos_token_id", Value::U32(self.end)),
            ("eos_token_id", Value::U32(self.end)),
            ("add_bos_token", Value::Bool(false)),
        ];
        if !self.suppressed.is_empty() {
            values.push(("suppress_tokens", Value::Integers(self.suppressed)));
        }
        let named = values.into_iter();
        named
            .map(|(name, value)| (format!("tokenizer.ggml.{name}"), value))
            .collect()
    }
}

/// The bytes of a character in GPT-2's byte alphabet.
fn bytes_of(symbol: char) -> String {
    let alphabet = byte_alphabet();
    let bytes = symbol.to_string().into_bytes();
    bytes
        .iter()
        .map(|byte| alphabet[usize::from(*byte)])
        .collect()
}

fn merges_of(symbols: &[char]) -> Vec<String> {
    let (mut merges, mut seen) = (Vec::new(), BTreeSet::new());
    for symbol in symbols {
        let bytes = bytes_of(*symbol);
        for (end, byte) in bytes.char_indices().skip(1) {
            let merge = format!("{} {byte}", &bytes[..end]);
            if seen.insert(merge.clone()) {
                merges.push(merge);
            }
        }
    }
    merges
}

type Bpe = (Vec<String>, Vec<i32>, Vec<String>);

/// Tokens, their types and merges of a `tokenizer.json` that splits text like GPT-2's.
fn bpe(json: &str) -> Option<Bpe> {
    let json: Json = serde_json::from_str(json).ok()?;
    let before = &json["pre_tokenizer"];
    let model = &json["model"];
    let is_gpt_2 = model["type"] == "BPE"
        && json["normalizer"].is_null()
        && before["type"] == "ByteLevel"
        && before["add_prefix_space"] == false
        && before["use_regex"] != false
        && json["decoder"]["type"] == "ByteLevel";
    if !is_gpt_2 {
        return None;
    }
    let known = model["vocab"].as_object()?;
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added: Vec<(&str, u64)> = added
        .map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)))
        .collect::<Option<_>>()?;
    let ids = known
        .iter()
        .map(|(token, id)| Some((token.as_str(), id.as_u64()?)));
    let mut ids: Vec<(&str, u64)> = ids.collect::<Option<_>>()?;
    ids.extend(
        added
            .iter()
            .filter(|(token, _)| !known.contains_key(*token)),
    );
    ids.sort_by_key(|(_, id)| *id);
    let mut in_order = ids.iter().zip(0..);
    if !in_order.all(|((_, id), place)| *id == place) {
        return None;
    }
    let is_added = |id: &u64| added.iter().any(|(_, added)| added == id);
    let types = ids
        .iter()
        .map(|(_, id)| if is_added(id) { CONTROL } else { NORMAL });
    let merges = model["merges"].as_array()?.iter().map(|merge| {
        // A string before `tokenizers` 0.20, a pair since then.
        let pair = merge
            .as_array()
            .map(|pair| (pair[0].as_str(), pair[1].as_str()));
        match pair {
            Some((Some(left), Some(right))) => Some(format!("{left} {right}")),
            _ => merge.as_str().map(str::to_string),
        }
    });
    let tokens = ids.iter().map(|(token, _)| token.to_string()).collect();
    Some((tokens, types.collect(), merges.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_merged_from_its_bytes() {
        assert_eq!(bytes_of(' '), "\u{120}");
        assert_eq!(merges_of(&['a', ' ']), Vec::<String>::new());
        let of_two = merges_of(&['\u{e9}', '\u{ea}']);
        assert_eq!(of_two.len(), 2);
        // The common prefix is merged once.
        let of_four = merges_of(&['\u{1f642}', '\u{1f643}']);
        assert_eq!(of_four.len(), 4);
        assert_eq!(of_four[2].split(' ').next().unwrap().chars().count(), 3);
    }

    #[test]
    fn merges_are_read_in_both_forms_and_other_tokenizers_not_at_all() {
        let json = |merges: &str, regex: &str| {
            format!(
                r#"{{"added_tokens": [{{"id": 3, "content": "<end>"}}], "normalizer": null,
                "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false {regex}}},
                "decoder": {{"type": "ByteLevel"}},
                "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1, "ab": 2}}, "merges": {merges}}}}}"#
            )
        };
        let of = |merges: &str| bpe(&json(merges, "")).unwrap();
        let (tokens, types, merges) = of(r#"["a b"]"#);
        assert_eq!(tokens, ["a", "b", "ab", "<end>"]);
        assert_eq!(types, [NORMAL, NORMAL, NORMAL, CONTROL]);
        assert_eq!(merges, ["a b"]);
        assert_eq!(of(r#"[["a", "b"]]"#).2, merges);
        assert!(bpe(&json("[]", ", \"use_regex\": false")).is_none());
    }
}
