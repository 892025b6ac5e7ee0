//! Reads the shape of a model from `config.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use shears_model::{Architecture, BlockConfig, ModelConfig};

use crate::error::ExchangeError;
use crate::export::ACTIVATIONS;
use crate::foreign::read_json;
use crate::names::{Family, LAYERS_MAX, SIZE_MAX, model_config};

/// `config.json`.
pub(super) struct Config {
    json: Value,
    path: PathBuf,
}

/// The model that a config describes.
pub(super) struct Described {
    pub(super) family: Family,
    pub(super) model: ModelConfig,
    /// Rows of the embedding.
    pub(super) vocabulary: usize,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Config, ExchangeError> {
        Ok(Config {
            json: read_json(path)?,
            path: path.to_path_buf(),
        })
    }

    /// The shape of the model, and the rows of its embedding.
    pub(super) fn describe(&self) -> Result<Described, ExchangeError> {
        let kind = self.json["model_type"].as_str().unwrap_or("none");
        let (family, model, tied, vocabulary) = match kind {
            "gpt2" => (Family::Gpt2, self.gpt_2()?, true, 50257),
            "llama" => (Family::Llama, self.llama()?, false, 32000),
            kind => {
                let kind = shortened(kind);
                let problem = format!("has model_type {kind}; only gpt2 and llama are supported");
                return Err(self.refused(problem));
            }
        };
        let model = ModelConfig {
            tied: self.is("tie_word_embeddings", tied),
            ..model
        };
        let vocabulary = self.size("vocab_size", vocabulary)?;
        let valid = model.validate();
        valid.map_err(|error| self.refused(format!("has no valid model: {error}")))?;
        Ok(Described {
            family,
            model,
            vocabulary,
        })
    }

    fn gpt_2(&self) -> Result<ModelConfig, ExchangeError> {
        for (key, usual) in [
            ("add_cross_attention", false),
            ("scale_attn_by_inverse_layer_idx", false),
            ("reorder_and_upcast_attn", false),
            ("scale_attn_weights", true),
        ] {
            if self.is(key, usual) != usual {
                let problem = format!("has {key} {}; only {usual} is supported", !usual);
                return Err(self.refused(problem));
            }
        }
        let activation = self.text("activation_function", "gelu_new");
        let name = match activation {
            // A second name for it.
            "gelu_pytorch_tanh" => "gelu_new",
            name => name,
        };
        let known = ACTIVATIONS.iter().find(|(_, theirs)| *theirs == name);
        let Some((mlp, _)) = known else {
            let activation = shortened(activation);
            let problem = format!(
                "has activation_function {activation}; only gelu and gelu_new are supported"
            );
            return Err(self.refused(problem));
        };
        let hidden = self.size("n_embd", 768)?;
        let block = BlockConfig {
            mlp: *mlp,
            norm_epsilon: self.number("layer_norm_epsilon", &self.json, 1e-5)?,
            inner: self.size("n_inner", 4 * hidden as u64)?,
            ..BlockConfig::default()
        };
        Ok(ModelConfig {
            layers: self.layers("n_layer", 12)?,
            heads: self.size("n_head", 12)?,
            context: self.size("n_positions", 1024)?,
            block,
            ..model_config(Architecture::Transformer, hidden)
        })
    }

