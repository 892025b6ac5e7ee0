//! The interface between models and the trainer and generator.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use shears_kernels::{Dropout, DropoutKey, cross_entropy};

use crate::named::{ParameterVisitor, visit_parameters};

mod decoder;

pub(crate) use decoder::Stateful;
pub use decoder::{Decoder, DecoderError};

/// A model that predicts the next token.
///
/// Implement it for your own Burn module, and all of Shears works with it: training with clipping,
/// exact resumption, evaluation, generation. `crates/shears-train/examples/own_model.rs` is a
/// complete example.
pub trait LanguageModel: Module {
    /// Predicts the next token at every position.
    ///
    /// `tokens` is `[batch, time]`; the logits are `[batch, time, vocabulary]`. `state` is the one
    /// returned by the previous call on the same text, or [`State::default`] at the start of a
    /// text; missing entries mean zeros. The result must not depend on how a text is split into
    /// calls. For dropout, which applies only in training, see [`State::dropout`].
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State);

    /// Predicts only the token after the last one: the logits `[batch, vocabulary]` at the last
    /// position of [`LanguageModel::forward`], and the state afterwards. Override it if the model
    /// can avoid computing the logits of all positions.
    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        let (logits, state) = self.forward(tokens, state);
        let [_, time, _] = logits.dims();
        (logits.narrow(1, time - 1, 1).squeeze_dim(1), state)
    }

    /// The mean negative log-likelihood of `targets` `[batch, time]` in nats per token, and the
    /// state afterwards, for training and evaluation; a model that reads whole windows need not
    /// keep it. Override it if the model can avoid storing the logits of the whole batch.
    fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: State,
    ) -> (Tensor<1>, State) {
        let (logits, state) = self.forward(tokens, state);
        let [batch, time, vocabulary] = logits.dims();
        let rows = batch * time;
        let targets = targets.reshape([rows]);
        let loss = cross_entropy(logits.reshape([rows, vocabulary]), targets);
        (loss, state)
    }

    /// A decoder at the start of a text. The model must be on `device`, and without automatic
    /// differentiation (`model.valid()`), or the graph of the whole text would be kept. Override it
    /// if the model can read one text faster than by [`LanguageModel::predict`].
    fn decoder<'a>(&'a self, device: &Device) -> Box<dyn Decoder + 'a> {
        Box::new(Stateful::new(self, device))
    }

    /// Converts the model to the form that its decoder reads fastest. The result is only for
    /// generation, outside automatic differentiation.
    fn for_generation(self) -> Self {
        self
    }

    /// How the model reads a corpus in training and evaluation.
    fn reading(&self) -> Reading;

    /// The names of the output layer's tensors, which adaptive gradient clipping (`agc`) does not
    /// clip. By default the tensors of the field `output`, and with tied weights the token
    /// embedding.
    fn output_layer(&self) -> Vec<String> {
        let parameters = parameters(self);
        let names = || parameters.iter().map(|parameter| parameter.name.as_str());
        let tied = !names().any(|name| name == "output.weight");
        let embedding = |name: &str| matches!(name, "embedding.weight" | "token_embedding.weight");
        names()
            .filter(|name| name.starts_with("output.") || (tied && embedding(name)))
            .map(str::to_string)
            .collect()
    }
}

/// How a model reads a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Consecutive windows of parallel streams, with the state carried from window to window
    /// (truncated back-propagation through time). Each tensor of the state must be `[1, batch,
    /// size]` and hold everything that the model remembers of a row, because evaluation copies
    /// states between rows.
    Streams,
    /// Independent windows of at most `context` tokens.
    Windows {
        /// The context length in tokens.
        context: usize,
    },
}

/// What a model carries from call to call: hidden states, or keys and values.
///
/// It is plain data that can be detached, saved and restored independently of the model. The empty
/// state is the start of a text.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Named tensors; recurrent models carry `[1, batch, hidden]`, attention `[batch, time,
    /// hidden]`.
    pub tensors: BTreeMap<String, Tensor<3>>,
    /// The number of tokens read since the start of the text.
    pub position: usize,
    /// The key of dropout masks. The trainer sets one per micro-batch; without a key, as in
    /// evaluation and generation, there is no dropout.
    pub dropout: Option<DropoutKey>,
}

impl State {
    /// The dropout of the call that gets this state: `None` outside training, or if `probability`
    /// is zero. Calls at different positions have different masks.
    pub fn dropout(&self, probability: f64) -> Option<Dropout> {
        let key = self.dropout.filter(|_| probability > 0.0)?;
        Some(Dropout {
            key: key.part(self.position as u64),
            probability,
        })
    }

    /// Detaches all tensors, so that gradients do not flow into earlier windows.
    pub fn detach(self) -> Self {
        let tensors = self
            .tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.detach()));
        State {
            tensors: tensors.collect(),
            ..self
        }
    }
}

/// Name and shape of one parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// The path of the tensor in the module, for example `layers.0.weight_hh`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl ParameterInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The layer of the tensor: the first part of its name, with the number after it, if any, for
    /// example `layers.0`.
    pub fn layer(&self) -> &str {
        layer_of(&self.name)
    }
}

/// The layer of a parameter of this name; see [`ParameterInfo::layer`].
pub fn layer_of(parameter: &str) -> &str {
    let mut dots = parameter.match_indices('.').map(|(index, _)| index);
    let Some(first) = dots.next() else {
        return parameter;
    };
    let second = dots.next().unwrap_or(parameter.len());
    let numbered = parameter[first + 1..second]
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    &parameter[..if numbered { second } else { first }]
}

/// The parameters of a module, from input to output, each once, without allocating them.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterInfo> {
    struct Collector(Vec<ParameterInfo>);
    impl ParameterVisitor for Collector {
        fn visit<const D: usize>(&mut self, name: String, parameter: &Param<Tensor<D>>) {
            let shape = parameter.lazy_shape().to_vec();
            self.0.push(ParameterInfo { name, shape });
        }
    }
    let mut collector = Collector(Vec::new());
    visit_parameters(module, &mut collector);
    collector.0
}

#[cfg(test)]
mod tests {
    use super::ParameterInfo;

    #[test]
    fn layer_is_the_name_up_to_its_number() {
        let layer = |name: &str| {
            ParameterInfo {
                name: name.to_string(),
                shape: vec![1],
            }
            .layer()
            .to_string()
        };
        assert_eq!(layer("embedding.weight"), "embedding");
        assert_eq!(layer("layers.0.weight_hh"), "layers.0");
        assert_eq!(layer("blocks.11.attention.qkv.weight"), "blocks.11");
        assert_eq!(layer("weight"), "weight");
        assert_eq!(layer("embedding"), "embedding");
        assert_eq!(layer("output.bias"), "output");
    }
}
