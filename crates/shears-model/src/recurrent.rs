//! What the three recurrent models share: embedding, a stack of layers, output.

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Int, Tensor};

use crate::config::ModelConfig;
use crate::language_model::{LanguageModel, Reading, State};
use crate::layers::{Embedding, Initializer, Output, dropout};

/// One recurrent layer over a whole window of time.
pub trait RecurrentLayer: Module + ModuleDisplay {
    /// Names of the tensors that the layer carries from step to step, each `[batch, hidden]`.
    const CARRIES: &'static [&'static str];

    /// A layer that reads `inputs` numbers a step, with PyTorch's initialisation.
    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self;

    /// Width of the hidden state.
    fn hidden(&self) -> usize;

    /// Reads a window, one `[batch, inputs]` a step, and gives one `[batch, hidden]` a step.
    ///
    /// `carried` holds the tensors that [`Self::CARRIES`] names, before and after the window.
    fn forward(
        &self,
        steps: Vec<Tensor<2>>,
        carried: Vec<Tensor<2>>,
    ) -> (Vec<Tensor<2>>, Vec<Tensor<2>>);
}

/// The weights that all three kinds of layer have; `gates` is 1, 4 or 3.
///
/// PyTorch's shapes and initialisation: uniform within `1 / sqrt(hidden)`.
pub(crate) struct RecurrentWeights {
    pub(crate) weight_ih: Param<Tensor<2>>,
    pub(crate) weight_hh: Param<Tensor<2>>,
    pub(crate) bias_ih: Param<Tensor<1>>,
    pub(crate) bias_hh: Param<Tensor<1>>,
}

impl RecurrentWeights {
    pub(crate) fn new(
        gates: usize,
        inputs: usize,
        hidden: usize,
        initializer: &mut Initializer,
    ) -> Self {
        let bound = 1.0 / (hidden as f64).sqrt();
        RecurrentWeights {
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
        }
    }
}

impl<L: RecurrentLayer> LanguageModel for RecurrentModel<L> {
    fn forward(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        // Time comes first inside the model, so that a step is contiguous.
        let embedded = self.embedding.forward(tokens.transpose()); // [time, batch, embedding]
        let mut steps = each_step(embedded); // time x [batch, embedding]
        for (index, layer) in self.layers.iter().enumerate() {
            let device = steps[0].device();
            let names = L::CARRIES
                .iter()
                .map(|name| format!("layers.{index}.{name}"));
            let names: Vec<String> = names.collect();
            let carried = names.iter().map(|name| match state.tensors.remove(name) {
                Some(tensor) => tensor.squeeze_dim(0), // [batch, hidden]
                None => Tensor::zeros([batch, layer.hidden()], &device),
            });
            let (outputs, carried) = layer.forward(steps, carried.collect());
            steps = outputs
                .into_iter()
                .map(|step| dropout(step, self.dropout))
                .collect();
            let carried = carried.into_iter().map(|tensor| tensor.unsqueeze_dim(0));
            state.tensors.extend(names.into_iter().zip(carried));
        }
        state.position += time;
        let hidden: Tensor<3> = Tensor::stack(steps, 1); // [batch, time, hidden]
        let logits = self.output.forward(hidden, &self.embedding);
        (logits, state) // [batch, time, vocabulary]
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}

/// `[time, batch, size]` as `time` tensors `[batch, size]`.
fn each_step(window: Tensor<3>) -> Vec<Tensor<2>> {
    let [time, batch, size] = window.dims();
    let window = window.reshape([time * batch, size]);
    (0..time)
        .map(|t| window.clone().slice([t * batch..(t + 1) * batch, 0..size]))
        .collect()
}
