//! What a cell computes between two products, forward and backward.
//!
//! A row of gates holds the values of each gate for all hidden units, gate by gate: RNN `h`; LSTM
//! `i f g o`; GRU `r z n` and, fourth, `m = W_hn h + b_hn`, which the reset gate multiplies. The
//! backward pass overwrites the gates with the gradients of their pre-activations.

use pulp::Simd;

use super::{Activation, Cell};
use crate::math::{sigmoid, tanh};
use crate::vector::update;

impl Cell {
    /// The number of gates: rows of the weights per hidden unit.
    pub fn gates(self) -> usize {
        match self {
            Cell::Rnn(_) => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// The names of the state tensors, each `[1, batch, hidden]`.
    pub fn carries(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn(_) | Cell::Gru => &["hidden"],
            Cell::Lstm => &["hidden", "cell"],
        }
    }

    /// The stride between rows of gates, in elements, for `size` hidden units.
    pub(super) fn stride(self, size: usize) -> usize {
        let width = match self {
            Cell::Rnn(_) => return size,
            Cell::Lstm | Cell::Gru => 4 * size,
        };
        // Rows a multiple of 4 kB apart would map to the same sets of the L1 cache.
        match width % 1024 {
            0 => width + 16,
            _ => width,
        }
    }

    /// The position in a row of gates of a gate's recurrent part.
    pub(super) fn recurrent_position(self, gate: usize) -> usize {
        match (self, gate) {
            (Cell::Gru, 2) => 3,
            _ => gate,
        }
    }
}

/// One row at one step, forward. Replaces pre-activations by the gates that backward needs; those
/// of the RNN are in its output.
pub(super) struct CellForward<'a> {
    pub(super) gates: &'a mut [f32],
    pub(super) hidden_before: &'a [f32],
    /// LSTM only.
    pub(super) cell_before: &'a [f32],
    pub(super) hidden: &'a mut [f32],
    /// LSTM only.
    pub(super) cell: &'a mut [f32],
}

impl CellForward<'_> {
    #[inline(always)]
    pub(super) fn compute<S: Simd>(self, simd: S, cell: Cell) {
        let size = self.hidden.len();
        match cell {
            Cell::Rnn(Activation::Tanh) => {
                update(
                    simd,
                    [],
                    [self.hidden],
                    #[inline(always)]
                    |[], [sum]| [tanh(simd, sum)],
                );
            }
            Cell::Rnn(Activation::Relu) => {
                update(
                    simd,
                    [],
                    [self.hidden],
                    #[inline(always)]
                    |[], [sum]| [relu(simd, sum)],
                );
            }
            Cell::Lstm => {
                let [i, f, g, o] = quarters(self.gates, size);
                let changed = [i, f, g, o, self.cell, self.hidden];
                update(
                    simd,
                    [self.cell_before],
                    changed,
                    #[inline(always)]
                    |[before], [i, f, g, o, _, _]| {
                        let (i, f) = (sigmoid(simd, i), sigmoid(simd, f));
                        let (g, o) = (tanh(simd, g), sigmoid(simd, o));
                        let cell = simd.mul_add_e_f32s(f, before, simd.mul_f32s(i, g));
                        let hidden = simd.mul_f32s(o, tanh(simd, cell));
                        [i, f, g, o, cell, hidden]
                    },
                );
            }
            Cell::Gru => {
                let [r, z, n, m] = quarters(self.gates, size);
                let changed = [r, z, n, self.hidden];
                update(
                    simd,
                    [m, self.hidden_before],
                    changed,
                    #[inline(always)]
                    |[m, before], [r, z, n, _]| {
                        let (r, z) = (sigmoid(simd, r), sigmoid(simd, z));
                        let n = tanh(simd, simd.mul_add_e_f32s(r, m, n));
                        // (1 - z) n + z h with one product less.
                        let hidden = simd.mul_add_e_f32s(z, simd.sub_f32s(before, n), n);
                        [r, z, n, hidden]
                    },
                );
            }
        }
    }
}

