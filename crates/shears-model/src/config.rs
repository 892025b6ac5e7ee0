//! The settings of a model, as plain data.

use serde::{Deserialize, Serialize};

use crate::named_enum;

/// Converts to the enum of the kernels with the same names.
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
    /// The kind of model.
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
    /// The activation of the Transformer's MLP.
    #[derive(Default)]
    pub enum Mlp: "mlp" {
        /// GELU, exact (Hendrycks & Gimpel 2016).
        #[default]
        Gelu = "gelu",
        /// Their tanh approximation, with which OpenAI's published weights were trained.
        GeluTanh = "gelu-tanh",
        /// SwiGLU (Shazeer 2020), with a gate.
        Swiglu = "swiglu",
    }
}

of_kernels!(Mlp => Mlp: Gelu, GeluTanh, Swiglu);

named_enum! {
    /// The Transformer's normalisation.
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
    /// The Transformer's position embedding.
    #[derive(Default)]
    pub enum Position: "position" {
        /// A learned vector per position, added to the token embedding.
        #[default]
        Learned = "learned",
        /// Rotary position embedding of queries and keys (Su et al. 2021).
        Rope = "rope",
    }
}

named_enum! {
    /// The precision of the factors of products with weights, on the CPU: both factors in training
    /// and evaluation, only the weights in generation. Parameters, moments, gradients, clipping and
    /// all accumulators are `f32` in both cases.
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

/// The architecture of a Transformer block; GPT-2's by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockConfig {
    /// The kind of all norms.
    pub norm: Norm,
    /// Added to the variance or the mean square.
    pub norm_epsilon: f64,
    /// The position embedding.
    pub position: Position,
    /// The base of the rotation angles of `rope`.
    pub rope_theta: f64,
    /// The activation of the MLP.
    pub mlp: Mlp,
    /// Width of the MLP; 0: see [`ModelConfig::inner`].
    pub inner: usize,
    /// Number of key and value heads; 0: as many as query heads.
    pub kv_heads: usize,
    /// Whether products and layer norms have a bias.
    pub bias: bool,
}

impl BlockConfig {
    /// Llama's block (Touvron et al. 2023), with `kv_heads` key and value heads; 0: as many as
    /// query heads.
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

    /// The norm of the kernels.
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
    /// The kind of model.
    pub architecture: Architecture,
    /// Number of recurrent layers or Transformer blocks.
    pub layers: usize,
    /// Width of the hidden state, or of the Transformer's residual stream.
    pub hidden: usize,
    /// Width of the token embedding; the Transformer's is always `hidden`.
    pub embedding: usize,
    /// Number of attention heads (Transformer).
    pub heads: usize,
    /// The architecture of a block (Transformer).
    pub block: BlockConfig,
    /// Context length in tokens (Transformer).
    pub context: usize,
    /// Probability that dropout sets an activation to zero.
    pub dropout: f64,
    /// Whether the output layer uses the embedding's weights (Press & Wolf 2017).
    pub tied: bool,
    /// Whether the bias of the LSTM's forget gate starts at 1 (Jozefowicz et al. 2015).
    pub forget_bias: bool,
    /// The vanilla RNN's activation.
    pub nonlinearity: Nonlinearity,
    /// Precision of the products with weights.
    pub precision: Precision,
}

impl ModelConfig {
    /// Number of key and value heads (Transformer).
    pub fn kv_heads(&self) -> usize {
        match self.block.kv_heads {
            0 => self.heads,
            heads => heads,
        }
    }

    /// Width of the MLP (Transformer). The default is `4 hidden`; with a gate, which adds a matrix,
    /// `8/3 hidden`, rounded up to a multiple of 32.
    pub fn inner(&self) -> usize {
        match (self.block.inner, self.block.mlp) {
            (0, Mlp::Gelu | Mlp::GeluTanh) => 4 * self.hidden,
            (0, Mlp::Swiglu) => (8 * self.hidden).div_ceil(3).next_multiple_of(32),
            (inner, _) => inner,
        }
    }

    /// Width of the inputs of the MLP's activation (Transformer).
    pub fn expanded(&self) -> usize {
        match self.block.mlp {
            Mlp::Gelu | Mlp::GeluTanh => self.inner(),
            Mlp::Swiglu => 2 * self.inner(),
        }
    }

    /// Total width of queries, keys and values (Transformer).
    pub fn qkv(&self) -> usize {
        self.hidden + 2 * self.kv_heads() * (self.hidden / self.heads.max(1))
    }

    /// Checks that the settings are consistent. The caller checks the range of each.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the settings that conflict.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (hidden, heads, embedding) = (self.hidden, self.heads, self.embedding);
        if self.architecture == Architecture::Transformer {
            if !hidden.is_multiple_of(heads) {
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
                    "position rope rotates pairs, so hidden ({hidden}) divided by heads \
                     ({heads}) must be even, but is {width}"
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

/// Conflicting settings.
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
    fn conflicting_settings_are_named() {
        config().validate().unwrap();
        assert!(error(|config| config.heads = 5).starts_with("hidden (12)"));
        let shared = error(|config| config.block.kv_heads = 2);
        assert!(shared.starts_with("heads (3) must be"), "{shared}");
        let odd = error(|config| {
            config.block.position = Position::Rope;
            config.heads = 4;
        });
        assert!(odd.ends_with("must be even, but is 3"), "{odd}");
        let tied = error(|config| {
            config.architecture = Architecture::Lstm;
            config.tied = true;
            config.embedding = 5;
        });
        assert!(tied.starts_with("tied weights need embedding (5)"));
    }
}
