//! Exports a GGUF file for llama.cpp and programs based on it (Ollama, LM Studio).

mod file;
mod quantize;
mod vocabulary;

use std::path::Path;

use shears_train::NamedTensor;

use crate::error::ExchangeError;
use crate::export::TrainedModel;
use crate::names::{Family, Naming, Piece};
use crate::safetensors_file::rows_of;
use file::{Rows, Tensor, Value};
use vocabulary::Vocabulary;

/// The type of matrices in a GGUF file; biases, norms and positions are `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// As they were trained.
    F32,
    /// Half precision.
    F16,
    /// `q8_0`: blocks of 32 elements of 8 bits with one scale.
    Q8,
}

impl GgufType {
    /// The `general.file_type` of a file of this type.
    fn of_file(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8 => 7,
        }
    }
}

/// Elements of a block of `q8_0`; a row must consist of whole blocks.
const BLOCK: usize = 32;

/// Writes `model.gguf` and a model card into an existing folder.
///
/// # Errors
///
/// [`ExchangeError::Unsupported`] for a model that is neither a GPT-2 nor a Llama, a tokenizer that
/// llama.cpp does not have, or a width that `q8_0` cannot store; or if a file cannot be written.
pub fn export_gguf(
    model: &TrainedModel<'_>,
    kind: GgufType,
    folder: &Path,
) -> Result<(), ExchangeError> {
    let family = model.family("GGUF")?;
    let widths = [model.config.hidden, model.config.inner()];
    let broken = widths
        .into_iter()
        .find(|width| !width.is_multiple_of(BLOCK));
    if let Some(width) = broken.filter(|_| kind == GgufType::Q8) {
        let what = format!("a width of {width} in q8_0, whose blocks have {BLOCK} elements");
        return Err(unsupported(what, "--dtype f16 takes any width"));
    }
    let vocabulary = Vocabulary::of(model)?;
    let rows = vocabulary.tokens.len();
    let pieces = model.pieces(Naming::Gguf, family)?.into_iter();
    let tensors = pieces.map(|(piece, tensor)| stored(piece, tensor, kind, rows));
    let mut tensors: Vec<Tensor<'_>> = tensors.collect();
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    let mut values = config(model, family, kind, rows);
    values.extend(vocabulary.values());
    let path = folder.join("model.gguf");
    file::write(&path, &values, &tensors).map_err(ExchangeError::write(&path))?;
    let head = CARD_HEAD.replace("FAMILY", family.model_type());
    let usage = USAGE.replace("FAMILY", family.name());
    model.card.write(folder, &head, &usage)
}

pub(super) fn unsupported(what: String, instead: &str) -> ExchangeError {
    ExchangeError::Unsupported {
        format: "GGUF",
        what,
        instead: instead.to_string(),
    }
}

fn config(
    model: &TrainedModel<'_>,
    family: Family,
    kind: GgufType,
    vocabulary: usize,
) -> Vec<(String, Value)> {
    let config = &model.config;
    let block = &config.block;
    let named = |name: &str, value: Value| (format!("{}.{name}", family.model_type()), value);
    let number = |name: &str, value: usize| named(name, Value::U32(value as u32));
    let real = |name: &str, value: f64| named(name, Value::F32(value as f32));
    let text = |name: &str, value: &str| (format!("general.{name}"), Value::String(value.into()));
    let mut values = vec![
        text("architecture", family.model_type()),
        text("name", &model.card.name),
        ("general.file_type".into(), Value::U32(kind.of_file())),
        number("context_length", config.context),
        number("embedding_length", config.hidden),
        number("block_count", config.layers),
        number("feed_forward_length", config.inner()),
        number("attention.head_count", config.heads),
    ];
    match family {
        Family::Gpt2 => values.push(real("attention.layer_norm_epsilon", block.norm_epsilon)),
        Family::Llama => values.extend([
            number("attention.head_count_kv", config.kv_heads()),
            real("attention.layer_norm_rms_epsilon", block.norm_epsilon),
            number("rope.dimension_count", config.hidden / config.heads),
            real("rope.freq_base", block.rope_theta),
            number("vocab_size", vocabulary),
        ]),
    }
    values
}

/// A tensor under its GGUF name; embedding and output are padded with rows of zeros to the size of
/// the vocabulary.
fn stored<'a>(
    piece: Piece,
    tensor: &'a NamedTensor,
    kind: GgufType,
    vocabulary: usize,
) -> Tensor<'a> {
    let shape = tensor.data.shape().to_vec();
    let ours = tensor.name.as_str();
    let of_tokens = ["token_embedding.weight", "output.weight"].contains(&ours);
    let is_weight = shape.len() == 2 && ours != "position_embedding.weight";
    let bytes = rows_of(tensor, &piece.rows);
    let row: usize = shape[1..].iter().product();
    Tensor {
        name: piece.name,
        kind: if is_weight { kind } else { GgufType::F32 },
        bytes,
        interleaved: piece.interleaved.map(|head| (4 * row, head)),
        rows: match shape.as_slice() {
            [_] => Rows {
                count: None,
                size: piece.rows.len(),
            },
            _ => Rows {
                count: Some(if of_tokens {
                    vocabulary
                } else {
                    piece.rows.len()
                }),
                size: row,
            },
        },
    }
}

/// Interleaves the halves of each head for llama.cpp: the first row of the first half, the first of
/// the second, the second of the first ... `row` is in bytes.
fn interleaved_of(bytes: &[u8], row: usize, head: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for rows in bytes.chunks_exact(head * row) {
        for pair in 0..head / 2 {
            for half in 0..2 {
                let start = (half * head / 2 + pair) * row;
                out.extend_from_slice(&rows[start..start + row]);
            }
        }
    }
    out
}

const CARD_HEAD: &str = "pipeline_tag: text-generation
tags:
- gguf
- FAMILY
- shears
";

const USAGE: &str = "
A text generator of FAMILY's shape, trained by Shears, for llama.cpp:

```
llama-completion -m model.gguf -p \"The \" -n 100 -no-cnv
```

A character that is not in the vocabulary is left out of a prompt without a word.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_head_are_interleaved() {
        // Two heads of four rows of two bytes.
        let row = |index: u8| [index, index + 100];
        let rows = |order: [u8; 8]| order.map(row).concat();
        assert_eq!(
            interleaved_of(&rows([0, 1, 2, 3, 4, 5, 6, 7]), 2, 4),
            rows([0, 2, 1, 3, 4, 6, 5, 7])
        );
    }
}
