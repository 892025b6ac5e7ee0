//! The vanilla recurrent network (Elman 1990): `h = tanh(W_ih x + b_ih + W_hh h + b_hh)`.

use shears_kernels::{Activation, Cell};

use crate::config::{ModelConfig, Nonlinearity};
use crate::layers::Initializer;
use crate::recurrent::{RecurrentLayer, RecurrentModel};

/// Creates a vanilla RNN, with the equations of `torch.nn.RNN`.
pub fn rnn(
    vocabulary: usize,
    config: &ModelConfig,
    initializer: &mut Initializer,
) -> RecurrentModel {
    let cell = Cell::Rnn(match config.nonlinearity {
        Nonlinearity::Tanh => Activation::Tanh,
        Nonlinearity::Relu => Activation::Relu,
    });
    RecurrentModel::of(vocabulary, config, initializer, |inputs, initializer| {
        RecurrentLayer::new(cell, inputs, config.hidden, initializer)
    })
}