    fn llama(&self) -> Result<ModelConfig, ExchangeError> {
        let activation = self.text("hidden_act", "silu");
        if !["silu", "swish"].contains(&activation) {
            let activation = shortened(activation);
            let problem = format!("has hidden_act {activation}; only silu is supported");
            return Err(self.refused(problem));
        }
        let hidden = self.size("hidden_size", 4096)?;
        let heads = self.size("num_attention_heads", 32)?;
        let usual = (hidden / heads).max(1);
        let width = self.size("head_dim", usual as u64)?;
        if width != usual {
            let problem = format!(
                "has head_dim {width}; only hidden_size divided by num_attention_heads ({usual}) \
                 is supported"
            );
            return Err(self.refused(problem));
        }
        let block = BlockConfig {
            norm_epsilon: self.number("rms_norm_eps", &self.json, 1e-6)?,
            rope_theta: self.rope_theta()?,
            inner: self.size("intermediate_size", 11008)?,
            bias: self.is("attention_bias", false) || self.is("mlp_bias", false),
            ..BlockConfig::llama(self.size("num_key_value_heads", heads as u64)?)
        };
        Ok(ModelConfig {
            layers: self.layers("num_hidden_layers", 32)?,
            heads,
            context: self.size("max_position_embeddings", 2048)?,
            block,
            ..model_config(Architecture::Transformer, hidden)
        })
    }

    /// The base of the angles: beside the scaling before version 5 of `transformers`, and together
    /// with it since then.
    fn rope_theta(&self) -> Result<f64, ExchangeError> {
        for key in ["rope_scaling", "rope_parameters"] {
            let parameters = &self.json[key];
            for name in ["rope_type", "type"] {
                match parameters[name].as_str() {
                    None | Some("default") => {}
                    Some(kind) => {
                        let kind = shortened(kind);
                        let problem = format!(
                            "has {key} of type {kind}; scaled positions are not supported, only type \
                             default"
                        );
                        return Err(self.refused(problem));
                    }
                }
            }
        }
        if self.number("partial_rotary_factor", &self.json, 1.0)? != 1.0 {
            let problem = "has a partial_rotary_factor; partial rotation is not supported";
            return Err(self.refused(problem.to_string()));
        }
        let parameters = match &self.json["rope_parameters"] {
            parameters if parameters["rope_theta"].is_number() => parameters,
            _ => &self.json,
        };
        self.number("rope_theta", parameters, 10_000.0)
    }

    fn is(&self, key: &str, usual: bool) -> bool {
        self.json[key].as_bool().unwrap_or(usual)
    }

    fn text<'a>(&'a self, key: &str, usual: &'a str) -> &'a str {
        self.json[key].as_str().unwrap_or(usual)
    }

    /// A positive number in the config.
    fn number(&self, key: &str, of: &Value, usual: f64) -> Result<f64, ExchangeError> {
        let number = match &of[key] {
            Value::Null => Some(usual),
            value => value.as_f64(),
        };
        // In single precision it must be neither zero nor infinite.
        let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let value = shortened(&of[key].to_string());
                self.refused(format!("has {key} {value}; it must be above 0 and finite"))
            })
    }

    /// A size in the config, with the default of `transformers`.
    fn size(&self, key: &str, default: u64) -> Result<usize, ExchangeError> {
        self.size_up_to(SIZE_MAX, key, default)
    }

    fn layers(&self, key: &str, default: u64) -> Result<usize, ExchangeError> {
        self.size_up_to(LAYERS_MAX, key, default)
    }

    fn size_up_to(&self, most: u64, key: &str, default: u64) -> Result<usize, ExchangeError> {
        let value = &self.json[key];
        let size = match value.is_null() {
            true => Some(default),
            false => value.as_u64(),
        };
        match size.filter(|size| (1..=most).contains(size)) {
            Some(size) => Ok(size as usize),
            None => {
                let value = shortened(&value.to_string());
                let problem = format!("has {key} {value}; it must be from 1 to {most}");
                Err(self.refused(problem))
            }
        }
    }

    /// Whether the files have this bias, for a model with biases.
    pub(super) fn has_bias(&self, family: Family, ours: &str) -> bool {
        let is_of_mlp = ours.contains(".mlp.");
        match family {
            Family::Gpt2 => true,
            Family::Llama if is_of_mlp => self.is("mlp_bias", false),
            Family::Llama => self.is("attention_bias", false),
        }
    }

    /// The first end-of-text token, if the embedding has it.
    pub(super) fn end_token(&self, vocabulary: usize) -> Option<u32> {
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

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
