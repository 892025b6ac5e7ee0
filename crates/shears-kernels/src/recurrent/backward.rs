//! The backward pass of a recurrent layer over a window.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::cell::CellBackward;
use super::forward::{Shape, products};
use super::{Cell, LayerInput, WeightSlices};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::embedding::add_by_token;
use crate::matmul::{Initial, Packed, transposed_product};
use crate::vector::sum_columns;

/// The gradients of all inputs of a window.
#[derive(Debug)]
pub(super) struct WindowGradients {
    /// Of the input `[time, batch, inputs]`, or of the embedding `[vocabulary, inputs]`.
    pub(super) source: Buffer,
    pub(super) input: Buffer,
    pub(super) recurrent: Buffer,
    pub(super) input_bias: Buffer,
    pub(super) recurrent_bias: Buffer,
    /// Of the hidden state before the window, `[batch, hidden]`.
    pub(super) hidden: Buffer,
    /// LSTM: of the cell state before the window, `[batch, hidden]`.
    pub(super) cell: Buffer,
}

/// The gradients of the outputs `[time, batch, hidden]`, and of the last hidden and cell states if
/// the loss depends on them.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputGradients<'a> {
    pub(super) outputs: &'a [f32],
    pub(super) last_hidden: Option<&'a [f32]>,
    pub(super) last_cell: Option<&'a [f32]>,
}

/// Runs the backward pass over a window, with the `outputs`, `cells` and `gates` of `forward`.
#[allow(
    clippy::too_many_arguments,
    reason = "the arguments and results of forward, and the gradients"
)]
pub(super) fn backward(
    cpu: Cpu,
    cell: Cell,
    shape: Shape,
    source: LayerInput<'_>,
    weights: WeightSlices<'_>,
    before: (&[f32], &[f32]),
    (outputs, cells, mut gates): (&[f32], &[f32], Buffer),
    known: OutputGradients<'_>,
) -> WindowGradients {
    let size = shape.hidden;
    let stride = cell.stride(size);
    if gates.is_empty() {
        gates = Buffer::uninitialised(shape.rows() * stride);
    }
    let state = shape.batch * size;
    let mut hidden = known
        .last_hidden
        .map_or_else(|| Buffer::zeros(state), Buffer::copy_of);
    let is_lstm = cell == Cell::Lstm;
    let mut cell_gradient = match known.last_cell {
        Some(gradient) => Buffer::copy_of(gradient),
        None => Buffer::zeros(if is_lstm { state } else { 0 }),
    };
    let steps = Steps {
        cell,
        shape,
        packed: pack(cpu, cell, size, weights.recurrent.f32()),
        before,
        outputs,
        cells,
        output_gradients: known.outputs,
        gates: Shared::new(&mut gates),
        hidden_gradient: Shared::new(&mut hidden),
        cell_gradient: Shared::new(&mut cell_gradient),
    };
    cpu.split(shape.batch, 1, |rows| {
        cpu.run(Rows {
            steps: &steps,
            rows,
        })
    });
    let (recurrent, recurrent_bias) =
        recurrent_gradients(cpu, cell, shape, &gates, (before.0, outputs));
    let weight = weights.input.f32();
    let (source, input, input_bias) = input_gradients(cpu, cell, shape, &gates, source, weight);
    WindowGradients {
        source,
        input,
        recurrent,
        input_bias,
        recurrent_bias,
        hidden,
        cell: cell_gradient,
    }
}

/// The transposed recurrent weights of each product, with the offset of its factor in a row of
/// gates.
fn pack(cpu: Cpu, cell: Cell, size: usize, weight: &[f32]) -> Vec<(usize, Packed)> {
    let products = products(cell).iter().map(|gates| {
        let weight = &weight[gates.start * size * size..gates.end * size * size];
        let packed = Packed::plain(cpu, weight, gates.len() * size, size);
        (cell.recurrent_position(gates.start) * size, packed)
    });
    products.collect()
}

/// Everything that the steps of a window read and write.
struct Steps<'a> {
    cell: Cell,
    shape: Shape,
    packed: Vec<(usize, Packed)>,
    before: (&'a [f32], &'a [f32]),
    outputs: &'a [f32],
    cells: &'a [f32],
    output_gradients: &'a [f32],
    gates: Shared<'a, f32>,
    hidden_gradient: Shared<'a, f32>,
    cell_gradient: Shared<'a, f32>,
}

/// All steps of some rows of a batch, last step first.
struct Rows<'a, 'b> {
    steps: &'b Steps<'a>,
    rows: Range<usize>,
}

