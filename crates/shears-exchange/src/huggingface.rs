//! A folder that `transformers` 4 and 5 load as it is, tokenizer included.

mod import;
mod tokenizer;

use std::path::Path;

use serde_json::{Value, json};

use crate::beside::{write_json, write_text};
use crate::error::ExchangeError;
use crate::export::{TrainedModel, gpt_2_activation};
use crate::names::Naming;
use crate::safetensors_file::{self, Written};
pub(crate) use import::open;

/// The temperature that `shears generate` has unless told otherwise.
const TEMPERATURE: f64 = 0.8;

/// Writes a folder, which has to be there, with a Transformer as `transformers` has it: config,
/// weights, tokenizer, model card.
///
/// # Errors
///
/// [`ExchangeError::NoPlace`] for a recurrent model; or what cannot be written.
pub fn export_huggingface(model: &TrainedModel<'_>, folder: &Path) -> Result<(), ExchangeError> {
    let activation = gpt_2_activation(&model.config, "transformers")?;
    let mut tensors = Vec::new();
    for tensor in &model.tensors {
        let place = Naming::HuggingFace.place(&tensor.name);
        let place = place.ok_or_else(|| ExchangeError::NoPlace {
            format: "GPT-2",
            what: format!("`{}`", tensor.name),
            instead: "only its shape can be exported".to_string(),
        })?;
        tensors.push(Written {
            name: place.name,
            tensor,
            transposed: place.transposed,
        });
    }
    safetensors_file::write(&folder.join("model.safetensors"), tensors)?;
    write_json(folder, "config.json", &config(model, activation))?;
    write_json(folder, "generation_config.json", &generation(model))?;
    write_text(folder, "tokenizer.json", model.tokenizer.json())?;
    write_json(folder, "tokenizer_config.json", &tokenizer_config(model))?;
    model.card.write(folder, CARD_HEAD, USAGE)
}

fn config(model: &TrainedModel<'_>, activation: &str) -> Value {
    let config = &model.config;
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        // Those of GPT-2 itself, the default, are outside of a small vocabulary.
        "bos_token_id": model.end_token,
        "eos_token_id": model.end_token,
        // The first name is that of version 5, the second that of 4.
        "dtype": "float32",
        "torch_dtype": "float32",
        "layer_norm_epsilon": 1e-5,
        "n_ctx": config.context,
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_inner": null,
        "n_layer": config.layers,
        "n_positions": config.context,
        "tie_word_embeddings": config.tied,
        "vocab_size": model.vocabulary(),
        "shears": model.card.json(),
    })
}

fn generation(model: &TrainedModel<'_>) -> Value {
    json!({
        "do_sample": true,
        "temperature": TEMPERATURE,
        "bos_token_id": model.end_token,
        "eos_token_id": model.end_token,
    })
}

/// Without the class, version 5 takes GPT-2's own, which reads nothing but vocabulary and merges:
/// spaces and accents of a char vocabulary would vanish without a word.
fn tokenizer_config(model: &TrainedModel<'_>) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.config.context,
        // Version 4 would give `token_type_ids` beside them, all zero, and GPT-2 would add the
        // embedding of token 0 to every position.
        "model_input_names": ["input_ids", "attention_mask"],
    });
    if let Some(end) = model.end_token {
        config["eos_token"] = model.tokenizer.decode(&[end]).into();
    }
    config
}

const CARD_HEAD: &str = "library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- shears
";

const USAGE: &str = "
A text generator of GPT-2's shape, trained by Shears. In this folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(\".\")
model = AutoModelForCausalLM.from_pretrained(\".\")
prompt = tokenizer(\"The \", return_tensors=\"pt\")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))
```

Prompt and text together have at most as many tokens as `n_positions` in `config.json`.
";
