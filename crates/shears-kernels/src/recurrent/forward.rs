//! The forward pass of a recurrent layer over a window.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::cell::CellForward;
use super::{Cell, LayerInput, WeightSlices};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Products, Shared};
use crate::matmul::{FEW_ROWS, Initial, Packed, Weight, product_of_few_rows};

/// The result of a window, and what the backward pass needs.
#[derive(Debug)]
pub(super) struct Window {
    /// `[time, batch, hidden]`
    pub(super) outputs: Buffer,
    /// LSTM: `[time, batch, hidden]`, else empty.
    pub(super) cells: Buffer,
    /// `[time, batch, stride]`: rows of gates, see [`super::cell`]. RNN: empty, because the output
    /// suffices.
    pub(super) gates: Buffer,
}

/// Shapes of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) time: usize,
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) hidden: usize,
}

impl Shape {
    pub(super) fn rows(self) -> usize {
        self.time * self.batch
    }

    /// Whether to read the weights without packing them: for few rows in total, and in f32 for a
    /// batch of one, which reads them once per step either way.
    fn is_small(self, cpu: Cpu) -> bool {
        self.rows() <= FEW_ROWS || (self.batch == 1 && cpu.products == Products::F32)
    }
}

/// Runs a window. `hidden` and `cell_state` are `[batch, hidden]`, before the first step.
pub(super) fn forward(
    cpu: Cpu,
    cell: Cell,
    shape: Shape,
    source: LayerInput<'_>,
    weights: WeightSlices<'_>,
    before: (&[f32], &[f32]),
) -> Window {
    let (embedding, tokens) = match source {
        LayerInput::Dense(rows) => {
            return window(cpu, cell, shape, Inputs::Rows(rows), weights, before);
        }
        LayerInput::Table { embedding, tokens } => (embedding, tokens),
    };
    let width = cell.gates() * shape.hidden;
    let mut products = Buffer::uninitialised(embedding.len() / shape.inputs * width);
    let packed = Packed::transposed(cpu, weights.input.f32(), width, shape.inputs);
    let bias = input_bias(cell, shape.hidden, weights);
    let out = (&mut products[..], width);
    packed.multiply(cpu, (embedding, shape.inputs), out, Initial::Bias(&bias));
    let products = Inputs::Products {
        products: &products,
        tokens,
    };
    window(cpu, cell, shape, products, weights, before)
}

/// What a window reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inputs<'a> {
    /// `x` `[time, batch, inputs]`
    Rows(&'a [f32]),
    /// The rows of `W_ih x + b` for tokens `[time, batch]`.
    Products {
        /// `[vocabulary, gates x hidden]`
        products: &'a [f32],
        tokens: &'a [u32],
    },
}

/// [`forward`] for either kind of input.
pub(super) fn window(
    cpu: Cpu,
    cell: Cell,
    shape: Shape,
    inputs: Inputs<'_>,
    weights: WeightSlices<'_>,
    before: (&[f32], &[f32]),
) -> Window {
    let size = shape.hidden;
    let is_lstm = cell == Cell::Lstm;
    let keeps_gates = !matches!(cell, Cell::Rnn(_));
    let mut outputs = Buffer::uninitialised(shape.rows() * size);
    let mut cells = Buffer::uninitialised(if is_lstm { outputs.len() } else { 0 });
    let kept = if keeps_gates { cell.stride(size) } else { 0 };
    let mut gates = Buffer::uninitialised(shape.rows() * kept);
    let table = match inputs {
        Inputs::Products { products, tokens } => Some((products, tokens)),
        Inputs::Rows(rows) => {
            // The RNN accumulates in its outputs.
            let sums = if keeps_gates {
                &mut gates
            } else {
                &mut outputs
            };
            let bias = input_bias(cell, size, weights);
            let sums = (&mut sums[..], cell.stride(size));
            input_part(cpu, shape, rows, weights.input, &bias, sums);
            None
        }
    };
    let steps = Steps {
        cell,
        shape,
        recurrent: weights.recurrent,
        last_bias: &weights.recurrent_bias[(cell.gates() - 1) * size..],
        packed: match shape.is_small(cpu) {
            true => Vec::new(),
            false => pack(cpu, cell, size, weights.recurrent.f32()),
        },
        table,
        before,
        outputs: Shared::new(&mut outputs),
        cells: Shared::new(&mut cells),
        gates: Shared::new(&mut gates),
    };
    if shape.is_small(cpu) {
        steps.unpacked(cpu);
    } else {
        // Rows of a batch are independent, so threads do not synchronise between steps.
        cpu.split(shape.batch, 1, |rows| {
            cpu.run(PackedRows {
                steps: &steps,
                rows,
            });
        });
    }
    Window {
        outputs,
        cells,
        gates,
    }
}

