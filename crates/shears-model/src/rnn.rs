//! The vanilla recurrent network (Elman 1990): `h = tanh(W_ih x + b_ih + W_hh h + b_hh)`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use shears_kernels::{Activation, Cell, RecurrentWeights};

use crate::config::ModelConfig;
use crate::layers::Initializer;
use crate::named_enum;
use crate::recurrent::{RecurrentLayer, RecurrentModel, RecurrentParameters};

/// A text generator made of [`RnnLayer`]s.
pub type Rnn = RecurrentModel<RnnLayer>;

named_enum! {
    /// The activation of the vanilla RNN.
    pub enum Nonlinearity: "activation" {
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Rectified linear unit; its gradients explode more easily.
        Relu = "relu",
    }
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
        let RecurrentParameters {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        } = RecurrentParameters::new(1, inputs, config.hidden, initializer);
        let nonlinearity = config.nonlinearity;
        RnnLayer {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            nonlinearity,
        }
    }

    fn parts(&self) -> (Cell, RecurrentWeights) {
        let cell = Cell::Rnn(match self.nonlinearity {
            Nonlinearity::Tanh => Activation::Tanh,
            Nonlinearity::Relu => Activation::Relu,
        });
        let weights = RecurrentWeights {
            weight_ih: self.weight_ih.val(),
            weight_hh: self.weight_hh.val(),
            bias_ih: self.bias_ih.val(),
            bias_hh: self.bias_hh.val(),
        };
        (cell, weights)
    }

    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }
}
