//! The settings of a model, as plain data.

use serde::{Deserialize, Serialize};

use crate::named_enum;

/// The values of a setting are called the same by the kernels.
macro_rules! of_kernels {
    ($Enum:ident => $OfKernels:ident: $($Value:ident),+) => {
        impl From<$Enum> for shears_kernels::$OfKernels {
            fn from(value: $Enum) -> Self {
                match value {
                    $($Enum::$Value => Self::$Value,)+
                }
            }
        }
    };
}

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
        /// SwiGLU (Shazeer 2020): a gate beside what goes through it.
        Swiglu = "swiglu",
    }
}

of_kernels!(Mlp => Mlp: Gelu, GeluTanh, Swiglu);

named_enum! {
    /// How the Transformer normalises.
    #[derive(Default)]
    pub enum Norm: "norm" {
        /// Layer norm (Ba et al. 2016).
        #[default]
        Layer = "layer",
        /// RMSNorm (Zhang & Sennrich 2019): no mean, and no bias.
        Rms = "rms",
    }
}

of_kernels!(Norm => NormKind: Layer, Rms);

named_enum! {
    /// How the Transformer knows where a token stands.
    #[derive(Default)]
    pub enum Position: "position" {
        /// A learned vector for each position of the context, added to that of the token.
        #[default]
        Learned = "learned",
        /// Rotary position embedding (Su et al. 2021): queries and keys are turned.
        Rope = "rope",
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

of_kernels!(Precision => Precision: F32, Bf16);

/// What a block of the Transformer is made of; GPT-2's by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockConfig {
    /// All norms.
    pub norm: Norm,
    /// What they add to the variance or the mean square.
    pub norm_epsilon: f64,
    /// Positions.
    pub position: Position,
    /// The base of the angles of `rope`.
    pub rope_theta: f64,
    /// The perceptron's activation.
    pub mlp: Mlp,
    /// Width of the perceptron; 0: see [`ModelConfig::inner`].
    pub inner: usize,
    /// Heads of keys and values; 0: as many as of queries.
    pub kv_heads: usize,
    /// Whether the products, and layer norms, have a bias.
    pub bias: bool,
}

impl BlockConfig {
    /// That of Llama (Touvron et al. 2023), with so many heads of keys and values; 0: as many as of
    /// queries.
    #[must_use]
    pub fn llama(kv_heads: usize) -> Self {
        BlockConfig {
            norm: Norm::Rms,
            position: Position::Rope,
            mlp: Mlp::Swiglu,
            kv_heads,
            bias: false,
            ..BlockConfig::default()
        }
    }

    /// How the kernels normalise.
    pub(crate) fn norm(&self) -> shears_kernels::Norm {
        shears_kernels::Norm::new(self.norm.into(), self.norm_epsilon)
    }
}

impl Default for BlockConfig {
    fn default() -> Self {
        BlockConfig {
            norm: Norm::Layer,
            norm_epsilon: 1e-5,
            position: Position::Learned,
            rope_theta: 10_000.0,
            mlp: Mlp::Gelu,
            inner: 0,
            kv_heads: 0,
            bias: true,
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
    /// Heads of keys and values (Transformer).
    pub fn kv_heads(&self) -> usize {
        match self.block.kv_heads {
            0 => self.heads,
            heads => heads,
        }
    }

    /// Width of the perceptron (Transformer). Unless it is given, it is `4 hidden`; with a gate,
    /// whose weights are another matrix, `8/3 hidden`, rounded up to a multiple of 32.
    pub fn inner(&self) -> usize {
        match (self.block.inner, self.block.mlp) {
            (0, Mlp::Gelu | Mlp::GeluTanh) => 4 * self.hidden,
            (0, Mlp::Swiglu) => (8 * self.hidden).div_ceil(3).next_multiple_of(32),
            (inner, _) => inner,
        }
    }

    /// Width of what goes into the perceptron's activation (Transformer).
    pub fn expanded(&self) -> usize {
        match self.block.mlp {
            Mlp::Gelu | Mlp::GeluTanh => self.inner(),
            Mlp::Swiglu => 2 * self.inner(),
        }
    }

    /// Width of queries, keys and values together (Transformer).
    pub fn qkv(&self) -> usize {
        self.hidden + 2 * self.kv_heads() * (self.hidden / self.heads.max(1))
    }

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
            let kv_heads = self.kv_heads();
            if !heads.is_multiple_of(kv_heads) {
                return Err(ConfigError(format!(
                    "heads ({heads}) must be a multiple of kv-heads ({kv_heads})"
                )));
            }
            let width = hidden / heads;
            if self.block.position == Position::Rope && !width.is_multiple_of(2) {
                return Err(ConfigError(format!(
                    "position rope turns pairs, so that hidden ({hidden}) divided by heads \
                     ({heads}) must be even, and it is {width}"
                )));
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
        let shared = error(|config| config.block.kv_heads = 2);
        assert!(shared.starts_with("heads (3) must be"), "{shared}");
        let odd = error(|config| {
            config.block.position = Position::Rope;
            config.heads = 4;
        });
        assert!(odd.ends_with("must be even, and it is 3"), "{odd}");
        let tied = error(|config| {
            config.architecture = Architecture::Lstm;
            config.tied = true;
            config.embedding = 5;
        });
        assert!(tied.starts_with("tied weights need embedding (5)"));
    }
}