/// The bias of `W_ih x`: the sum of both biases, except for the recurrent bias that the GRU's reset
/// gate multiplies.
pub(super) fn input_bias(cell: Cell, size: usize, weights: WeightSlices<'_>) -> Vec<f32> {
    let both = match cell {
        Cell::Gru => 2 * size,
        _ => cell.gates() * size,
    };
    let mut bias = weights.input_bias.to_vec();
    for (bias, recurrent) in bias[..both].iter_mut().zip(weights.recurrent_bias) {
        *bias += recurrent;
    }
    bias
}

/// `W_ih x + b` for all steps at once.
fn input_part(
    cpu: Cpu,
    shape: Shape,
    input: &[f32],
    weight: Weight<'_>,
    bias: &[f32],
    (sums, stride): (&mut [f32], usize),
) {
    let width = bias.len();
    let rows = shape.rows();
    if rows <= FEW_ROWS {
        let initial = Initial::Bias(bias);
        product_of_few_rows(cpu, (weight, width), (input, rows), (sums, stride), initial);
        return;
    }
    let packed = Packed::transposed(cpu, weight.f32(), width, shape.inputs);
    // The last row ends with its last gate, without padding.
    packed.multiply(
        cpu,
        (input, shape.inputs),
        (sums, stride),
        Initial::Bias(bias),
    );
}

/// The ranges of gates that are adjacent both in the weights and in a row of gates; each range is
/// one product.
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is intended"
)]
pub(super) fn products(cell: Cell) -> &'static [Range<usize>] {
    match cell {
        Cell::Rnn(_) => &[0..1],
        Cell::Lstm => &[0..4],
        Cell::Gru => &[0..2, 2..3],
    }
}

/// The packed recurrent weights of each product, with its first gate.
fn pack(cpu: Cpu, cell: Cell, size: usize, weight: &[f32]) -> Vec<(usize, Packed)> {
    let products = products(cell).iter().map(|gates| {
        let weight = &weight[gates.start * size * size..gates.end * size * size];
        let packed = Packed::transposed(cpu, weight, gates.len() * size, size);
        (gates.start, packed)
    });
    products.collect()
}

/// Everything that the steps of a window read and write.
struct Steps<'a> {
    cell: Cell,
    shape: Shape,
    /// `[gates x hidden, hidden]`
    recurrent: Weight<'a>,
    /// The recurrent bias of the last gate, which the GRU keeps separate.
    last_bias: &'a [f32],
    /// See [`pack`].
    packed: Vec<(usize, Packed)>,
    /// `W_ih x + b` for each token, and the tokens.
    table: Option<(&'a [f32], &'a [u32])>,
    before: (&'a [f32], &'a [f32]),
    outputs: Shared<'a, f32>,
    cells: Shared<'a, f32>,
    gates: Shared<'a, f32>,
}

/// The parts of the buffers for some rows at one step.
struct Step<'a> {
    gates: &'a mut [f32],
    hidden_before: &'a [f32],
    cell_before: &'a [f32],
    hidden: &'a mut [f32],
    cell: &'a mut [f32],
}

