//! The settings of a model, as plain data.

use serde::{Deserialize, Serialize};

use crate::named_enum;

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
    /// The activation of the vanilla RNN.
    pub enum Nonlinearity: "activation" {
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Rectified linear unit; its gradients explode more easily.
        Relu = "relu",
    }
}

named_enum! {
    /// What is between the two products of the Transformer's perceptron.
    #[derive(Default)]
    pub enum Mlp: "mlp" {
        /// GELU, exact (Hendrycks & Gimpel 2016).
        #[default]
        Gelu = "gelu",
        /// Their approximation by tanh, which the weights that OpenAI published were trained with.
        GeluTanh = "gelu-tanh",
    }
}

impl From<Mlp> for shears_kernels::Mlp {
    fn from(mlp: Mlp) -> Self {
        match mlp {
            Mlp::Gelu => shears_kernels::Mlp::Gelu,
            Mlp::GeluTanh => shears_kernels::Mlp::GeluTanh,
        }
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

/// What a block of the Transformer is made of; GPT-2's by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockConfig {
    /// The perceptron's activation.
    pub mlp: Mlp,
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
    /// What a block is made of (Transformer).
    pub block: BlockConfig,
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
    /// Checks what settings have to agree on. The ranges of each are for the caller to check.
    ///
    /// # Errors
    ///
    /// The settings that do not agree, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ModelConfig {
            hidden,
            heads,
            embedding,
            ..
        } = self;
        if self.architecture == Architecture::Transformer {
            if !hidden.is_multiple_of(*heads) {
                let message = format!("hidden ({hidden}) must be a multiple of heads ({heads})");
                return Err(ConfigError(message));
            }
        } else if self.tied && embedding != hidden {
            return Err(ConfigError(format!(
                "tied weights need embedding ({embedding}) and hidden ({hidden}) to be equal"
            )));
        }
        Ok(())
    }
}

/// Settings that no model can be built from.
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
            block: BlockConfig::default(),
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
    fn settings_that_do_not_agree_are_named() {
        config().validate().unwrap();
        assert!(error(|config| config.heads = 5).starts_with("hidden (12)"));
        let tied = error(|config| {
            config.architecture = Architecture::Lstm;
            config.tied = true;
            config.embedding = 5;
        });
        assert!(tied.starts_with("tied weights need embedding (5)"));
    }
}
