//! A recurrent layer over a whole window: vanilla RNN, LSTM or GRU.
//!
//! One large product computes the input part of all steps. Each step multiplies the hidden state by
//! weights that are packed once per window, and computes gates and states while they are in the
//! cache. The rows of a batch are independent, so threads divide the batch and never synchronise
//! inside a window. In the backward pass, the gradients of the weights are one large product at the
//! end. Equations, gate order and shapes follow PyTorch's `torch.nn`.

use burn::tensor::{Int, Tensor};

use crate::cpu::Precision;
use crate::matmul::Weight;
use crate::tensor::{is_ours, tokens as to_tokens};

mod backward;
mod cell;
mod decoder;
mod forward;
mod operation;
mod plain;

#[cfg(test)]
mod tests;

pub use decoder::RecurrentDecoder;
pub use plain::{recurrent_plain, recurrent_tokens_plain};

/// The kind of cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `h = a(W_ih x + b_ih + W_hh h + b_hh)` (Elman 1990).
    Rnn(Activation),
    /// Hochreiter & Schmidhuber 1997 with Gers' forget gate; gates `i f g o`.
    Lstm,
    /// Cho et al. 2014, with the reset gate applied after the product; gates `r z n`.
    Gru,
}

/// The activation `a` of the vanilla RNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// Rectified linear unit.
    Relu,
}

/// The parameters of a layer; `gates` is 1 for the RNN, 4 for the LSTM, 3 for the GRU.
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

/// Runs the layer over a window.
///
/// `input` is `[time, batch, inputs]`; `carried` is the state before the window, each tensor `[1,
/// batch, hidden]`: the hidden state, and for the LSTM then the cell state. Returns the hidden
/// state after each step, `[time, batch, hidden]`, and the state after the window. With `Bf16` the
/// products of a window round their factors; products of up to 16 rows, as in generation, and
/// everything on other devices use `f32`.
///
/// # Panics
///
/// If the shapes do not match.
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

/// Runs the layer over a window of tokens: like [`recurrent`], where the input is the rows of
/// `embedding` `[vocabulary, inputs]` for `tokens` `[time, batch]`.
///
/// If the vocabulary is smaller than the window, `W_ih` is multiplied by the whole embedding once
/// instead of by the row of each token, which halves the work of the layer. The backward pass does
/// the same.
///
/// # Panics
///
/// If the shapes do not match, or a token is not in the vocabulary.
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

/// The input of the layer, as slices.
#[derive(Clone, Copy, Debug)]
enum LayerInput<'a> {
    /// `[time, batch, inputs]`
    Dense(&'a [f32]),
    /// The rows of the embedding for tokens `[time, batch]`.
    Table {
        /// `[vocabulary, inputs]`
        embedding: &'a [f32],
        tokens: &'a [u32],
    },
}

/// The parameters as slices; see [`RecurrentWeights`].
#[derive(Clone, Copy, Debug)]
struct WeightSlices<'a> {
    input: Weight<'a>,
    recurrent: Weight<'a>,
    input_bias: &'a [f32],
    recurrent_bias: &'a [f32],
}
