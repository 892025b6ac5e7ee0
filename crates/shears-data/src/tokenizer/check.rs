//! What a `tokenizer.json` must satisfy before it is passed to the library.
//!
//! The library trusts its input: some files make it panic, others leave holes in the ids, which
//! index the rows of an embedding.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Checks what the library does not; the error says what is wrong.
pub(crate) fn check(json: &Value) -> Result<(), String> {
    let model = json.get("model").filter(|model| model.is_object()).ok_or(
        "it has no `model`: give a tokenizer.json in the Hugging Face format, not a vocab.json",
    )?;
    if model
        .get("dropout")
        .is_some_and(|dropout| !dropout.is_null() && dropout != 0.0)
    {
        return Err("`model.dropout` makes ids random: set it to null".to_owned());
    }
    let vocabulary = vocabulary(model)?;
    if vocabulary.is_empty() {
        return Err("`model.vocab` is empty: train the tokenizer again".to_owned());
    }
    check_ids(&vocabulary, json)?;
    check_merges(&vocabulary, model)
}

fn vocabulary(model: &Value) -> Result<HashMap<&str, u64>, String> {
    match model.get("vocab") {
        Some(Value::Object(entries)) => entries
            .iter()
            .map(|(token, id)| match id.as_u64() {
                Some(id) => Ok((token.as_str(), id)),
                None => Err(format!(
                    "token {token:?} has the id {id}: it must be 0 or more"
                )),
            })
            .collect(),
        // Unigram: pairs of token and score; the id is the index. Tokens may repeat, so the
        // index is part of the key.
        Some(Value::Array(entries)) => entries
            .iter()
            .zip(0..)
            .map(|(entry, id)| match entry.get(0).and_then(Value::as_str) {
                Some(token) => Ok((token, id)),
                None => Err(format!(
                    "entry {id} of `model.vocab` is not a pair of token and score"
                )),
            })
            .collect(),
        _ => Err("`model.vocab` is missing: train or download the tokenizer again".to_owned()),
    }
}

fn check_ids(vocabulary: &HashMap<&str, u64>, json: &Value) -> Result<(), String> {
    let mut ids = HashSet::with_capacity(vocabulary.len());
    for (token, id) in vocabulary {
        if !ids.insert(*id) {
            return Err(format!(
                "id {id} belongs to two tokens, one of them {token:?}"
            ));
        }
    }
    let none = Vec::new();
    let added = match json.get("added_tokens") {
        None | Some(Value::Null) => &none,
        Some(Value::Array(added)) => added,
        Some(_) => return Err("`added_tokens` is not a list".to_owned()),
    };
    let mut added_ids: HashMap<&str, u64> = HashMap::new();
    for token in added {
        let (Some(id), Some(content)) = (
            token.get("id").and_then(Value::as_u64),
            token.get("content").and_then(Value::as_str),
        ) else {
            return Err("an entry of `added_tokens` has no id or no content".to_owned());
        };
        let known = vocabulary
            .get(content)
            .or_else(|| added_ids.get(content))
            .copied();
        if known.is_some_and(|known| known != id) || (known.is_none() && !ids.insert(id)) {
            return Err(format!(
                "added token {content:?} has the id {id} of another token"
            ));
        }
        added_ids.insert(content, id);
    }
    let count = ids.len() as u64;
    match ids.iter().filter(|id| **id >= count).max() {
        Some(id) => Err(format!(
            "id {id} is out of range: {count} tokens must have the ids 0 to {} without gaps",
            count - 1
        )),
        None => Ok(()),
    }
}

fn check_merges(vocabulary: &HashMap<&str, u64>, model: &Value) -> Result<(), String> {
    let merges = match model.get("merges") {
        Some(Value::Array(merges)) => merges,
        // Only BPE has merges; the library itself reports a BPE without.
        _ => return Ok(()),
    };
    let prefix = model["continuing_subword_prefix"]
        .as_str()
        .unwrap_or_default();
    for (place, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(merge) => merge.split_once(' '),
            _ => merge[0].as_str().zip(merge[1].as_str()),
        };
        let (left, right) =
            pair.ok_or_else(|| format!("entry {place} of `model.merges` is not a pair of tokens"))?;
        // The library cuts this off whether or not the token starts with the prefix.
        let rest = right.get(prefix.len()..);
        let merged = rest.map(|rest| format!("{left}{rest}"));
        let known = |token: &str| vocabulary.contains_key(token);
        if !known(left) || !known(right) || !merged.as_deref().is_some_and(known) {
            return Err(format!(
                "merge {place} of {left:?} and {right:?} has a part or a result that is not in \
                 `model.vocab`"
            ));
        }
    }
    Ok(())
}
