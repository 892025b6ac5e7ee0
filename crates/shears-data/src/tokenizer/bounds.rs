//! Bounds the memory that a stranger's `tokenizer.json` can take, as far as the file shows it.
//!
//! The library allocates what a file claims, and replaces as often as it says; a few lines can ask
//! for gigabytes. The file does not show how long it takes to run; see `probe.rs`.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

/// Steps of normalizer, pre-tokenizer and decoder together; published files have up to ten.
const STEPS_MAX: usize = 32;
/// The most that all replacements together may lengthen a text.
const GROWTH_MAX: f64 = 64.0;
/// The most bytes of a pattern, or of a prefix; published ones have a few hundred.
const TEXT_BYTES_MAX: usize = 4096;
/// The most bytes that a character map may substitute for a character; Unicode's longest has 33.
const MAPPED_BYTES_MAX: usize = 256;

/// Refuses files that would take more memory than any published tokenizer; the error says why.
pub(crate) fn check(json: &Value) -> Result<(), String> {
    let mut steps = Vec::new();
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut of_part = Vec::new();
        collect(&json[part], &mut of_part);
        let growth: f64 = of_part.iter().map(|step| growth(step)).product();
        if growth > GROWTH_MAX {
            return Err(format!(
                "the replacements of `{part}` can make a text {growth:.0} times as long: the most \
                 is {GROWTH_MAX}"
            ));
        }
        steps.extend(of_part);
    }
    if steps.len() > STEPS_MAX {
        return Err(format!(
            "normalizer, pre-tokenizer and decoder have {} steps: the most is {STEPS_MAX}",
            steps.len()
        ));
    }
    steps.into_iter().try_for_each(check_step)
}

/// The patterns that the library compiles.
pub(crate) fn patterns(json: &Value) -> Vec<&str> {
    let mut steps = Vec::new();
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        collect(&json[part], &mut steps);
    }
    let patterns = steps.into_iter();
    let patterns = patterns.filter_map(|step| step["pattern"]["Regex"].as_str());
    patterns.collect()
}

/// All steps of a part, with sequences flattened.
fn collect<'a>(step: &'a Value, steps: &mut Vec<&'a Value>) {
    let lists = ["normalizers", "pretokenizers", "decoders"];
    let inner = lists.iter().filter_map(|list| step[list].as_array());
    let before = steps.len();
    inner.flatten().for_each(|step| collect(step, steps));
    if steps.len() == before && step.is_object() {
        steps.push(step);
    }
}

/// The factor by which a replacement step can lengthen a text.
fn growth(step: &Value) -> f64 {
    let Some(content) = step["content"]
        .as_str()
        .filter(|_| step["type"] == "Replace")
    else {
        return 1.0;
    };
    let put = content.len() as f64;
    match step["pattern"]["String"].as_str() {
        Some(replaced) if !replaced.is_empty() => (put / replaced.len() as f64).max(1.0),
        // It may match the empty string between any two characters.
        _ => 1.0 + put,
    }
}

fn check_step(step: &Value) -> Result<(), String> {
    let texts = [
        ("a pattern", &step["pattern"]["Regex"]),
        ("the prefix of a text", &step["prepend"]),
    ];
    for (what, text) in texts {
        if let Some(text) = text.as_str().filter(|text| text.len() > TEXT_BYTES_MAX) {
            let bytes = text.len();
            return Err(format!(
                "{what} has {bytes} bytes: the most is {TEXT_BYTES_MAX}"
            ));
        }
    }
    match step["precompiled_charsmap"].as_str() {
        Some(map) => check_character_map(map),
        None => Ok(()),
    }
}

/// SentencePiece's map: the size of a trie, the trie, and the NUL-terminated texts it maps to.
fn check_character_map(text: &str) -> Result<(), String> {
    let broken = || "`precompiled_charsmap` is damaged: download the file again".to_owned();
    let padding_optional =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&STANDARD, padding_optional);
    let bytes = base64.decode(text).map_err(|_| broken())?;
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
    let size = u32::from_le_bytes(*size) as usize;
    // The library allocates the claimed size before it checks the actual one.
    let mapped = rest.get(size..).ok_or_else(broken)?;
    match mapped.split(|byte| *byte == 0).map(<[u8]>::len).max() {
        Some(longest) if longest > MAPPED_BYTES_MAX => Err(format!(
            "`precompiled_charsmap` puts {longest} bytes in place of a character: the most is \
             {MAPPED_BYTES_MAX}"
        )),
        _ => Ok(()),
    }
}
