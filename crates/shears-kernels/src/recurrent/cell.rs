//! What one cell does between two products, forward and backward, for a few columns of a few rows.
//!
//! A row of gates holds, one after the other, what each gate of every hidden unit is: RNN `h`; LSTM
//! `i f g o`; GRU `r z n` and, fourth, `m = W_hn h + b_hn`, which the reset gate multiplies. Backward, the
//! gradients take the places of the gates (of the sums inside their activations, that is).

use std::ops::Range;

use pulp::Simd;

use super::{Activation, Cell};
use crate::math::{sigmoid, tanh};
use crate::vector::{load, store};

impl Cell {
    /// How many sums of products each hidden unit has: those of the weights' rows.
    pub(super) fn gates(self) -> usize {
        match self {
            Cell::Rnn(_) => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// How many numbers a row of gates has for each hidden unit.
    pub(super) fn stored(self) -> usize {
        match self {
            Cell::Rnn(_) => 1,
            Cell::Lstm | Cell::Gru => 4,
        }
    }

    /// The place, in a row of gates, of what a gate gets from the hidden state.
    pub(super) fn place_of_recurrent(self, gate: usize) -> usize {
        match (self, gate) {
            (Cell::Gru, 2) => 3,
            _ => gate,
        }
    }
}

/// One row at one step, forward. The gates come as sums and leave as what backward needs; the sums of
/// the RNN come where its output will be.
pub(super) struct Forward<'a> {
    pub(super) gates: &'a mut [f32],
    pub(super) hidden_before: &'a [f32],
    /// LSTM only.
    pub(super) cell_before: &'a [f32],
    pub(super) hidden: &'a mut [f32],
    /// LSTM only.
    pub(super) cell: &'a mut [f32],
}

impl Forward<'_> {
    /// Does the given columns; `size` is the number of hidden units.
    #[inline(always)]
    pub(super) fn columns<S: Simd>(self, simd: S, cell: Cell, size: usize, columns: Range<usize>) {
        let end = columns.end;
        for at in columns.step_by(S::F32_LANES) {
            let unit = at..end.min(at + S::F32_LANES);
            let of = |gate: usize| gate * size + unit.start..gate * size + unit.end;
            let get = |gates: &[f32], gate| load(simd, &gates[of(gate)]);
            match cell {
                Cell::Rnn(activation) => {
                    let sum = load(simd, &self.hidden[unit.clone()]);
                    let hidden = match activation {
                        Activation::Tanh => tanh(simd, sum),
                        Activation::Relu => relu(simd, sum),
                    };
                    store(simd, &mut self.hidden[unit], hidden);
                }
                Cell::Lstm => {
                    let i = sigmoid(simd, get(self.gates, 0));
                    let f = sigmoid(simd, get(self.gates, 1));
                    let g = tanh(simd, get(self.gates, 2));
                    let o = sigmoid(simd, get(self.gates, 3));
                    let before = load(simd, &self.cell_before[unit.clone()]);
                    let cell = simd.mul_add_e_f32s(f, before, simd.mul_f32s(i, g));
                    store(simd, &mut self.cell[unit.clone()], cell);
                    let hidden = simd.mul_f32s(o, tanh(simd, cell));
                    store(simd, &mut self.hidden[unit.clone()], hidden);
                    for (gate, value) in [i, f, g, o].into_iter().enumerate() {
                        store(simd, &mut self.gates[of(gate)], value);
                    }
                }
                Cell::Gru => {
                    let r = sigmoid(simd, get(self.gates, 0));
                    let z = sigmoid(simd, get(self.gates, 1));
                    let m = get(self.gates, 3);
                    let n = tanh(simd, simd.mul_add_e_f32s(r, m, get(self.gates, 2)));
                    let before = load(simd, &self.hidden_before[unit.clone()]);
                    // (1 - z) n + z h, with one product less.
                    let hidden = simd.mul_add_e_f32s(z, simd.sub_f32s(before, n), n);
                    store(simd, &mut self.hidden[unit.clone()], hidden);
                    for (gate, value) in [r, z, n].into_iter().enumerate() {
                        store(simd, &mut self.gates[of(gate)], value);
                    }
                }
            }
        }
    }
}

