//! Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gate).
//!
//! ```text
//! i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)     f = sigmoid(W_if x + b_if + W_hf h + b_hf)
//! g = tanh(W_ig x + b_ig + W_hg h + b_hg)        o = sigmoid(W_io x + b_io + W_ho h + b_ho)
//! c = f * c + i * g                              h = o * tanh(c)
//! ```

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use rand::RngExt;
use shears_kernels::{Cell, RecurrentWeights};

use crate::config::ModelConfig;
use crate::layers::Initializer;
use crate::recurrent::{RecurrentLayer, RecurrentModel, RecurrentParameters};

/// A text generator made of [`LstmLayer`]s.
pub type Lstm = RecurrentModel<LstmLayer>;

/// One layer; equations and gate order (i, f, g, o) are PyTorch's `torch.nn.LSTM`.
#[derive(Module, Debug)]
pub struct LstmLayer {
    /// `[4 hidden, inputs]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[4 hidden, hidden]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[4 hidden]`
    pub bias_ih: Param<Tensor<1>>,
    /// `[4 hidden]`
    pub bias_hh: Param<Tensor<1>>,
}

impl RecurrentLayer for LstmLayer {
    const CARRIES: &'static [&'static str] = &["hidden", "cell"];

    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let RecurrentParameters {
            weight_ih,
            weight_hh,
            mut bias_ih,
            mut bias_hh,
        } = RecurrentParameters::new(4, inputs, config.hidden, initializer);
        if config.forget_bias {
            bias_ih = forget_gate_at(1.0, config.hidden, initializer);
            bias_hh = forget_gate_at(0.0, config.hidden, initializer);
        }
        LstmLayer {
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
        (Cell::Lstm, weights)
    }

    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }
}

/// A bias `[4 hidden]` as usual but for the forget gate, which has the given value.
fn forget_gate_at(value: f32, hidden: usize, initializer: &mut Initializer) -> Param<Tensor<1>> {
    let bound = 1.0 / (hidden as f32).sqrt();
    initializer.parameter([4 * hidden], move |generator, values| {
        values.fill_with(|| (generator.random::<f32>() * 2.0 - 1.0) * bound);
        values[hidden..2 * hidden].fill(value);
    })
}
