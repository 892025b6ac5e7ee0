//! The layer as a Burn operation with its own backward pass.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Shape as TensorShape, Tensor};

use super::backward::{OutputGradients, backward};
use super::forward::{Shape, Window, forward};
use super::{Cell, LayerInput, RecurrentWeights, WeightSlices};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Precision};
use crate::embedding::{gather, scatter};
use crate::matmul::FEW_ROWS;
use crate::operation::{Forward, Operation, call as call_operation, call_with_one_output};
use crate::tensor::{contiguous, sizes, values, weight, widened};

/// Calls the operation. `source` is the input `[time x batch, inputs]` without tokens, or the
/// embedding with `time x batch` tokens.
pub(super) fn call(
    (cell, precision): (Cell, Precision),
    (source, tokens): (Tensor<2>, Option<Vec<u32>>),
    [time, batch]: [usize; 2],
    weights: RecurrentWeights,
    mut carried: Vec<Tensor<3>>,
) -> (Tensor<3>, Vec<Tensor<3>>) {
    let [_, inputs] = source.dims();
    let [rows, hidden] = weights.weight_hh.dims();
    assert_eq!(rows, cell.gates() * hidden, "rows of the recurrent weights");
    assert_eq!(
        weights.weight_ih.dims(),
        [rows, inputs],
        "shape of the input weights"
    );
    assert_eq!(weights.bias_ih.dims(), [rows], "size of the input bias");
    assert_eq!(weights.bias_hh.dims(), [rows], "size of the recurrent bias");
    assert!(
        time > 0 && batch > 0,
        "a window has at least one step and one row"
    );
    for state in &carried {
        assert_eq!(state.dims(), [1, batch, hidden], "shape of a carried state");
    }
    assert_eq!(carried.len(), cell.carries().len(), "carried states");
    let hidden_before = carried.swap_remove(0);
    // Only the LSTM has a second state.
    let cell_before = carried.pop().unwrap_or_else(|| hidden_before.clone());
    let last_gradients = LastGradients::default();
    let layer = Layer {
        cell,
        precision,
        window: [time, batch],
        tokens,
        last_gradients: last_gradients.clone(),
    };
    let tensors = [
        source.into_dispatch(),
        weights.weight_ih.into_dispatch(),
        weights.weight_hh.into_dispatch(),
        weights.bias_ih.into_dispatch(),
        weights.bias_hh.into_dispatch(),
        hidden_before.into_dispatch(),
        cell_before.into_dispatch(),
    ];
    let (outputs, states) = call_operation(layer, tensors);
    let outputs = Tensor::<3>::from_dispatch(outputs);
    let carried = states.into_iter().enumerate().map(|(which, state)| {
        let state = match outputs.is_autodiff() {
            true => {
                let last_gradients = last_gradients.clone();
                let operation = LastState {
                    which,
                    last_gradients,
                };
                call_with_one_output(operation, [outputs.clone().into_dispatch(), state])
            }
            false => state,
        };
        Tensor::from_dispatch(state)
    });
    let carried = carried.collect();
    (outputs, carried)
}

/// Gradients of the last hidden and cell states, if the loss depends on them. They are set before
/// the layer's backward pass.
type LastGradients = Arc<Mutex<[Option<FlexTensor>; 2]>>;

/// The operation: a layer over a window.
struct Layer {
    cell: Cell,
    precision: Precision,
    /// Time and batch.
    window: [usize; 2],
    tokens: Option<Vec<u32>>,
    last_gradients: LastGradients,
}

/// The inputs of a call, contiguous.
#[derive(Debug)]
struct Call {
    cell: Cell,
    precision: Precision,
    shape: Shape,
    /// The input, or the embedding.
    source: FlexTensor,
    tokens: Option<Vec<u32>>,
    /// The embedding rows of the tokens, if a table of the vocabulary would be larger.
    gathered: Option<Buffer>,
    weight_ih: FlexTensor,
    weight_hh: FlexTensor,
    bias_ih: FlexTensor,
    bias_hh: FlexTensor,
    hidden: FlexTensor,
    cell_state: FlexTensor,
    last_gradients: LastGradients,
}

impl Call {
    fn new(layer: Layer, inputs: [FlexTensor; 7]) -> Call {
        let Layer {
            cell,
            precision,
            window: [time, batch],
            tokens,
            last_gradients,
        } = layer;
        let [
            source,
            mut weight_ih,
            mut weight_hh,
            bias_ih,
            bias_hh,
            hidden,
            cell_state,
        ] = inputs.map(contiguous);
        let [source_rows, inputs] = sizes(&source);
        let [_, size] = sizes(&weight_hh);
        let large = tokens
            .as_ref()
            .filter(|tokens| 2 * source_rows > tokens.len());
        let gathered = large.map(|tokens| gather(Cpu::current(), values(&source), inputs, tokens));
        // Products of many rows, including those of a table, pack `f32` weights.
        let is_many = time * batch > FEW_ROWS;
        if is_many || (tokens.is_some() && gathered.is_none()) {
            weight_ih = widened(weight_ih);
        }
        if is_many {
            weight_hh = widened(weight_hh);
        }
        Call {
            cell,
            precision,
            shape: Shape {
                time,
                batch,
                inputs,
                hidden: size,
            },
            source,
            tokens,
            gathered,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            hidden,
            cell_state,
            last_gradients,
        }
    }

