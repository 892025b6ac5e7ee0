//! The common part of the recurrent models: embedding, a stack of layers, output.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use shears_kernels::{
    Cell, Dropout, RecurrentDecoder, RecurrentWeights, recurrent, recurrent_tokens,
};

use crate::config::{ModelConfig, Precision};
use crate::language_model::{Decoder, LanguageModel, Reading, State, Stateful};
use crate::layers::{Embedding, Initializer, Output, dropout, last_step, store_in};

/// One recurrent layer; `gates` is 1 for the RNN, 4 for the LSTM, 3 for the GRU.
#[derive(Module, Debug)]
pub struct RecurrentLayer {
    /// `[gates hidden, inputs]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[gates hidden, hidden]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[gates hidden]`
    pub bias_ih: Param<Tensor<1>>,
    /// `[gates hidden]`
    pub bias_hh: Param<Tensor<1>>,
    #[module(skip)]
    cell: Cell,
}

impl RecurrentLayer {
    /// Creates a layer with PyTorch's initialisation: uniform within `1 / sqrt(hidden)`.
    pub(crate) fn new(
        cell: Cell,
        inputs: usize,
        hidden: usize,
        initializer: &mut Initializer,
    ) -> Self {
        let bound = 1.0 / (hidden as f64).sqrt();
        let rows = cell.gates() * hidden;
        RecurrentLayer {
            weight_ih: initializer.uniform([rows, inputs], bound),
            weight_hh: initializer.uniform([rows, hidden], bound),
            bias_ih: initializer.uniform([rows], bound),
            bias_hh: initializer.uniform([rows], bound),
            cell,
        }
    }

    fn weights(&self) -> RecurrentWeights {
        RecurrentWeights {
            weight_ih: self.weight_ih.val(),
            weight_hh: self.weight_hh.val(),
            bias_ih: self.bias_ih.val(),
            bias_hh: self.bias_hh.val(),
        }
    }

    /// Width of the hidden state.
    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }
}

/// A language model of recurrent layers: embedding, layers, output. Created by
/// [`rnn`](crate::rnn()), [`lstm`](crate::lstm()) or [`gru`](crate::gru()).
#[derive(Module, Debug)]
pub struct RecurrentModel {
    embedding: Embedding,
    layers: Vec<RecurrentLayer>,
    output: Output,
    /// The names in [`State::tensors`] of each layer's state.
    #[module(skip)]
    carried: Vec<Vec<String>>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    precision: Precision,
}

impl RecurrentModel {
    /// Creates a model for `vocabulary` tokens; `layer` creates a layer from the width of its
    /// inputs.
    pub(crate) fn of(
        vocabulary: usize,
        config: &ModelConfig,
        initializer: &mut Initializer,
        layer: impl Fn(usize, &mut Initializer) -> RecurrentLayer,
    ) -> Self {
        let bound = 1.0 / (config.hidden as f64).sqrt();
        let embedding = match config.tied {
            // A standard normal suits an embedding, but is far too large for an output layer.
            true => initializer.uniform([vocabulary, config.embedding], bound),
            false => initializer.normal([vocabulary, config.embedding], 1.0),
        };
        let inputs = |index| match index {
            0 => config.embedding,
            _ => config.hidden,
        };
        let layers = (0..config.layers).map(|index| layer(inputs(index), initializer));
        let layers: Vec<RecurrentLayer> = layers.collect();
        let carried = layers.iter().enumerate().map(|(index, layer)| {
            let names = layer.cell.carries().iter();
            names.map(|name| format!("layers.{index}.{name}")).collect()
        });
        RecurrentModel {
            carried: carried.collect(),
            embedding: Embedding { weight: embedding },
            layers,
            output: Output {
                weight: (!config.tied)
                    .then(|| initializer.uniform([vocabulary, config.hidden], bound)),
                bias: Some(initializer.uniform([vocabulary], bound)),
            },
            dropout: config.dropout,
            precision: config.precision,
        }
    }

    /// The hidden states `[time, batch, hidden]` after the tokens `[batch, time]`, and the state
    /// afterwards.
    fn hidden_states(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        let device = self.embedding.weight.val().device();
        // Time is the first dimension inside the model, so that a step is contiguous.
        let dropped = state.dropout(self.dropout);
        let dropped = dropped.map(Dropout::with_time_first);
        let tokens = tokens.transpose(); // [time, batch]
        let mut hidden: Option<Tensor<3>> = None;
        let precision = self.precision.into();
        for (index, layer) in self.layers.iter().enumerate() {
            let names = &self.carried[index];
            let carried = names.iter().map(|name| match state.tensors.get(name) {
                Some(tensor) => tensor.clone(),
                None => Tensor::zeros([1, batch, layer.hidden()], &device),
            });
            let carried = carried.collect();
            let (cell, weights) = (layer.cell, layer.weights());
            let (outputs, carried) = match hidden {
                Some(input) => recurrent(cell, precision, input, weights, carried),
                None => {
                    let embedding = self.embedding.weight.val();
                    recurrent_tokens(cell, precision, tokens.clone(), embedding, weights, carried)
                }
            };
            hidden = Some(dropout(outputs, dropped, index as u32)); // [time, batch, hidden]
            for (name, tensor) in names.iter().zip(carried) {
                match state.tensors.get_mut(name) {
                    Some(before) => *before = tensor,
                    None => drop(state.tensors.insert(name.clone(), tensor)),
                }
            }
        }
        state.position += time;
        (hidden.expect("a model has at least one layer"), state)
    }
}

impl LanguageModel for RecurrentModel {
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        let logits = self.output.forward(hidden, &self.embedding);
        (logits.swap_dims(0, 1), state) // [batch, time, vocabulary]
    }

    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        let last = last_step(hidden, 0);
        (self.output.forward(last, &self.embedding), state)
    }

    fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: State,
    ) -> (Tensor<1>, State) {
        let (hidden, state) = self.hidden_states(tokens, state);
        // The mean does not depend on the order of positions, only on both orders being equal.
        let loss = self
            .output
            .loss(hidden, &self.embedding, targets.transpose(), self.precision);
        (loss, state)
    }

    fn decoder<'a>(&'a self, device: &Device) -> Box<dyn Decoder + 'a> {
        let weights = self.layers.iter().map(RecurrentLayer::weights).collect();
        let how = (self.layers[0].cell, self.precision.into());
        let embedding = self.embedding.weight.val().into_dispatch();
        let output = self.output.parameters(&self.embedding);
        match RecurrentDecoder::new(how, embedding, weights, output) {
            Some(decoder) => Box::new(decoder),
            None => Box::new(Stateful::new(self, device)),
        }
    }

    fn for_generation(self) -> Self {
        let precision = self.precision;
        // The embedding is not converted: its rows are looked up, even if it is also the output
        // weight.
        RecurrentModel {
            layers: store_in(precision, self.layers),
            output: store_in(precision, self.output),
            ..self
        }
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}