/// One row at one step, backward.
pub(super) struct Backward<'a> {
    /// Gates, which their gradients replace. RNN: nothing, which the gradient replaces.
    pub(super) gates: &'a mut [f32],
    pub(super) hidden_before: &'a [f32],
    pub(super) hidden: &'a [f32],
    /// LSTM only.
    pub(super) cell_before: &'a [f32],
    /// LSTM only.
    pub(super) cell: &'a [f32],
    /// The gradient of the output of this step.
    pub(super) output_gradient: &'a [f32],
    /// The gradient that comes back from the next step; the part of it that goes further
    /// back without passing through the recurrent weights replaces it.
    pub(super) hidden_gradient: &'a mut [f32],
    /// LSTM only; that of the cell before replaces it.
    pub(super) cell_gradient: &'a mut [f32],
}

impl Backward<'_> {
    /// Does all columns; `size` is the number of hidden units.
    #[inline(always)]
    pub(super) fn all<S: Simd>(self, simd: S, cell: Cell, size: usize) {
        let one = simd.splat_f32s(1.0);
        let zero = simd.splat_f32s(0.0);
        // Derivatives of the activations, from their values.
        let of_sigmoid = |y: S::f32s| simd.mul_f32s(y, simd.sub_f32s(one, y));
        let of_tanh = |y: S::f32s| simd.negate_mul_add_e_f32s(y, y, one);
        for at in (0..size).step_by(S::F32_LANES) {
            let unit = at..size.min(at + S::F32_LANES);
            let of = |gate: usize| gate * size + unit.start..gate * size + unit.end;
            let get = |gates: &[f32], gate| load(simd, &gates[of(gate)]);
            let dh = simd.add_f32s(
                load(simd, &self.output_gradient[unit.clone()]),
                load(simd, &self.hidden_gradient[unit.clone()]),
            );
            match cell {
                Cell::Rnn(activation) => {
                    let hidden = load(simd, &self.hidden[unit.clone()]);
                    let sum = match activation {
                        Activation::Tanh => simd.mul_f32s(dh, of_tanh(hidden)),
                        Activation::Relu => {
                            simd.select_f32s(simd.less_than_f32s(zero, hidden), dh, zero)
                        }
                    };
                    store(simd, &mut self.gates[unit.clone()], sum);
                    store(simd, &mut self.hidden_gradient[unit], zero);
                }
                Cell::Lstm => {
                    let [i, f, g, o] = std::array::from_fn(|gate| get(self.gates, gate));
                    let squashed = tanh(simd, load(simd, &self.cell[unit.clone()]));
                    let before = load(simd, &self.cell_before[unit.clone()]);
                    let do_ = simd.mul_f32s(simd.mul_f32s(dh, squashed), of_sigmoid(o));
                    let dc = simd.mul_add_e_f32s(
                        simd.mul_f32s(dh, o),
                        of_tanh(squashed),
                        load(simd, &self.cell_gradient[unit.clone()]),
                    );
                    let di = simd.mul_f32s(simd.mul_f32s(dc, g), of_sigmoid(i));
                    let df = simd.mul_f32s(simd.mul_f32s(dc, before), of_sigmoid(f));
                    let dg = simd.mul_f32s(simd.mul_f32s(dc, i), of_tanh(g));
                    for (gate, value) in [di, df, dg, do_].into_iter().enumerate() {
                        store(simd, &mut self.gates[of(gate)], value);
                    }
                    let cell_gradient = simd.mul_f32s(dc, f);
                    store(simd, &mut self.cell_gradient[unit.clone()], cell_gradient);
                    store(simd, &mut self.hidden_gradient[unit], zero);
                }
                Cell::Gru => {
                    let [r, z, n, m] = std::array::from_fn(|gate| get(self.gates, gate));
                    let before = load(simd, &self.hidden_before[unit.clone()]);
                    let dz =
                        simd.mul_f32s(simd.mul_f32s(dh, simd.sub_f32s(before, n)), of_sigmoid(z));
                    let dn = simd.mul_f32s(dh, simd.sub_f32s(one, z));
                    let dn = simd.mul_f32s(dn, of_tanh(n));
                    let dr = simd.mul_f32s(simd.mul_f32s(dn, m), of_sigmoid(r));
                    let dm = simd.mul_f32s(dn, r);
                    for (gate, value) in [dr, dz, dn, dm].into_iter().enumerate() {
                        store(simd, &mut self.gates[of(gate)], value);
                    }
                    let direct = simd.mul_f32s(dh, z);
                    store(simd, &mut self.hidden_gradient[unit], direct);
                }
            }
        }
    }
}

/// `max(x, 0)`; a NaN stays one.
#[inline(always)]
fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
}