    fn input(&self) -> LayerInput<'_> {
        match (&self.gathered, &self.tokens) {
            (Some(rows), _) => LayerInput::Dense(rows),
            (None, None) => LayerInput::Dense(values(&self.source)),
            (None, Some(tokens)) => LayerInput::Table {
                embedding: values(&self.source),
                tokens,
            },
        }
    }

    fn weights(&self) -> WeightSlices<'_> {
        WeightSlices {
            input: weight(&self.weight_ih),
            recurrent: weight(&self.weight_hh),
            input_bias: values(&self.bias_ih),
            recurrent_bias: values(&self.bias_hh),
        }
    }

    fn before(&self) -> (&[f32], &[f32]) {
        (values(&self.hidden), values(&self.cell_state))
    }

    fn forward(&self) -> Window {
        forward(
            Cpu::current().with(self.precision),
            self.cell,
            self.shape,
            self.input(),
            self.weights(),
            self.before(),
        )
    }
}

/// The last state of a window `[time, batch, hidden]`: copied, because it outlives the window,
/// unless the window has one step.
fn last(states: &FlexTensor) -> FlexTensor {
    let [time, batch, hidden] = sizes(states);
    if time == 1 {
        return states.clone();
    }
    let first = (time - 1) * batch * hidden;
    Buffer::copy_of(&values(states)[first..]).into_tensor([1, batch, hidden])
}

/// What the backward pass needs.
struct Saved {
    call: Call,
    outputs: FlexTensor,
    /// The backward pass overwrites them with their gradients.
    gates: Buffer,
    cells: FlexTensor,
}

impl Operation<7> for Layer {
    type Saved = Saved;

    fn shapes(&self, inputs: &[FlexTensor; 7]) -> Option<Vec<TensorShape>> {
        let ([time, batch], [_, hidden]) = (self.window, sizes(&inputs[2]));
        let mut all = vec![TensorShape::new([1, batch, hidden]); 1 + self.cell.carries().len()];
        all[0] = TensorShape::new([time, batch, hidden]);
        Some(all)
    }

    fn forward(self, inputs: [FlexTensor; 7], needs_backward: bool) -> Forward<Saved> {
        let call = Call::new(self, inputs);
        let window = call.forward();
        let (time, batch, hidden) = (call.shape.time, call.shape.batch, call.shape.hidden);
        let cell_size = window.cells.len() / (time * batch);
        let outputs = window.outputs.into_tensor([time, batch, hidden]);
        let cells = window.cells.into_tensor([time, batch, cell_size]);
        let carried = [&outputs, &cells].into_iter().map(last);
        Forward {
            constants: carried.take(call.cell.carries().len()).collect(),
            output: outputs.clone(),
            saved: needs_backward.then_some(Saved {
                call,
                outputs,
                gates: window.gates,
                cells,
            }),
        }
    }

    fn backward(saved: Saved, gradient: FlexTensor, _wanted: [bool; 7]) -> [Option<FlexTensor>; 7] {
        let Saved {
            call,
            outputs,
            gates,
            cells,
        } = saved;
        let last = call.last_gradients.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        let [last_hidden, last_cell] = last.map(|gradient| gradient.map(contiguous));
        let cpu = Cpu::current().with(call.precision);
        let found = backward(
            cpu,
            call.cell,
            call.shape,
            call.input(),
            call.weights(),
            call.before(),
            (values(&outputs), values(&cells), gates),
            OutputGradients {
                outputs: values(&gradient),
                last_hidden: last_hidden.as_ref().map(values),
                last_cell: last_cell.as_ref().map(values),
            },
        );
        let source = match (&call.gathered, &call.tokens) {
            (Some(_), Some(tokens)) => {
                let len = values(&call.source).len();
                scatter(cpu, &found.source, call.shape.inputs, tokens, len)
            }
            _ => found.source,
        };
        let (batch, inputs, size) = (call.shape.batch, call.shape.inputs, call.shape.hidden);
        let rows = call.cell.gates() * size;
        let source_rows = source.len() / inputs;
        let cell = match call.cell {
            Cell::Lstm => found.cell,
            // The gradient of the placeholder input; see `call`.
            _ => Buffer::zeros(batch * size),
        };
        let found = [
            source.into_tensor([source_rows, inputs]),
            found.input.into_tensor([rows, inputs]),
            found.recurrent.into_tensor([rows, size]),
            found.input_bias.into_tensor([rows]),
            found.recurrent_bias.into_tensor([rows]),
            found.hidden.into_tensor([1, batch, size]),
            cell.into_tensor([1, batch, size]),
        ];
        found.map(Some)
    }
}

/// Adds one of the last states to the graph, as a function of the layer's outputs and the state
/// itself. Its gradient is passed to the layer, whose backward pass runs later.
struct LastState {
    /// 0: the hidden state; 1: the LSTM's cell state.
    which: usize,
    last_gradients: LastGradients,
}

impl Operation<2> for LastState {
    /// The operation and the shape of the outputs.
    type Saved = (LastState, Vec<usize>);

    fn forward(
        self,
        [outputs, state]: [FlexTensor; 2],
        _needs_backward: bool,
    ) -> Forward<Self::Saved> {
        let shape = outputs.layout().shape().to_vec();
        Forward::of(state, (self, shape))
    }

    fn backward(
        (state, shape): Self::Saved,
        gradient: FlexTensor,
        _wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let last = state.last_gradients.lock();
        let last = &mut last.unwrap_or_else(PoisonError::into_inner)[state.which];
        *last = Some(match last.take() {
            Some(other) => Flex::float_add(other, gradient),
            None => gradient,
        });
        // The backward pass of the layer needs a gradient of its outputs even if only the states
        // are used.
        let zeros = Buffer::zeros(shape.iter().product()).into_tensor(shape);
        [Some(zeros), None]
    }
}
