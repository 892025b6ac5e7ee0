//! Reads the shape of a model from `config.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use shears_model::{Architecture, BlockConfig, ModelConfig};

use crate::error::ExchangeError;
use crate::export::ACTIVATIONS;
use crate::foreign::{shortened, unexpected};
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
    /// The first end-of-text token, if the embedding has it.
    pub(super) end_token: Option<u32>,
    /// Whether the files have the biases of attention and MLP, for a model with biases.
    biases: [bool; 2],
}

impl Described {
    /// Whether the files have this bias, for a model with biases.
    pub(super) fn has_bias(&self, ours: &str) -> bool {
        self.biases[usize::from(ours.contains(".mlp."))]
    }
}

impl Config {
    pub(super) fn new(json: Value, path: &Path) -> Config {
        Config {
            json,
            path: path.to_path_buf(),
        }
    }

    /// The shape of the model, and the rows of its embedding.
    pub(super) fn describe(&self) -> Result<Described, ExchangeError> {
        let (family, model, tied, vocabulary) = match self.text(&self.json, "model_type", "none")? {
            "gpt2" => (Family::Gpt2, self.gpt_2()?, true, 50257),
            "llama" => (Family::Llama, self.llama()?, false, 32000),
            kind => {
                let kind = shortened(kind);
                let problem = format!("has model_type {kind}; only gpt2 and llama are supported");
                return Err(self.refused(problem));
            }
        };
        let biases = match family {
            Family::Gpt2 => [true, true],
            Family::Llama => [
                self.is("attention_bias", false)?,
                self.is("mlp_bias", false)?,
            ],
        };
        let model = ModelConfig {
            tied: self.is("tie_word_embeddings", tied)?,
            block: BlockConfig {
                bias: biases.contains(&true),
                ..model.block
            },
            ..model
        };
        let vocabulary = self.size("vocab_size", vocabulary)?;
        let valid = model.validate();
        valid.map_err(|error| self.refused(format!("has no valid model: {error}")))?;
        Ok(Described {
            family,
            model,
            vocabulary,
            end_token: self.end_token(vocabulary)?,
            biases,
        })
    }

    fn gpt_2(&self) -> Result<ModelConfig, ExchangeError> {
        for (key, usual) in [
            ("add_cross_attention", false),
            ("scale_attn_by_inverse_layer_idx", false),
            ("reorder_and_upcast_attn", false),
            ("scale_attn_weights", true),
        ] {
            if self.is(key, usual)? != usual {
                let problem = format!("has {key} {}; only {usual} is supported", !usual);
                return Err(self.refused(problem));
            }
        }
        let activation = self.text(&self.json, "activation_function", "gelu_new")?;
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
            norm_epsilon: self.number(&self.json, "layer_norm_epsilon", 1e-5)?,
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
        let activation = self.text(&self.json, "hidden_act", "silu")?;
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
            norm_epsilon: self.number(&self.json, "rms_norm_eps", 1e-6)?,
            rope_theta: self.rope_theta()?,
            inner: self.size("intermediate_size", 11008)?,
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
    /// with it since then, as is the share of a head that rotates.
    fn rope_theta(&self) -> Result<f64, ExchangeError> {
        let none = Value::Null;
        let mut theta = self.number(&self.json, "rope_theta", 10_000.0)?;
        let mut share = self.number(&self.json, "partial_rotary_factor", 1.0)?;
        for key in ["rope_scaling", "rope_parameters"] {
            let parameters = self.value(&self.json, key, &none, "null or an object", |value| {
                value.is_object().then_some(value)
            })?;
            for name in ["rope_type", "type"] {
                let kind = self.text(parameters, name, "default")?;
                if kind != "default" {
                    let kind = shortened(kind);
                    let problem = format!(
                        "has {key} of type {kind}; scaled positions are not supported, only type \
                         default"
                    );
                    return Err(self.refused(problem));
                }
            }
            theta = self.number(parameters, "rope_theta", theta)?;
            share = self.number(parameters, "partial_rotary_factor", share)?;
        }
        if share != 1.0 {
            let problem = "has a partial_rotary_factor; partial rotation is not supported";
            return Err(self.refused(problem.to_string()));
        }
        Ok(theta)
    }

    /// What `read` makes of a value, or the default of `transformers` where it is absent or null.
    fn value<'a, T>(
        &self,
        of: &'a Value,
        key: &str,
        default: T,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, ExchangeError> {
        match &of[key] {
            Value::Null => Ok(default),
            value => read(value).ok_or_else(|| unexpected(&self.path, key, value, expected)),
        }
    }

    fn is(&self, key: &str, default: bool) -> Result<bool, ExchangeError> {
        self.value(&self.json, key, default, "true or false", Value::as_bool)
    }

    fn text<'a>(
        &self,
        of: &'a Value,
        key: &str,
        default: &'a str,
    ) -> Result<&'a str, ExchangeError> {
        self.value(of, key, default, "a text in quotes", Value::as_str)
    }

    /// A positive number.
    fn number(&self, of: &Value, key: &str, default: f64) -> Result<f64, ExchangeError> {
        // In single precision it must be neither zero nor infinite.
        let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
        let read = |value: &Value| value.as_f64().filter(|number| range.contains(number));
        self.value(of, key, default, "a number above 0 and finite", read)
    }

    fn size(&self, key: &str, default: u64) -> Result<usize, ExchangeError> {
        self.size_up_to(SIZE_MAX, key, default)
    }

    fn layers(&self, key: &str, default: u64) -> Result<usize, ExchangeError> {
        self.size_up_to(LAYERS_MAX, key, default)
    }

    fn size_up_to(&self, most: u64, key: &str, default: u64) -> Result<usize, ExchangeError> {
        let read = |value: &Value| value.as_u64().filter(|size| (1..=most).contains(size));
        let expected = format!("a whole number from 1 to {most}");
        let size = self.value(&self.json, key, default, &expected, read)?;
        Ok(size as usize)
    }

    /// The first end-of-text token, if the embedding has it.
    fn end_token(&self, vocabulary: usize) -> Result<Option<u32>, ExchangeError> {
        let first = |value: &Value| match value.as_array() {
            Some(several) => several.first()?.as_i64(),
            None => value.as_i64(),
        };
        let expected = "the number of a token, or a list of them";
        let id = self.value(&self.json, "eos_token_id", -1, expected, first)?;
        let is_there = |id: &u32| (*id as usize) < vocabulary;
        Ok(u32::try_from(id).ok().filter(is_there))
    }

    fn refused(&self, problem: String) -> ExchangeError {
        ExchangeError::refused(&self.path, problem)
    }
}
