//! Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gate).
//!
//! ```text
//! i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)     f = sigmoid(W_if x + b_if + W_hf h + b_hf)
//! g = tanh(W_ig x + b_ig + W_hg h + b_hg)        o = sigmoid(W_io x + b_io + W_ho h + b_ho)
//! c = f * c + i * g                              h = o * tanh(c)
//! ```

use burn::module::Param;
use burn::tensor::Tensor;
use rand::RngExt;
use shears_kernels::Cell;

use crate::config::ModelConfig;
use crate::layers::Initializer;
use crate::recurrent::{RecurrentLayer, RecurrentModel};

/// Creates an LSTM, with the equations and gate order (i, f, g, o) of `torch.nn.LSTM`.
pub fn lstm(
    vocabulary: usize,
    config: &ModelConfig,
    initializer: &mut Initializer,
) -> RecurrentModel {
    RecurrentModel::of(vocabulary, config, initializer, |inputs, initializer| {
        let mut layer = RecurrentLayer::new(Cell::Lstm, inputs, config.hidden, initializer);
        if config.forget_bias {
            layer.bias_ih = forget_gate_at(1.0, config.hidden, initializer);
            layer.bias_hh = forget_gate_at(0.0, config.hidden, initializer);
        }
        layer
    })
}

/// A bias `[4 hidden]` with the usual initial values, except `value` for the forget gate.
fn forget_gate_at(value: f32, hidden: usize, initializer: &mut Initializer) -> Param<Tensor<1>> {
    let bound = 1.0 / (hidden as f32).sqrt();
    initializer.parameter([4 * hidden], move |generator, values| {
        values.fill_with(|| (generator.random::<f32>() * 2.0 - 1.0) * bound);
        values[hidden..2 * hidden].fill(value);
    })
}
