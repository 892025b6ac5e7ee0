//! The vanilla recurrent network (Elman 1990): `h = tanh(W_ih x + b_ih + W_hh h + b_hh)`.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::layers::{Initializer, product};
use crate::recurrent::{RecurrentLayer, RecurrentModel, RecurrentWeights};

/// A text generator made of [`RnnLayer`]s.
pub type Rnn = RecurrentModel<RnnLayer>;

/// The activation of the vanilla RNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    Tanh,
    /// Rectified linear unit; its gradients explode more easily.
    Relu,
}

/// One layer; the equations are PyTorch's `torch.nn.RNN`.
#[derive(Module, Debug)]
pub struct RnnLayer {
    /// `[hidden, inputs]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[hidden, hidden]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[hidden]`
    pub bias_ih: Param<Tensor<1>>,
    /// `[hidden]`
    pub bias_hh: Param<Tensor<1>>,
    #[module(skip)]
    nonlinearity: Nonlinearity,
}

impl RecurrentLayer for RnnLayer {
    const CARRIES: &'static [&'static str] = &["hidden"];

    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let RecurrentWeights {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        } = RecurrentWeights::new(1, inputs, config.hidden, initializer);
        let nonlinearity = config.nonlinearity;
        RnnLayer {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            nonlinearity,
        }
    }

    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }

    fn forward(
        &self,
        steps: Vec<Tensor<2>>,
        carried: Vec<Tensor<2>>,
    ) -> (Vec<Tensor<2>>, Vec<Tensor<2>>) {
        let [mut hidden] = carried.try_into().expect("an RNN layer carries one tensor");
        let bias = self.bias_ih.val() + self.bias_hh.val(); // [hidden]
        // Turned once a window, so that their gradients are summed in one place.
        let weight_ih = self.weight_ih.val().transpose();
        let weight_hh = self.weight_hh.val().transpose();
        let mut outputs = Vec::with_capacity(steps.len());
        for input in steps {
            let from_input = product(input, &weight_ih, Some(bias.clone())); // [batch, hidden]
            let sum = from_input + product(hidden, &weight_hh, None); // [batch, hidden]
            hidden = match self.nonlinearity {
                Nonlinearity::Tanh => activation::tanh(sum),
                Nonlinearity::Relu => activation::relu(sum),
            };
            outputs.push(hidden.clone());
        }
        (outputs, vec![hidden])
    }
}
