//! Imports a Hugging Face folder with a GPT-2 or Llama.

use std::path::Path;

use serde_json::Value;
use shears_model::ParameterInfo;

use super::config::{Config, Described};
use super::tokenizer;
use crate::catalogue::{Catalogue, Origin, Wanted};
use crate::error::ExchangeError;
use crate::foreign::read_json;
use crate::names::{Naming, tensors};
use crate::source::{ModelSource, StoredWeights};

/// Opens a folder with this `config.json`: tokenizer, and the names and shapes of the weights.
pub(crate) fn open(folder: &Path, json: Value) -> Result<ModelSource, ExchangeError> {
    let config_path = folder.join("config.json");
    let described = Config::new(json, &config_path).describe()?;
    let catalogue = catalogue_of(folder)?;
    let wanted = wanted(&described, &catalogue);
    let Described {
        family,
        model: config,
        vocabulary,
        end_token,
        ..
    } = described;
    catalogue.check(folder, &wanted, |name| {
        // Buffers in old files, and a tied output layer.
        let buffers = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];
        let is_buffer = buffers.iter().any(|buffer| name.ends_with(buffer));
        is_buffer || (config.tied && name == "lm_head.weight")
    })?;
    let tokenizer = tokenizer::open(folder)?;
    if let Some((_, tokenizer)) = &tokenizer {
        let tokens = tokenizer.vocab_size();
        if tokens > vocabulary {
            let problem =
                format!("has a tokenizer of {tokens} tokens and an embedding of {vocabulary}");
            return Err(ExchangeError::refused(folder, problem));
        }
    }
    let (name, layers, hidden) = (family.name(), config.layers, config.hidden);
    Ok(ModelSource {
        description: format!("a {name} of {layers} x {hidden} from a Hugging Face folder"),
        config,
        vocabulary,
        tokenizer,
        end_token,
        weights: StoredWeights::Files {
            catalogue,
            wanted,
            beside: vec![config_path],
        },
    })
}

/// Lists the weights of a folder, in one file or in shards.
fn catalogue_of(folder: &Path) -> Result<Catalogue, ExchangeError> {
    type Add = fn(&mut Catalogue, &Path) -> Result<(), ExchangeError>;
    let forms: [(&str, Add); 2] = [
        ("model.safetensors", Catalogue::add_safetensors),
        ("pytorch_model.bin", |catalogue, path| {
            catalogue.add_pytorch(path, None)
        }),
    ];
    let mut catalogue = Catalogue::default();
    for (name, add) in forms {
        let (single, index) = (folder.join(name), folder.join(format!("{name}.index.json")));
        if single.is_file() {
            add(&mut catalogue, &single)?;
            return Ok(catalogue);
        }
        if index.is_file() {
            for shard in shards(&index)? {
                add(&mut catalogue, &folder.join(shard))?;
            }
            return Ok(catalogue);
        }
    }
    let problem = "has no weights: no model.safetensors, no pytorch_model.bin, and no index of \
                   either";
    Err(ExchangeError::refused(folder, problem))
}

/// The files in an index, once each.
fn shards(index: &Path) -> Result<Vec<String>, ExchangeError> {
    let json = read_json(index)?;
    let refused = |problem: &str| ExchangeError::refused(index, problem);
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| refused("has no weight_map"))?;
    let mut names = Vec::new();
    for name in map.values() {
        let name = name.as_str().unwrap_or_default();
        // A path could name any file on this machine.
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(refused("names a file that is not in the folder"));
        }
        names.push(name.to_string());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The tensors of a model, with their origins.
fn wanted(described: &Described, catalogue: &Catalogue) -> Vec<Wanted> {
    let Described {
        family,
        model,
        vocabulary,
        ..
    } = described;
    let prefix = family.prefix();
    let has_prefix = catalogue
        .tensors
        .keys()
        .any(|name| name.starts_with(prefix));
    let wanted = tensors(model, *vocabulary).into_iter();
    let wanted = wanted.filter_map(|ParameterInfo { name: ours, shape }| {
        let mut pieces = Naming::HuggingFace.pieces(*family, model, &ours, &shape)?;
        let is_left_out = ours.ends_with(".bias") && !described.has_bias(&ours);
        if !has_prefix {
            for piece in &mut pieces {
                if let Some(name) = piece.name.strip_prefix(prefix) {
                    piece.name = name.to_string();
                }
            }
        }
        let origin = match is_left_out {
            true => Origin::Zeros,
            false => Origin::Files(pieces),
        };
        Some(Wanted {
            ours,
            shape,
            origin,
        })
    });
    wanted.collect()
}
