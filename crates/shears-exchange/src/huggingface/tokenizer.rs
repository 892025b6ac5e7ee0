//! The tokenizer of a folder: `tokenizer.json`, or GPT-2's vocabulary and merges.

use std::path::Path;

use serde_json::{Value, json};
use shears_data::{Tokenizer, TokenizerKind};

use crate::error::ExchangeError;
use crate::foreign::{read_json, read_text};

/// GPT-2's end-of-text token; it is special, so that no merge makes it.
const END: &str = "<|endoftext|>";

/// The tokenizer of a folder as a setting and as such, if there is one.
pub(crate) fn open(folder: &Path) -> Result<Option<(TokenizerKind, Tokenizer)>, ExchangeError> {
    let whole = folder.join("tokenizer.json");
    if whole.is_file() {
        let tokenizer = Tokenizer::load(&whole)?;
        return Ok(Some((TokenizerKind::File(whole), tokenizer)));
    }
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !(vocabulary.is_file() && merges.is_file()) {
        return Ok(None);
    }
    let json = byte_level_bpe(&read_json(&vocabulary)?, &read_text(&merges)?);
    let tokenizer = Tokenizer::from_json(json, vocabulary.display().to_string())?;
    Ok(Some((TokenizerKind::File(vocabulary), tokenizer)))
}

/// GPT-2's two files as one `tokenizer.json`.
fn byte_level_bpe(vocabulary: &Value, merges: &str) -> String {
    let lines = merges.lines().enumerate();
    // The first line may be a version; merges may start with `#` too.
    let merges = lines.filter(|(index, line)| !(*index == 0 && line.starts_with("#version")));
    let merges = merges.map(|(_, line)| line).filter(|line| !line.is_empty());
    let merges: Vec<&str> = merges.collect();
    let end = vocabulary[END].as_u64().map(|id| {
        json!({
            "id": id, "content": END, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": end.into_iter().collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    });
    format!("{tokenizer:#}\n")
}