/// One row at one step, backward.
pub(super) struct CellBackward<'a> {
    /// The gates, replaced by their gradients. RNN: uninitialised, set to the gradient.
    pub(super) gates: &'a mut [f32],
    pub(super) hidden_before: &'a [f32],
    pub(super) hidden: &'a [f32],
    /// LSTM only.
    pub(super) cell_before: &'a [f32],
    /// LSTM only.
    pub(super) cell: &'a [f32],
    /// The gradient of the output of this step.
    pub(super) output_gradient: &'a [f32],
    /// The gradient from the next step, replaced by the part that reaches the previous step without
    /// passing through the recurrent weights.
    pub(super) hidden_gradient: &'a mut [f32],
    /// LSTM only; replaced by the gradient of the previous cell state.
    pub(super) cell_gradient: &'a mut [f32],
}

impl CellBackward<'_> {
    #[inline(always)]
    pub(super) fn compute<S: Simd>(self, simd: S, cell: Cell) {
        let size = self.hidden.len();
        let (one, zero) = (simd.splat_f32s(1.0), simd.splat_f32s(0.0));
        let output = self.output_gradient;
        match cell {
            Cell::Rnn(activation) => {
                let given = [output, self.hidden];
                let changed = [self.gates, self.hidden_gradient];
                update(
                    simd,
                    given,
                    changed,
                    #[inline(always)]
                    |[output, hidden], [_, later]| {
                        let dh = simd.add_f32s(output, later);
                        let sum = match activation {
                            Activation::Tanh => mul(simd, dh, d_tanh(simd, hidden)),
                            Activation::Relu => {
                                simd.select_f32s(simd.less_than_f32s(zero, hidden), dh, zero)
                            }
                        };
                        [sum, zero]
                    },
                );
            }
            Cell::Lstm => {
                let [i, f, g, o] = quarters(self.gates, size);
                let given = [output, self.cell, self.cell_before];
                let changed = [i, f, g, o, self.hidden_gradient, self.cell_gradient];
                update(
                    simd,
                    given,
                    changed,
                    #[inline(always)]
                    |[output, cell, before], [i, f, g, o, later, dc]| {
                        let dh = simd.add_f32s(output, later);
                        let squashed = tanh(simd, cell);
                        let do_ = mul(simd, mul(simd, dh, squashed), d_sigmoid(simd, o));
                        let dc = simd.mul_add_e_f32s(mul(simd, dh, o), d_tanh(simd, squashed), dc);
                        let di = mul(simd, mul(simd, dc, g), d_sigmoid(simd, i));
                        let df = mul(simd, mul(simd, dc, before), d_sigmoid(simd, f));
                        let dg = mul(simd, mul(simd, dc, i), d_tanh(simd, g));
                        [di, df, dg, do_, zero, mul(simd, dc, f)]
                    },
                );
            }
            Cell::Gru => {
                let [r, z, n, m] = quarters(self.gates, size);
                let given = [output, self.hidden_before];
                let changed = [r, z, n, m, self.hidden_gradient];
                update(
                    simd,
                    given,
                    changed,
                    #[inline(always)]
                    |[output, before], [r, z, n, m, later]| {
                        let dh = simd.add_f32s(output, later);
                        let dz = mul(
                            simd,
                            mul(simd, dh, simd.sub_f32s(before, n)),
                            d_sigmoid(simd, z),
                        );
                        let dn = mul(simd, mul(simd, dh, simd.sub_f32s(one, z)), d_tanh(simd, n));
                        let dr = mul(simd, mul(simd, dn, m), d_sigmoid(simd, r));
                        [dr, dz, dn, mul(simd, dn, r), mul(simd, dh, z)]
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn mul<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_f32s(a, b)
}

/// The derivative of the logistic function as a function of its value.
#[inline(always)]
fn d_sigmoid<S: Simd>(simd: S, y: S::f32s) -> S::f32s {
    mul(simd, y, simd.sub_f32s(simd.splat_f32s(1.0), y))
}

/// The derivative of the hyperbolic tangent as a function of its value.
#[inline(always)]
fn d_tanh<S: Simd>(simd: S, y: S::f32s) -> S::f32s {
    simd.negate_mul_add_e_f32s(y, y, simd.splat_f32s(1.0))
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
}

/// The four parts of a row of gates.
#[inline(always)]
fn quarters(gates: &mut [f32], size: usize) -> [&mut [f32]; 4] {
    let (first, rest) = gates.split_at_mut(size);
    let (second, rest) = rest.split_at_mut(size);
    let (third, rest) = rest.split_at_mut(size);
    [first, second, third, &mut rest[..size]]
}