impl<'a> Steps<'a> {
    /// # Safety
    ///
    /// No other thread uses these rows, and no earlier `Step` of them is alive.
    unsafe fn at(&self, time: usize, rows: &Range<usize>) -> Step<'a> {
        let batch = self.shape.batch;
        let part = |shared: &Shared<'a, f32>, time: usize, width: usize| {
            let first = time * batch;
            // SAFETY: the caller guarantees it; steps do not overlap.
            unsafe { shared.part((first + rows.start) * width..(first + rows.end) * width) }
        };
        let size = self.shape.hidden;
        let cell_size = if self.cell == Cell::Lstm { size } else { 0 };
        let of_rows = |state: &'a [f32], width: usize| &state[rows.start * width..rows.end * width];
        let (hidden_before, cell_before) = match time.checked_sub(1) {
            None => (
                of_rows(self.before.0, size),
                of_rows(self.before.1, cell_size),
            ),
            Some(earlier) => (
                &*part(&self.outputs, earlier, size),
                &*part(&self.cells, earlier, cell_size),
            ),
        };
        let stride = match self.cell {
            Cell::Rnn(_) => 0,
            _ => self.cell.stride(size),
        };
        Step {
            gates: part(&self.gates, time, stride),
            hidden_before,
            cell_before,
            hidden: part(&self.outputs, time, size),
            cell: part(&self.cells, time, cell_size),
        }
    }

    /// Copies the table's row for each token to the rows of a step.
    #[inline(always)]
    fn look_up(&self, time: usize, rows: &Range<usize>, sums: &mut [f32]) {
        let Some((table, tokens)) = self.table else {
            return;
        };
        let width = self.cell.gates() * self.shape.hidden;
        let stride = self.cell.stride(self.shape.hidden);
        let tokens = &tokens[time * self.shape.batch..][rows.clone()];
        for (&token, sums) in tokens.iter().zip(sums.chunks_exact_mut(stride)) {
            let entry = &table[token as usize * width..][..width];
            sums[..width].copy_from_slice(entry);
        }
    }

    /// The accumulators of a step: the gates, or for the RNN its outputs.
    #[inline(always)]
    fn sums<'b>(&self, step: &'b mut Step<'a>) -> &'b mut [f32] {
        match self.cell {
            Cell::Rnn(_) => step.hidden,
            _ => step.gates,
        }
    }

    /// The initial values of a gate's product with the hidden state. The GRU's last gate is
    /// separate from its input part, because the reset gate multiplies it.
    #[inline(always)]
    fn initial(&self, gate: usize) -> Initial<'a> {
        match (self.cell, gate) {
            (Cell::Gru, 2) => Initial::Bias(self.last_bias),
            _ => Initial::Result,
        }
    }

    /// Runs a small window; see [`Shape::is_small`].
    fn unpacked(&self, cpu: Cpu) {
        let (size, rows) = (self.shape.hidden, 0..self.shape.batch);
        let stride = self.cell.stride(size);
        for time in 0..self.shape.time {
            // SAFETY: this is the only thread, and it holds one step at a time.
            let mut step = unsafe { self.at(time, &rows) };
            let hidden_before = (step.hidden_before, rows.len());
            let sums = self.sums(&mut step);
            self.look_up(time, &rows, sums);
            for gates in products(self.cell) {
                let outputs = gates.start * size..gates.end * size;
                let weight = (self.recurrent.rows(outputs, size), gates.len() * size);
                let first = self.cell.recurrent_position(gates.start) * size;
                let sums = (&mut sums[first..], stride);
                product_of_few_rows(cpu, weight, hidden_before, sums, self.initial(gates.start));
            }
            cpu.run(Cells { steps: self, step });
        }
    }

    /// Computes the cells of a step.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, step: &mut Step<'a>) {
        let size = self.shape.hidden;
        let rows = step.hidden.len() / size;
        let row_of = |row: usize, width: usize| row * width..(row + 1) * width;
        let stride = step.gates.len() / rows;
        let cell_size = step.cell.len() / rows;
        for row in 0..rows {
            CellForward {
                gates: &mut step.gates[row_of(row, stride)],
                hidden_before: &step.hidden_before[row_of(row, size)],
                cell_before: &step.cell_before[row_of(row, cell_size)],
                hidden: &mut step.hidden[row_of(row, size)],
                cell: &mut step.cell[row_of(row, cell_size)],
            }
            .compute(simd, self.cell);
        }
    }
}

/// The cells of a step, after its separate products.
struct Cells<'a, 'b> {
    steps: &'b Steps<'a>,
    step: Step<'a>,
}

impl WithSimd for Cells<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.steps.finish(simd, &mut self.step);
    }
}

/// All steps of some rows of a batch, with packed weights.
struct PackedRows<'a, 'b> {
    steps: &'b Steps<'a>,
    rows: Range<usize>,
}

impl WithSimd for PackedRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PackedRows { steps, rows } = self;
        let size = steps.shape.hidden;
        let stride = steps.cell.stride(size);
        for time in 0..steps.shape.time {
            // SAFETY: each thread has its own rows, and holds one step at a time.
            let mut step = unsafe { steps.at(time, &rows) };
            let hidden_before = step.hidden_before;
            let sums = steps.sums(&mut step);
            steps.look_up(time, &rows, sums);
            for (gate, packed) in &steps.packed {
                let first = steps.cell.recurrent_position(*gate) * size;
                let sums = (&mut sums[first..], stride);
                let initial = steps.initial(*gate);
                packed.multiply_rows(simd, (hidden_before, size), sums, rows.len(), initial);
            }
            steps.finish(simd, &mut step);
        }
    }
}
