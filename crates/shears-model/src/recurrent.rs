//! What the three recurrent models share: embedding, a stack of layers, output.

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Int, Tensor};
use shears_kernels::{Cell, RecurrentWeights, recurrent, recurrent_tokens};

use crate::config::{ModelConfig, Precision};
use crate::language_model::{LanguageModel, Reading, State};
use crate::layers::{Embedding, Initializer, Output, dropout, stored_in};

/// One recurrent layer over a whole window of time.
pub trait RecurrentLayer: Module + ModuleDisplay {
    /// Names of the tensors that the layer carries from step to step, each `[batch, hidden]`.
    const CARRIES: &'static [&'static str];

    /// A layer that reads `inputs` numbers a step, with PyTorch's initialisation.
    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self;

    /// The kind of cell and the parameters.
    fn parts(&self) -> (Cell, RecurrentWeights);

    /// Width of the hidden state.
    fn hidden(&self) -> usize;
}

/// The parameters that all three kinds of layer have; `gates` is 1, 4 or 3.
///
/// PyTorch's shapes and initialisation: uniform within `1 / sqrt(hidden)`.
pub(crate) struct RecurrentParameters {
    pub(crate) weight_ih: Param<Tensor<2>>,
    pub(crate) weight_hh: Param<Tensor<2>>,
    pub(crate) bias_ih: Param<Tensor<1>>,
    pub(crate) bias_hh: Param<Tensor<1>>,
}

impl RecurrentParameters {
    pub(crate) fn new(
        gates: usize,
        inputs: usize,
        hidden: usize,
        initializer: &mut Initializer,
    ) -> Self {
        let bound = 1.0 / (hidden as f64).sqrt();
        RecurrentParameters {
            weight_ih: initializer.uniform([gates * hidden, inputs], bound),
            weight_hh: initializer.uniform([gates * hidden, hidden], bound),
            bias_ih: initializer.uniform([gates * hidden], bound),
            bias_hh: initializer.uniform([gates * hidden], bound),
        }
    }
}

/// Embedding, recurrent layers, output.
#[derive(Module, Debug)]
pub struct RecurrentModel<L: Module> {
    embedding: Embedding,
    layers: Vec<L>,
    output: Output,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    precision: Precision,
}

impl<L: RecurrentLayer> RecurrentModel<L> {
    /// A new model for `vocabulary` tokens.
    pub fn new(vocabulary: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let bound = 1.0 / (config.hidden as f64).sqrt();
        let embedding = match config.tied {
            // A standard normal is right for an embedding, and far too large for an output layer.
            true => initializer.uniform([vocabulary, config.embedding], bound),
            false => initializer.normal([vocabulary, config.embedding], 1.0),
        };
        let inputs = |layer| {
            if layer == 0 {
                config.embedding
            } else {
                config.hidden
            }
        };
        RecurrentModel {
            embedding: Embedding { weight: embedding },
            layers: (0..config.layers)
                .map(|l| L::new(inputs(l), config, initializer))
                .collect(),
            output: Output {
                weight: (!config.tied)
                    .then(|| initializer.uniform([vocabulary, config.hidden], bound)),
                bias: Some(initializer.uniform([vocabulary], bound)),
            },
            dropout: config.dropout,
            precision: config.precision,
        }
    }

    /// The hidden states `[time, batch, hidden]` after the tokens `[batch, time]`, and what is carried on.
    fn hidden_states(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        let device = self.embedding.weight.val().device();
        let dropped = state.dropout(self.dropout);
        // Time comes first inside the model, so that a step is contiguous.
        let tokens = tokens.transpose(); // [time, batch]
        let mut hidden: Option<Tensor<3>> = None;
        let precision = self.precision.into();
        for (index, layer) in self.layers.iter().enumerate() {
            let names = L::CARRIES
                .iter()
                .map(|name| format!("layers.{index}.{name}"));
            let names: Vec<String> = names.collect();
            let carried = names.iter().map(|name| match state.tensors.remove(name) {
                Some(tensor) => tensor.squeeze_dim(0), // [batch, hidden]
                None => Tensor::zeros([batch, layer.hidden()], &device),
            });
            let carried = carried.collect();
            let (cell, weights) = layer.parts();
            let (outputs, carried) = match hidden {
                Some(input) => recurrent(cell, precision, input, weights, carried),
                None => {
                    let embedding = self.embedding.weight.val();
                    recurrent_tokens(cell, precision, tokens.clone(), embedding, weights, carried)
                }
            };
            hidden = Some(dropout(outputs, dropped, index as u32)); // [time, batch, hidden]
            let carried = carried.into_iter().map(|tensor| tensor.unsqueeze_dim(0));
            state.tensors.extend(names.into_iter().zip(carried));
        }
        state.position += time;
        (hidden.expect("a model has at least one layer"), state)
    }
}

impl<L: RecurrentLayer> LanguageModel for RecurrentModel<L> {
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        let logits = self.output.forward(hidden, &self.embedding);
        (logits.swap_dims(0, 1), state) // [batch, time, vocabulary]
    }

    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        let [time, _, _] = hidden.dims();
        let last = hidden.narrow(0, time - 1, 1).squeeze_dim(0); // [batch, hidden]
        (self.output.forward(last, &self.embedding), state)
    }

    fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: State,
    ) -> (Tensor<1>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        // The mean does not depend on the order, as long as it is the same for both.
        let loss = self
            .output
            .loss(hidden, &self.embedding, targets.transpose(), self.precision);
        (loss, state)
    }

    fn for_generation(self) -> Self {
        let precision = self.precision;
        // The embedding stays as it is: its rows are looked up, also where it is the output layer's weight.
        RecurrentModel {
            layers: stored_in(precision, self.layers),
            output: stored_in(precision, self.output),
            ..self
        }
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}
