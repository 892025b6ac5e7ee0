//! A trained model to be exported, whatever the format.

use shears_data::Tokenizer;
use shears_model::{Architecture, Mlp, ModelConfig};
use shears_train::NamedTensor;

use crate::card::Card;
use crate::error::ExchangeError;
use crate::names::{Family, Naming, Piece};

/// The activations of GPT-2's block, with their names in `transformers`.
pub(crate) const ACTIVATIONS: [(Mlp, &str); 2] = [(Mlp::Gelu, "gelu"), (Mlp::GeluTanh, "gelu_new")];

/// The content of every exported format.
#[derive(Debug)]
pub struct TrainedModel<'a> {
    /// The shape of the model.
    pub config: ModelConfig,
    /// Its parameters, by the names of `shears-model`.
    pub tensors: Vec<NamedTensor>,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends a text, if the model has one.
    pub end_token: Option<u32>,
    /// Facts about the run.
    pub card: Card,
}

impl TrainedModel<'_> {
    /// Rows of the embedding, which may be more than the tokenizer has tokens.
    pub(crate) fn vocabulary(&self) -> usize {
        let names = ["token_embedding.weight", "embedding.weight"];
        let embedding = self
            .tensors
            .iter()
            .find(|t| names.contains(&t.name.as_str()));
        embedding.map_or(0, |tensor| tensor.data.shape().to_vec()[0])
    }

    /// The family of this Transformer's block in other programs.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Unsupported`] if it has none.
    pub(crate) fn family(&self, format: &'static str) -> Result<Family, ExchangeError> {
        let architecture = self.config.architecture;
        let unsupported = |what: String, instead: &str| ExchangeError::Unsupported {
            format,
            what,
            instead: instead.to_string(),
        };
        if architecture != Architecture::Transformer {
            let what = format!("a model of kind {architecture}");
            return Err(unsupported(what, "--format pytorch writes it"));
        }
        Family::of(&self.config).ok_or_else(|| {
            let instead = "GPT-2's can be exported (norm layer, position learned, gelu or \
                           gelu-tanh, biases, no kv-heads), and Llama's (norm rms, position rope, \
                           swiglu)";
            unsupported("this Transformer block".to_string(), instead)
        })
    }

    /// Our tensors, each with its counterpart in a format.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Unsupported`] for a tensor that the family does not have.
    pub(crate) fn pieces(
        &self,
        naming: Naming,
        family: Family,
    ) -> Result<Vec<(Piece, &NamedTensor)>, ExchangeError> {
        let mut all = Vec::new();
        for tensor in &self.tensors {
            let (name, shape) = (&tensor.name, tensor.data.shape().to_vec());
            let pieces = naming.pieces(family, &self.config, name, &shape);
            let pieces = pieces.ok_or_else(|| ExchangeError::Unsupported {
                format: family.name(),
                what: format!("`{name}`"),
                instead: "only its shape can be exported".to_string(),
            })?;
            all.extend(pieces.into_iter().map(|piece| (piece, tensor)));
        }
        Ok(all)
    }

    /// The name of the GPT-2 block's activation in `transformers`.
    pub(crate) fn activation(&self) -> &'static str {
        let mlp = self.config.block.mlp;
        let known = ACTIVATIONS.iter().find(|(ours, _)| *ours == mlp);
        known.map_or("gelu", |(_, theirs)| theirs)
    }
}
