//! A GGUF file, which llama.cpp and all that stands on it (Ollama, LM Studio) load.

mod file;
mod quantize;
mod vocabulary;

use std::path::Path;

use shears_train::NamedTensor;

use crate::error::ExchangeError;
use crate::export::{TrainedModel, gpt_2_activation};
use crate::names::Naming;
use file::{Rows, Tensor, Value};
use vocabulary::Vocabulary;

/// How the matrices of a GGUF file are stored; biases, norms and positions are `f32`.
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
    /// The number of a file of this type, `general.file_type`.
    fn of_file(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8 => 7,
        }
    }
}

/// Elements of a block of `q8_0`: a row has to be made of whole ones.
const BLOCK: usize = 32;

/// Writes `model.gguf` and a model card into a folder, which has to be there.
///
/// # Errors
///
/// [`ExchangeError::NoPlace`] for a recurrent model, a tokenizer that llama.cpp does not have, or a
/// width that `q8_0` cannot store; or what cannot be written.
pub fn export_gguf(
    model: &TrainedModel<'_>,
    kind: GgufType,
    folder: &Path,
) -> Result<(), ExchangeError> {
    gpt_2_activation(&model.config, "GGUF")?;
    let width = model.config.hidden;
    if kind == GgufType::Q8 && !width.is_multiple_of(BLOCK) {
        let what = format!("a width of {width} in q8_0, whose blocks have {BLOCK} elements");
        return Err(no_place(what, "--dtype f16 takes any width"));
    }
    let vocabulary = Vocabulary::of(model)?;
    let rows = vocabulary.tokens.len();
    let mut tensors = Vec::new();
    for tensor in &model.tensors {
        tensors.push(stored(tensor, kind, rows)?);
    }
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    let mut values = config(model, kind);
    values.extend(vocabulary.values());
    let path = folder.join("model.gguf");
    file::write(&path, &values, &tensors).map_err(ExchangeError::write(&path))?;
    model.card.write(folder, CARD_HEAD, USAGE)
}

pub(super) fn no_place(what: String, instead: &str) -> ExchangeError {
    ExchangeError::NoPlace {
        format: "GGUF",
        what,
        instead: instead.to_string(),
    }
}

fn config(model: &TrainedModel<'_>, kind: GgufType) -> Vec<(String, Value)> {
    let config = &model.config;
    let number = |name: &str, value: usize| (format!("gpt2.{name}"), Value::U32(value as u32));
    vec![
        ("general.architecture".into(), Value::String("gpt2".into())),
        (
            "general.name".into(),
            Value::String(model.card.name.clone()),
        ),
        ("general.file_type".into(), Value::U32(kind.of_file())),
        number("context_length", config.context),
        number("embedding_length", config.hidden),
        number("block_count", config.layers),
        number("feed_forward_length", 4 * config.hidden),
        number("attention.head_count", config.heads),
        ("gpt2.attention.layer_norm_epsilon".into(), Value::F32(1e-5)),
    ]
}

/// A tensor under its name there; embedding and output get rows of zeros until they have as many as
/// the vocabulary.
fn stored(
    tensor: &NamedTensor,
    kind: GgufType,
    vocabulary: usize,
) -> Result<Tensor<'_>, ExchangeError> {
    let place = Naming::Gguf.place(&tensor.name);
    let place = place.ok_or_else(|| {
        no_place(
            format!("`{}`", tensor.name),
            "only GPT-2's shape can be exported",
        )
    })?;
    let shape = tensor.data.shape().to_vec();
    let of_tokens = matches!(
        tensor.name.as_str(),
        "token_embedding.weight" | "output.weight"
    );
    let is_weight = shape.len() == 2 && tensor.name != "position_embedding.weight";
    Ok(Tensor {
        name: place.name,
        kind: if is_weight { kind } else { GgufType::F32 },
        bytes: tensor.data.as_bytes(),
        rows: match shape.as_slice() {
            [size] => Rows {
                count: None,
                size: *size,
            },
            [_, size] if of_tokens => Rows {
                count: Some(vocabulary),
                size: *size,
            },
            _ => Rows {
                count: Some(shape[0]),
                size: shape[1..].iter().product(),
            },
        },
    })
}

const CARD_HEAD: &str = "pipeline_tag: text-generation
tags:
- gguf
- gpt2
- shears
";

const USAGE: &str = "
A text generator of GPT-2's shape, trained by Shears, for llama.cpp:

```
llama-completion -m model.gguf -p \"The \" -n 100 -no-cnv
```

A character that is not in the vocabulary is left out of a prompt without a word.
";
