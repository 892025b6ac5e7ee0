//! A GPT-2 folder of Hugging Face, whoever has made it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use shears_model::{Architecture, BlockConfig, ModelConfig, Nonlinearity, Precision};

use super::tokenizer;
use crate::catalogue::{Catalogue, Origin, Wanted};
use crate::error::ExchangeError;
use crate::export::ACTIVATIONS;
use crate::foreign::read_json;
use crate::names::{Naming, gpt_2_shapes};
use crate::source::{Source, Weights};

/// The prefix of all names but that of the output layer; the first files of GPT-2 have none.
const PREFIX: &str = "transformer.";
/// No width, length or vocabulary of a model that this program could compute with is larger.
const SIZE_MAX: u64 = 1 << 24;

/// Looks through a folder: config, tokenizer, and the names and shapes of the weights.
pub(crate) fn open(folder: &Path) -> Result<Source, ExchangeError> {
    let config_path = folder.join("config.json");
    let json = Config {
        json: read_json(&config_path)?,
        path: config_path,
    };
    let (config, vocabulary) = json.gpt_2()?;
    let catalogue = catalogue_of(folder)?;
    let has_prefix = catalogue
        .tensors
        .keys()
        .any(|name| name.starts_with(PREFIX));
    let wanted = wanted(&config, vocabulary, has_prefix);
    let tied = config.tied;
    catalogue.check(folder, &wanted, |name| {
        // Masks that old files have, and the output layer that is the embedding.
        let is_mask = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
        is_mask || (tied && name == "lm_head.weight")
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
    let end_token = json.end_token(vocabulary);
    Ok(Source {
        description: format!(
            "a GPT-2 of {} x {} from a folder of Hugging Face",
            config.layers, config.hidden
        ),
        config,
        vocabulary,
        tokenizer,
        end_token,
        weights: Weights::Files {
            catalogue,
            wanted,
            beside: vec![json.path],
        },
    })
}

/// `config.json`.
struct Config {
    json: Value,
    path: PathBuf,
}

impl Config {
    /// The shape of the model, and the rows of its embedding.
    fn gpt_2(&self) -> Result<(ModelConfig, usize), ExchangeError> {
        let kind = self.json["model_type"].as_str().unwrap_or("none");
        if kind != "gpt2" {
            let kind: String = kind.chars().take(40).collect();
            return Err(self.refused(format!("says model_type {kind}; gpt2 is read")));
        }
        for (key, usual) in [
            ("add_cross_attention", false),
            ("scale_attn_by_inverse_layer_idx", false),
            ("reorder_and_upcast_attn", false),
            ("scale_attn_weights", true),
        ] {
            if self.json[key].as_bool().unwrap_or(usual) != usual {
                let problem = format!("says {key} {}; only {usual} is computed here", !usual);
                return Err(self.refused(problem));
            }
        }
        let epsilon = self.json["layer_norm_epsilon"].as_f64().unwrap_or(1e-5);
        if (epsilon - 1e-5).abs() > 1e-9 {
            let problem =
                format!("says layer_norm_epsilon {epsilon:e}; only 1e-5 is computed here");
            return Err(self.refused(problem));
        }
        let activation = self.json["activation_function"]
            .as_str()
            .unwrap_or("gelu_new");
        let name = match activation {
            // Another name of the same.
            "gelu_pytorch_tanh" => "gelu_new",
            name => name,
        };
        let known = ACTIVATIONS.iter().find(|(_, theirs)| *theirs == name);
        let Some((mlp, _)) = known else {
            let activation: String = activation.chars().take(40).collect();
            let problem = format!(
                "says activation_function {activation}; gelu and gelu_new are computed here"
            );
            return Err(self.refused(problem));
        };
        let hidden = self.size("n_embd", 768)?;
        let inner = self.size("n_inner", 4 * hidden as u64)?;
        if inner != 4 * hidden {
            let problem = format!(
                "says n_inner {inner}; only 4 n_embd ({}) is computed here",
                4 * hidden
            );
            return Err(self.refused(problem));
        }
        let block = BlockConfig {
            mlp: *mlp,
            ..BlockConfig::default()
        };
        let config = ModelConfig {
            architecture: Architecture::Transformer,
            layers: self.size("n_layer", 12)?,
            hidden,
            embedding: hidden,
            heads: self.size("n_head", 12)?,
            context: self.size("n_positions", 1024)?,
            dropout: 0.0,
            tied: self.json["tie_word_embeddings"].as_bool().unwrap_or(true),
            forget_bias: false,
            nonlinearity: Nonlinearity::Tanh,
            precision: Precision::F32,
            block,
        };
        let valid = config.validate();
        valid.map_err(|error| self.refused(format!("is none of a model: {error}")))?;
        Ok((config, self.size("vocab_size", 50257)?))
    }

    /// A size of the model; the default is GPT-2's where the file says nothing.
    fn size(&self, key: &str, default: u64) -> Result<usize, ExchangeError> {
        let value = &self.json[key];
        let size = match value.is_null() {
            true => Some(default),
            false => value.as_u64(),
        };
        match size.filter(|size| (1..=SIZE_MAX).contains(size)) {
            Some(size) => Ok(size as usize),
            None => {
                let value: String = value.to_string().chars().take(40).collect();
                let problem = format!("says {key} {value}; it must be from 1 to {SIZE_MAX}");
                Err(self.refused(problem))
            }
        }
    }

    /// The first of the tokens that end a text, if the embedding has it.
    fn end_token(&self, vocabulary: usize) -> Option<u32> {
        let value = &self.json["eos_token_id"];
        let first = value
            .as_array()
            .and_then(|several| several.first())
            .unwrap_or(value);
        let id = u32::try_from(first.as_u64()?).ok()?;
        (id < vocabulary as u32).then_some(id)
    }

    fn refused(&self, problem: String) -> ExchangeError {
        ExchangeError::refused(&self.path, problem)
    }
}

/// The weights of a folder, in one file or in several.
fn catalogue_of(folder: &Path) -> Result<Catalogue, ExchangeError> {
    let mut catalogue = Catalogue::default();
    let single = folder.join("model.safetensors");
    if single.is_file() {
        catalogue.add_safetensors(&single)?;
        return Ok(catalogue);
    }
    let index = folder.join("model.safetensors.index.json");
    let pickled = folder.join("pytorch_model.bin");
    if !index.is_file() && pickled.is_file() {
        catalogue.add_pytorch(&pickled, None)?;
        return Ok(catalogue);
    }
    if !index.is_file() {
        let problem = "has no weights: no model.safetensors, index of it, or pytorch_model.bin";
        return Err(ExchangeError::refused(folder, problem));
    }
    for name in shards(&index)? {
        catalogue.add_safetensors(&folder.join(name))?;
    }
    Ok(catalogue)
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>, ExchangeError> {
    let json = read_json(index)?;
    let refused = |problem: &str| ExchangeError::refused(index, problem);
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| refused("has no weight_map"))?;
    let mut names = Vec::new();
    for name in map.values() {
        let name = name.as_str().unwrap_or_default();
        // A path could name any file of this machine.
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(refused("names a file that is not in the folder"));
        }
        names.push(name.to_string());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The tensors of a model of GPT-2's shape, ours and theirs.
fn wanted(config: &ModelConfig, vocabulary: usize, has_prefix: bool) -> Vec<Wanted> {
    let shapes = gpt_2_shapes(config, vocabulary).into_iter();
    let places = shapes.filter_map(|(ours, shape)| {
        let place = Naming::HuggingFace.place(&ours)?;
        let name = place.name;
        let theirs = match has_prefix {
            true => name,
            false => name.strip_prefix(PREFIX).unwrap_or(&name).to_string(),
        };
        Some(Wanted {
            ours,
            shape,
            theirs,
            transposed: place.transposed,
            origin: Origin::File,
        })
    });
    places.collect()
}
