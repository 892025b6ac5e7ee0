//! The settings of a model, as plain data.

use serde::{Deserialize, Serialize};

use crate::named_enum;
use crate::rnn::Nonlinearity;

named_enum! {
    /// Which of the four kinds of model.
    pub enum Architecture: "model" {
        /// Vanilla recurrent network (Elman 1990).
        Rnn = "rnn",
        /// Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gate).
        Lstm = "lstm",
        /// Gated recurrent unit (Cho et al. 2014, PyTorch's variant).
        Gru = "gru",
        /// GPT-2-shaped Transformer (Radford et al. 2019).
        Transformer = "transformer",
    }
}

impl Architecture {
    /// Whether the model carries a hidden state from window to window.
    pub fn is_recurrent(self) -> bool {
        self != Architecture::Transformer
    }
}

named_enum! {
    /// The precision in which products with weights read their factors, on the CPU: in training and
    /// evaluation both factors, in generation the weights. Parameters, moments, gradients, clipping
    /// and all sums are `f32` in either.
    #[derive(Default)]
    pub enum Precision: "precision" {
        /// Factors are `f32`.
        #[default]
        F32 = "f32",
        /// Factors are rounded to bfloat16.
        Bf16 = "bf16",
    }
}

impl From<Precision> for shears_kernels::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => shears_kernels::Precision::F32,
            Precision::Bf16 => shears_kernels::Precision::Bf16,
        }
    }
}

/// The settings of a model. The vocabulary comes from the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelConfig {
    /// Which kind of model.
    pub architecture: Architecture,
    /// Number of recurrent layers or Transformer blocks.
    pub layers: usize,
    /// Width of the hidden state, or of the Transformer's residual stream.
    pub hidden: usize,
    /// Width of the token embedding; the Transformer's is always `hidden`.
    pub embedding: usize,
    /// Attention heads (Transformer).
    pub heads: usize,
    /// Longest text that the Transformer can look back on, in tokens.
    pub context: usize,
    /// Probability that dropout sets an activation to zero.
    pub dropout: f64,
    /// Whether the output layer uses the embedding's weights (Press & Wolf 2017).
    pub tied: bool,
    /// Whether the bias of the LSTM's forget gate starts at 1 (Jozefowicz et al. 2015).
    pub forget_bias: bool,
    /// The vanilla RNN's activation.
    pub nonlinearity: Nonlinearity,
    /// Of the products with weights.
    pub precision: Precision,
}

impl ModelConfig {
    /// Checks everything that building the model relies on.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, by name, with the values that are accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError(format!(
                    "{name} is {value}; it must be from 1 to {most}"
                )))
            }
        };
        within("layers", self.layers, 1_000)?;
        within("hidden", self.hidden, 1_000_000)?;
        within("embedding", self.embedding, 1_000_000)?;
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!(
                "dropout is {}; it must be at least 0 and below 1",
                self.dropout
            );
            return Err(ConfigError(message));
        }
        if self.architecture == Architecture::Transformer {
            within("heads", self.heads, 10_000)?;
            within("context", self.context, 1_000_000)?;
            if !self.hidden.is_multiple_of(self.heads) {
                return Err(ConfigError(format!(
                    "hidden ({}) must be a multiple of heads ({})",
                    self.hidden, self.heads
                )));
            }
        } else if self.tied && self.embedding != self.hidden {
            return Err(ConfigError(format!(
                "tied weights need embedding ({}) and hidden ({}) to be equal",
                self.embedding, self.hidden
            )));
        }
        Ok(())
    }
}

/// A setting that no model can be built from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Transformer,
            layers: 2,
            hidden: 12,
            embedding: 12,
            heads: 3,
            context: 8,
            dropout: 0.1,
            tied: false,
            forget_bias: false,
            nonlinearity: Nonlinearity::Tanh,
            precision: Precision::F32,
        }
    }

    fn error(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn each_bad_setting_is_named() {
        config().validate().unwrap();
        assert!(error(|config| config.layers = 0).starts_with("layers is 0"));
        assert!(error(|config| config.layers = 1_000_000_000).starts_with("layers"));
        assert!(error(|config| config.context = 1 << 40).starts_with("context"));
        assert!(error(|config| config.heads = 5).starts_with("hidden (12)"));
        for bad in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(error(|config| config.dropout = bad).starts_with("dropout"));
        }
        let tied = error(|config| {
            config.architecture = Architecture::Lstm;
            config.tied = true;
            config.embedding = 5;
        });
        assert!(tied.starts_with("tied weights need embedding (5)"));
    }
}
