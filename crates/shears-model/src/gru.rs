//! Gated recurrent unit (Cho et al. 2014), in PyTorch's and cuDNN's variant, with the reset gate
//! applied after the product with the recurrent weights.
//!
//! ```text
//! r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)     z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//! n = tanh(W_in x + b_in + r * (W_hn h + b_hn))  h = (1 - z) * n + z * h
//! ```

use shears_kernels::Cell;

use crate::config::ModelConfig;
use crate::layers::Initializer;
use crate::recurrent::{RecurrentLayer, RecurrentModel};

/// Creates a GRU, with the equations and gate order (r, z, n) of `torch.nn.GRU`.
pub fn gru(
    vocabulary: usize,
    config: &ModelConfig,
    initializer: &mut Initializer,
) -> RecurrentModel {
    RecurrentModel::of(vocabulary, config, initializer, |inputs, initializer| {
        RecurrentLayer::new(Cell::Gru, inputs, config.hidden, initializer)
    })
}
