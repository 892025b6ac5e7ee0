//! Exports a folder that `transformers` 4 and 5 load unchanged, including its tokenizer.

mod config;
mod import;
mod tokenizer;

use std::path::Path;

use serde_json::{Value, json};

use crate::beside::{write_json, write_tokenizer};
use crate::error::ExchangeError;
use crate::export::TrainedModel;
use crate::names::{Family, Naming};
use crate::safetensors_file::{self, Written};
pub(crate) use import::open;
pub(crate) use tokenizer::open as open_tokenizer;

/// The default temperature of `shears generate`.
const TEMPERATURE: f64 = 0.8;

/// Writes a Transformer into an existing folder for `transformers`: config, weights, tokenizer,
/// model card.
///
/// # Errors
///
/// [`ExchangeError::Unsupported`] for a model that is neither a GPT-2 nor a Llama; or if a file
/// cannot be written.
pub fn export_huggingface(model: &TrainedModel<'_>, folder: &Path) -> Result<(), ExchangeError> {
    let family = model.family("transformers")?;
    let pieces = model.pieces(Naming::HuggingFace, family)?.into_iter();
    let tensors = pieces.map(|(piece, tensor)| Written {
        name: piece.name,
        tensor,
        rows: piece.rows,
        transposed: piece.transposed,
    });
    safetensors_file::write(&folder.join("model.safetensors"), tensors.collect())?;
    let (config, length) = match family {
        Family::Gpt2 => (config_of_gpt_2(model), "n_positions"),
        Family::Llama => (config_of_llama(model), "max_position_embeddings"),
    };
    write_json(folder, "config.json", &with_all_models_keys(config, model))?;
    write_json(folder, "generation_config.json", &generation(model))?;
    write_tokenizer(folder, model.tokenizer.json())?;
    write_json(folder, "tokenizer_config.json", &tokenizer_config(model))?;
    let head = CARD_HEAD.replace("FAMILY", family.model_type());
    let usage = USAGE.replace("FAMILY", family.name());
    model
        .card
        .write(folder, &head, &usage.replace("LENGTH", length))
}

fn config_of_gpt_2(model: &TrainedModel<'_>) -> Value {
    let config = &model.config;
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": model.activation(),
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "layer_norm_epsilon": config.block.norm_epsilon,
        "n_ctx": config.context,
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_inner": config.inner(),
        "n_layer": config.layers,
        "n_positions": config.context,
    })
}

fn config_of_llama(model: &TrainedModel<'_>) -> Value {
    let config = &model.config;
    let block = &config.block;
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": block.bias,
        "attention_dropout": config.dropout,
        "head_dim": config.hidden / config.heads,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "intermediate_size": config.inner(),
        "max_position_embeddings": config.context,
        "mlp_bias": block.bias,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads(),
        "rms_norm_eps": block.norm_epsilon,
        // Version 5 reads the first, version 4 the second.
        "rope_parameters": { "rope_type": "default", "rope_theta": block.rope_theta },
        "rope_theta": block.rope_theta,
    })
}

/// Adds the keys that both families have.
fn with_all_models_keys(mut config: Value, model: &TrainedModel<'_>) -> Value {
    // The defaults of GPT-2 and Llama are ids of their own vocabularies.
    config["bos_token_id"] = model.end_token.into();
    config["eos_token_id"] = model.end_token.into();
    // Version 5 reads the first name, version 4 the second.
    config["dtype"] = "float32".into();
    config["torch_dtype"] = "float32".into();
    config["tie_word_embeddings"] = model.config.tied.into();
    config["vocab_size"] = model.vocabulary().into();
    config["shears"] = model.card.json();
    config
}

fn generation(model: &TrainedModel<'_>) -> Value {
    json!({
        "do_sample": true,
        "temperature": TEMPERATURE,
        "bos_token_id": model.end_token,
        "eos_token_id": model.end_token,
    })
}

/// Without the class, version 5 uses GPT-2's own, which reads only vocabulary and merges: spaces
/// and accents of a char vocabulary would silently vanish.
fn tokenizer_config(model: &TrainedModel<'_>) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.config.context,
        // Otherwise version 4 adds `token_type_ids`, all zero, and GPT-2 would add the embedding of
        // token 0 to every position.
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
- FAMILY
- shears
";

const USAGE: &str = "
A text generator of FAMILY's shape, trained by Shears. In this folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(\".\")
model = AutoModelForCausalLM.from_pretrained(\".\")
prompt = tokenizer(\"The \", return_tensors=\"pt\")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))
```

Prompt and text together have at most as many tokens as `LENGTH` in `config.json`.
";