impl WithSimd for Rows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rows { steps, rows } = self;
        let size = steps.shape.hidden;
        let batch = steps.shape.batch;
        let stride = steps.cell.stride(size);
        let cell_size = if steps.cells.is_empty() { 0 } else { size };
        let of = |width: usize| rows.start * width..rows.end * width;
        // SAFETY: each thread has its own rows.
        let (hidden_gradient, cell_gradient) = unsafe {
            (
                steps.hidden_gradient.part(of(size)),
                steps.cell_gradient.part(of(cell_size)),
            )
        };
        for time in (0..steps.shape.time).rev() {
            let at = |time: usize, width: usize| {
                (time * batch + rows.start) * width..(time * batch + rows.end) * width
            };
            // SAFETY: each thread has its own rows, and holds one step at a time.
            let gates = unsafe { steps.gates.part(at(time, stride)) };
            let (hidden_before, cell_before) = match time.checked_sub(1) {
                None => (&steps.before.0[of(size)], &steps.before.1[of(cell_size)]),
                Some(earlier) => (
                    &steps.outputs[at(earlier, size)],
                    &steps.cells[at(earlier, cell_size)],
                ),
            };
            for row in 0..rows.len() {
                let of_row = |width: usize| row * width..(row + 1) * width;
                CellBackward {
                    gates: &mut gates[of_row(stride)],
                    hidden_before: &hidden_before[of_row(size)],
                    hidden: &steps.outputs[at(time, size)][of_row(size)],
                    cell_before: &cell_before[of_row(cell_size)],
                    cell: &steps.cells[at(time, cell_size)][of_row(cell_size)],
                    output_gradient: &steps.output_gradients[at(time, size)][of_row(size)],
                    hidden_gradient: &mut hidden_gradient[of_row(size)],
                    cell_gradient: &mut cell_gradient[of_row(cell_size)],
                }
                .compute(simd, steps.cell);
            }
            for (place, packed) in &steps.packed {
                packed.multiply_rows(
                    simd,
                    (&gates[*place..], stride),
                    (hidden_gradient, size),
                    rows.len(),
                    Initial::Result,
                );
            }
        }
    }
}

/// The gradients of `W_hh` and of its bias, where the hidden state before each step is the output
/// of the previous step.
fn recurrent_gradients(
    cpu: Cpu,
    cell: Cell,
    shape: Shape,
    gates: &[f32],
    (before, outputs): (&[f32], &[f32]),
) -> (Buffer, Buffer) {
    let size = shape.hidden;
    let stride = cell.stride(size);
    let mut weight = Buffer::uninitialised(cell.gates() * size * size);
    let mut bias = Buffer::uninitialised(cell.gates() * size);
    for rows in products(cell) {
        let first = cell.recurrent_position(rows.start) * size;
        let width = rows.len() * size;
        let rows = rows.start * size..rows.end * size;
        let weight = &mut weight[rows.start * size..rows.end * size];
        for (steps, hidden, add) in [
            (0..shape.batch, before, false),
            (shape.batch..shape.rows(), outputs, true),
        ] {
            let gates = &gates[steps.start * stride..];
            let gates = gates.get(first..).unwrap_or_default();
            transposed_product(
                cpu,
                steps.len(),
                ((gates, stride, width), (hidden, size, size)),
                weight,
                add,
            );
        }
        bias[rows].copy_from_slice(&sum_columns(cpu, gates, stride, first..first + width));
    }
    (weight, bias)
}

/// The gradients of the input or the embedding, of `W_ih` and of its bias. For an embedding, the
/// gradients of the gates are first summed by token, so that the products have the size of the
/// vocabulary.
fn input_gradients(
    cpu: Cpu,
    cell: Cell,
    shape: Shape,
    gates: &[f32],
    source: LayerInput<'_>,
    weight: &[f32],
) -> (Buffer, Buffer, Buffer) {
    let (width, inputs) = (cell.gates() * shape.hidden, shape.inputs);
    let stride = cell.stride(shape.hidden);
    let table;
    let (rows, (gates, stride), x) = match source {
        LayerInput::Dense(x) => (shape.rows(), (gates, stride), x),
        LayerInput::Table { embedding, tokens } => {
            let vocabulary = embedding.len() / inputs;
            let mut sums = Buffer::zeros(vocabulary * width);
            add_by_token(cpu, (gates, stride), width, tokens, &mut sums);
            table = sums;
            (vocabulary, (&table[..], width), embedding)
        }
    };
    let mut gradient = Buffer::uninitialised(width * inputs);
    let factors = ((gates, stride, width), (x, inputs, inputs));
    transposed_product(cpu, rows, factors, &mut gradient, false);
    let mut input = Buffer::uninitialised(rows * inputs);
    let packed = Packed::plain(cpu, weight, width, inputs);
    packed.multiply(cpu, (gates, stride), (&mut input, inputs), Initial::Zero);
    let bias = sum_columns(cpu, gates, stride, 0..width);
    (input, gradient, bias)
}
