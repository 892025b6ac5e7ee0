//! What the trainer and the generator ask of a model.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use shears_kernels::{Dropout, DropoutKey, cross_entropy};

use crate::named::{ParameterVisitor, visit_parameters};

/// A model that predicts the next token.
///
/// Implement it for a Burn module of your own and the whole of Shears works with it: training with
/// clipping, exact resumption, evaluation, generation. `crates/shears-train/examples/own_model.rs`
/// is one from end to end.
pub trait LanguageModel: Module {
    /// Predicts the next token at every position.
    ///
    /// `tokens` is `[batch, time]`; the logits are `[batch, time, vocabulary]`. `state` is what
    /// the previous call on the same text returned, or [`State::default`] at the start of a text;
    /// a model that finds no entry of its own in it starts from zeros. The result for a text must
    /// not depend on how it was cut into calls. Dropout is for training alone: [`State::dropout`].
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State);

    /// Predicts the token after the last one alone: the logits `[batch, vocabulary]` at the last
    /// position of [`LanguageModel::forward`], and the state afterwards. A model that can compute
    /// them without the logits of all positions overrides this.
    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        let (logits, state) = self.forward(tokens, state);
        let [_, time, _] = logits.dims();
        (logits.narrow(1, time - 1, 1).squeeze_dim(1), state)
    }

    /// The mean negative log-likelihood of `targets` `[batch, time]`, in nats a token, and the
    /// state afterwards, for training and evaluation. A model that can compute it without
    /// the logits of the whole batch overrides this.
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

    /// The same model in the form in which [`LanguageModel::predict`] reads it fastest, for writing
    /// texts: outside automatic differentiation, and for nothing else.
    fn for_generation(self) -> Self {
        self
    }

    /// How the model reads a corpus in training and evaluation.
    fn reading(&self) -> Reading;

    /// The names of the tensors of the output layer, which adaptive gradient clipping (`agc`)
    /// leaves alone: as it stands, those of a field called `output`, and the embedding of the
    /// tokens where that has no weight of its own (tied weights).
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
    /// (truncated back-propagation through time). Evaluation gives the state of a row to another
    /// one: each tensor of the state is `[1, batch, size]`, and holds all that the model knows of a
    /// row.
    Streams,
    /// Windows of at most `context` tokens that know nothing of each other.
    Windows {
        /// The longest text, in tokens, that the model can look back on.
        context: usize,
    },
}

/// What a model carries from one call to the next: hidden states, or keys and values.
///
/// It is plain data, so that it can be detached, saved in a checkpoint and restored without
/// knowing the model. The empty state is the start of a text.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Named tensors; recurrent models carry `[1, batch, hidden]`, attention `[batch, time,
    /// hidden]`.
    pub tensors: BTreeMap<String, Tensor<3>>,
    /// How many tokens the model has read since the start of the text.
    pub position: usize,
    /// What the masks of dropout are drawn from. The trainer sets one for each micro-batch; without
    /// one nothing is dropped, which is how a text is evaluated and written.
    pub dropout: Option<DropoutKey>,
}

impl State {
    /// Dropout for the call that is given this state, if it is a part of training and the model's
    /// `probability` is above zero. Calls at other positions of the text have other masks.
    pub fn dropout(&self, probability: f64) -> Option<Dropout> {
        let key = self.dropout.filter(|_| probability > 0.0)?;
        Some(Dropout {
            key: key.part(self.position as u64),
            probability,
        })
    }

    /// The same values outside the graph: gradients do not flow into earlier windows.
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

/// Name, shape and size of one parameter tensor.
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

    /// The layer that the tensor belongs to: the first part of its name, with the number that
    /// follows it, for example `layers.0`.
    pub fn layer(&self) -> &str {
        layer_of(&self.name)
    }
}

/// The layer that a parameter of that name belongs to, see [`ParameterInfo::layer`].
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

/// The parameters of a module, from input to output, each once, without allocating any of them.
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
