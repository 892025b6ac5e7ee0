//! One recurrent layer over a whole window: vanilla RNN, LSTM or GRU.
//!
//! The inputs of all steps are one large product. Each step multiplies the hidden state by weights
//! that were packed once for the window, and computes gates and states while they are in the cache.
//! The rows of a batch are independent, so that threads share the batch and never wait inside a
//! window. Backward, the gradients of the weights are one large product at the end. Equations, gate
//! order and shapes are those of PyTorch's `torch.nn`.

use burn::tensor::{Int, Tensor};

use crate::cpu::Precision;
use crate::matmul::Weight;
use crate::tensor::{is_ours, tokens as to_tokens};

mod backward;
mod cell;
mod forward;
mod operation;
mod plain;

#[cfg(test)]
mod tests;

pub use plain::{recurrent_plain, recurrent_tokens_plain};

/// The kind of cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `h = a(W_ih x + b_ih + W_hh h + b_hh)` (Elman 1990).
    Rnn(Activation),
    /// Hochreiter & Schmidhuber 1997 with Gers' forget gate; gates `i f g o`.
    Lstm,
    /// Cho et al. 2014, where the reset gate acts after the product; gates `r z n`.
    Gru,
}

/// The activation of the vanilla RNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// Rectified linear unit.
    Relu,
}

/// The parameters of a layer; `gates` is 1, 4 or 3.
#[derive(Clone, Debug)]
pub struct RecurrentWeights {
    /// `[gates x hidden, inputs]`
    pub weight_ih: Tensor<2>,
    /// `[gates x hidden, hidden]`
    pub weight_hh: Tensor<2>,
    /// `[gates x hidden]`
    pub bias_ih: Tensor<1>,
    /// `[gates x hidden]`
    pub bias_hh: Tensor<1>,
}

/// Reads a window.
///
/// `input` is `[time, batch, inputs]`; `carried` holds what the layer carries from step to step,
/// each `[1, batch, hidden]`: the hidden state, and for the LSTM the cell state after it. The
/// result is the hidden state after each step, `[time, batch, hidden]`, and what is carried on. In
/// `Bf16` the products of a window read their factors rounded; up to 16 rows, as in generation, are
/// computed in `f32` all the same, and so is everything on other devices.
///
/// # Panics
///
/// If the shapes do not fit together.
pub fn recurrent(
    cell: Cell,
    precision: Precision,
    input: Tensor<3>,
    weights: RecurrentWeights,
    carried: Vec<Tensor<3>>,
) -> (Tensor<3>, Vec<Tensor<3>>) {
    if !is_ours(&input) {
        return recurrent_plain(cell, input, weights, carried);
    }
    let [time, batch, inputs] = input.dims();
    let source = input.reshape([time * batch, inputs]);
    let how = (cell, precision);
    operation::call(how, (source, None), [time, batch], weights, carried)
}

/// Reads a window of tokens, the input being their rows of an embedding: as [`recurrent`], with
/// `tokens` `[time, batch]` and `embedding` `[vocabulary, inputs]`.
///
/// For a vocabulary that is smaller than the window, `W_ih` is multiplied with the embedding once,
/// in place of each token's row: the layer then has half the work. Backward likewise.
///
/// # Panics
///
/// If the shapes do not fit together, or a token is not in the vocabulary.
pub fn recurrent_tokens(
    cell: Cell,
    precision: Precision,
    tokens: Tensor<2, Int>,
    embedding: Tensor<2>,
    weights: RecurrentWeights,
    carried: Vec<Tensor<3>>,
) -> (Tensor<3>, Vec<Tensor<3>>) {
    if !is_ours(&embedding) {
        return recurrent_tokens_plain(cell, tokens, embedding, weights, carried);
    }
    let window = tokens.dims();
    let [vocabulary, _] = embedding.dims();
    let tokens = Some(to_tokens(tokens, vocabulary));
    let how = (cell, precision);
    operation::call(how, (embedding, tokens), window, weights, carried)
}

/// What the layer reads, as slices.
#[derive(Clone, Copy, Debug)]
enum LayerInput<'a> {
    /// `[time, batch, inputs]`
    Dense(&'a [f32]),
    /// A row of the embedding for each token `[time, batch]`.
    Table {
        /// `[vocabulary, inputs]`
        embedding: &'a [f32],
        tokens: &'a [u32],
    },
}

/// The parameters as slices, see [`RecurrentWeights`].
#[derive(Clone, Copy, Debug)]
struct WeightSlices<'a> {
    input: Weight<'a>,
    recurrent: Weight<'a>,
    input_bias: &'a [f32],
    recurrent_bias: &'a [f32],
}
