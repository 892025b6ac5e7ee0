//! The layer composed of Burn's operations, step by step: the fallback for other devices, and the
//! reference for tests.

use burn::tensor::activation::{relu, sigmoid, tanh};
use burn::tensor::module::linear;
use burn::tensor::{Int, Tensor, s};

use super::{Activation, Cell, RecurrentWeights};

/// [`super::recurrent_tokens`] composed of Burn's operations, on any device and in any precision.
pub fn recurrent_tokens_plain(
    cell: Cell,
    tokens: Tensor<2, Int>,
    embedding: Tensor<2>,
    weights: RecurrentWeights,
    carried: Vec<Tensor<3>>,
) -> (Tensor<3>, Vec<Tensor<3>>) {
    let [time, batch] = tokens.dims();
    let [_, inputs] = embedding.dims();
    let input = embedding
        .select(0, tokens.reshape([time * batch]))
        .reshape([time, batch, inputs]);
    recurrent_plain(cell, input, weights, carried)
}

/// [`super::recurrent`] composed of Burn's operations, on any device and in any precision.
pub fn recurrent_plain(
    cell: Cell,
    input: Tensor<3>,
    weights: RecurrentWeights,
    carried: Vec<Tensor<3>>,
) -> (Tensor<3>, Vec<Tensor<3>>) {
    let [time, batch, inputs] = input.dims();
    let [_, size] = weights.weight_hh.dims();
    let input = input.reshape([time * batch, inputs]);
    // Transposed once per window, so that their gradients accumulate in one tensor.
    let weight_ih = weights.weight_ih.transpose();
    let weight_hh = weights.weight_hh.transpose();
    let carried = carried.into_iter().map(|state| state.squeeze_dim(0));
    let mut carried: Vec<Tensor<2>> = carried.collect();
    let mut outputs = Vec::with_capacity(time);
    for t in 0..time {
        let x = input.clone().slice(s![t * batch..(t + 1) * batch, ..]);
        let x = linear(x, weight_ih.clone(), Some(weights.bias_ih.clone()));
        let h = carried[0].clone();
        let h = linear(h, weight_hh.clone(), Some(weights.bias_hh.clone()));
        carried = step(cell, size, x, h, carried); // each [batch, hidden]
        outputs.push(carried[0].clone());
    }
    let carried = carried.into_iter().map(|state| state.unsqueeze_dim(0));
    (Tensor::stack(outputs, 0), carried.collect())
}

/// One step, from `W_ih x + b_ih` and `W_hh h + b_hh`, both `[batch, gates x hidden]`.
fn step(
    cell: Cell,
    size: usize,
    x: Tensor<2>,
    h: Tensor<2>,
    carried: Vec<Tensor<2>>,
) -> Vec<Tensor<2>> {
    let gate = |sums: &Tensor<2>, n: usize| sums.clone().slice(s![.., n * size..(n + 1) * size]);
    match cell {
        Cell::Rnn(Activation::Tanh) => vec![tanh(x + h)],
        Cell::Rnn(Activation::Relu) => vec![relu(x + h)],
        Cell::Lstm => {
            let gates = x + h;
            let (i, f) = (sigmoid(gate(&gates, 0)), sigmoid(gate(&gates, 1)));
            let (g, o) = (tanh(gate(&gates, 2)), sigmoid(gate(&gates, 3)));
            let cell = f * carried[1].clone() + i * g;
            vec![o * tanh(cell.clone()), cell]
        }
        Cell::Gru => {
            let r = sigmoid(gate(&x, 0) + gate(&h, 0));
            let z = sigmoid(gate(&x, 1) + gate(&h, 1));
            let n = tanh(gate(&x, 2) + r * gate(&h, 2));
            // (1 - z) n + z h with one product less.
            vec![n.clone() + z * (carried[0].clone() - n)]
        }
    }
}
