//! A trained model as it leaves, whatever the format.

use shears_data::Tokenizer;
use shears_model::{Architecture, BlockConfig, Mlp, ModelConfig};
use shears_train::NamedTensor;

use crate::card::Card;
use crate::error::ExchangeError;

/// What every format is made of.
#[derive(Debug)]
pub struct TrainedModel<'a> {
    /// The shape of the model.
    pub config: ModelConfig,
    /// Its parameters, by the names of `shears-model`.
    pub tensors: Vec<NamedTensor>,
    /// How text becomes tokens.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends a text, if the model has one.
    pub end_token: Option<u32>,
    /// What is known of the run.
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
}

/// The activations of GPT-2's shape, as `transformers` calls them.
pub(crate) const ACTIVATIONS: [(Mlp, &str); 2] = [(Mlp::Gelu, "gelu"), (Mlp::GeluTanh, "gelu_new")];

/// The activation of a model of GPT-2's shape.
///
/// # Errors
///
/// [`ExchangeError::NoPlace`] if it is of another shape.
pub(crate) fn gpt_2_activation(
    config: &ModelConfig,
    format: &'static str,
) -> Result<&'static str, ExchangeError> {
    let no_place = |what: String, instead: &str| ExchangeError::NoPlace {
        format,
        what,
        instead: instead.to_string(),
    };
    if config.architecture != Architecture::Transformer {
        let what = format!("a model of kind {}", config.architecture);
        return Err(no_place(what, "--format pytorch writes it"));
    }
    let mlp = config.block.mlp;
    let mut block = config.block;
    block.mlp = Mlp::default();
    let activation = ACTIVATIONS.iter().find(|(ours, _)| *ours == mlp);
    match activation {
        Some((_, theirs)) if block == BlockConfig::default() => Ok(theirs),
        _ => Err(no_place(
            "this Transformer block".to_string(),
            "only that of GPT-2 can be exported",
        )),
    }
}
