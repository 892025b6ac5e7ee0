//! Gated recurrent unit (Cho et al. 2014), in the variant of PyTorch and cuDNN, where the reset
//! gate acts after the product with the recurrent weights.
//!
//! ```text
//! r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)     z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//! n = tanh(W_in x + b_in + r * (W_hn h + b_hn))  h = (1 - z) * n + z * h
//! ```

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use shears_kernels::{Cell, RecurrentWeights};

use crate::config::ModelConfig;
use crate::layers::Initializer;
use crate::recurrent::{RecurrentLayer, RecurrentModel, RecurrentParameters};

/// A text generator made of [`GruLayer`]s.
pub type Gru = RecurrentModel<GruLayer>;

/// One layer; equations and gate order (r, z, n) are PyTorch's `torch.nn.GRU`.
#[derive(Module, Debug)]
pub struct GruLayer {
    /// `[3 hidden, inputs]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[3 hidden, hidden]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[3 hidden]`
    pub bias_ih: Param<Tensor<1>>,
    /// `[3 hidden]`
    pub bias_hh: Param<Tensor<1>>,
}

impl RecurrentLayer for GruLayer {
    const CARRIES: &'static [&'static str] = &["hidden"];

    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let RecurrentParameters {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        } = RecurrentParameters::new(3, inputs, config.hidden, initializer);
        GruLayer {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        }
    }

    fn parts(&self) -> (Cell, RecurrentWeights) {
        let weights = RecurrentWeights {
            weight_ih: self.weight_ih.val(),
            weight_hh: self.weight_hh.val(),
            bias_ih: self.bias_ih.val(),
            bias_hh: self.bias_hh.val(),
        };
        (Cell::Gru, weights)
    }

    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }
}
