//! The layer as an operation of Burn, with its own backward pass.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor};

use super::backward::{Known, backward};
use super::forward::{Shape, Window, forward};
use super::{Cell, RecurrentWeights, Source, Weights};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Precision};
use crate::embedding::{gather, scatter};
use crate::matmul::FEW_ROWS;
use crate::tensor::{contiguous, sizes, tokens as to_tokens, values, weight, widened};

/// Calls the operation. `source` is the input `[time x batch, inputs]` and no tokens, or the embedding
/// and tokens `[time, batch]`.
pub(super) fn call(
    (cell, precision): (Cell, Precision),
    (source, tokens): (Tensor<2>, Tensor<2, Int>),
    [time, batch]: [usize; 2],
    weights: RecurrentWeights,
    mut carried: Vec<Tensor<2>>,
) -> (Tensor<3>, Vec<Tensor<2>>) {
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
        assert_eq!(state.dims(), [batch, hidden], "shape of a carried state");
    }
    let count = carried.len();
    assert_eq!(
        count,
        if cell == Cell::Lstm { 2 } else { 1 },
        "carried states"
    );
    let hidden_before = carried.swap_remove(0);
    // Only the LSTM has a second state.
    let cell_before = carried.pop().unwrap_or_else(|| hidden_before.clone());
    let (outputs, hidden, cell) = <Dispatch as RecurrentBackend>::recurrent(
        cell,
        precision,
        [time, batch],
        source.into_dispatch(),
        tokens.into_dispatch(),
        weights.weight_ih.into_dispatch(),
        weights.weight_hh.into_dispatch(),
        weights.bias_ih.into_dispatch(),
        weights.bias_hh.into_dispatch(),
        hidden_before.into_dispatch(),
        cell_before.into_dispatch(),
    );
    let mut carried = vec![Tensor::from_dispatch(hidden), Tensor::from_dispatch(cell)];
    carried.truncate(count);
    (Tensor::from_dispatch(outputs), carried)
}

#[backend_extension(Autodiff, Flex)]
trait RecurrentBackend: Backend {
    /// Outputs, last hidden state, last cell state.
    #[allow(clippy::too_many_arguments, reason = "each is a tensor of the graph")]
    fn recurrent(
        cell: Cell,
        precision: Precision,
        window: [usize; 2],
        source: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias_ih: FloatTensor<Self>,
        bias_hh: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl RecurrentBackend for Flex {
    fn recurrent(
        cell: Cell,
        precision: Precision,
        window: [usize; 2],
        source: FlexTensor,
        tokens: FlexTensor,
        weight_ih: FlexTensor,
        weight_hh: FlexTensor,
        bias_ih: FlexTensor,
        bias_hh: FlexTensor,
        hidden: FlexTensor,
        cell_state: FlexTensor,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let parameters = [weight_ih, weight_hh, bias_ih, bias_hh];
        let call = Call::new(
            (cell, precision),
            window,
            (source, tokens),
            parameters,
            (hidden, cell_state),
        );
        let window = call.forward();
        let (hidden, cell) = call.last_states(&window);
        let Shape {
            time,
            batch,
            hidden: size,
            ..
        } = call.shape;
        (
            window.outputs.into_tensor([time, batch, size]),
            hidden,
            cell,
        )
    }
}

impl<C: CheckpointStrategy> RecurrentBackend for Autodiff<Flex, C> {
    fn recurrent(
        cell: Cell,
        precision: Precision,
        window: [usize; 2],
        source: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias_ih: FloatTensor<Self>,
        bias_hh: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (source, source_node) = source.into_parts();
        let (weight_ih, weight_ih_node) = weight_ih.into_parts();
        let (weight_hh, weight_hh_node) = weight_hh.into_parts();
        let (bias_ih, bias_ih_node) = bias_ih.into_parts();
        let (bias_hh, bias_hh_node) = bias_hh.into_parts();
        let (hidden, hidden_node) = hidden.into_parts();
        let (cell_state, cell_state_node) = cell_state.into_parts();
        let parameters = [weight_ih, weight_hh, bias_ih, bias_hh];
        let call = Call::new(
            (cell, precision),
            window,
            (source, tokens),
            parameters,
            (hidden, cell_state),
        );
        let window = call.forward();
        let (hidden, cell) = call.last_states(&window);
        let Shape {
            time,
            batch,
            hidden: size,
            ..
        } = call.shape;
        let parents = [
            source_node,
            weight_ih_node,
            weight_hh_node,
            bias_ih_node,
            bias_hh_node,
            hidden_node,
            cell_state_node,
        ];
        match Layer.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let Window {
                    outputs,
                    cells,
                    gates,
                } = window;
                let outputs = outputs.into_tensor([time, batch, size]);
                let saved = Arc::new(Saved {
                    call,
                    outputs: outputs.clone(),
                    gates_and_cells: Mutex::new(Some((gates, cells))),
                    last_gradients: Mutex::new([None, None]),
                });
                let outputs = prep.finish(saved.clone(), outputs);
                let last = |which: usize, state: FlexTensor| match LastState
                    .prepare::<C>([outputs.node()])
                    .compute_bound()
                    .stateful()
                {
                    OpsKind::Tracked(prep) => prep.finish((saved.clone(), which), state),
                    OpsKind::UnTracked(prep) => prep.finish(state),
                };
                let (hidden, cell) = (last(0, hidden), last(1, cell));
                (outputs, hidden, cell)
            }
            OpsKind::UnTracked(prep) => {
                let outputs = prep.finish(window.outputs.into_tensor([time, batch, size]));
                (outputs, Self::from_inner(hidden), Self::from_inner(cell))
            }
        }
    }
}

/// Everything that a call reads, contiguous.
#[derive(Debug)]
struct Call {
    cell: Cell,
    precision: Precision,
    shape: Shape,
    /// The input, or the embedding.
    source: FlexTensor,
    tokens: Option<Vec<u32>>,
    /// Rows of the embedding for the tokens, where a table of all its rows would be larger.
    gathered: Option<Buffer>,
    weight_ih: FlexTensor,
    weight_hh: FlexTensor,
    bias_ih: FlexTensor,
    bias_hh: FlexTensor,
    hidden: FlexTensor,
    cell_state: FlexTensor,
}

impl Call {
    fn new(
        (cell, precision): (Cell, Precision),
        [time, batch]: [usize; 2],
        (source, tokens): (FlexTensor, FlexTensor),
        parameters: [FlexTensor; 4],
        (hidden, cell_state): (FlexTensor, FlexTensor),
    ) -> Call {
        let source = contiguous(source);
        let [mut weight_ih, mut weight_hh, bias_ih, bias_hh] = parameters.map(contiguous);
        let [source_rows, inputs] = sizes(&source);
        let [_, size] = sizes(&weight_hh);
        let has_tokens = tokens.layout().num_elements() > 0;
        let tokens = has_tokens.then(|| to_tokens(tokens, source_rows));
        let large = tokens
            .as_ref()
            .filter(|tokens| 2 * source_rows > tokens.len());
        let gathered = large.map(|tokens| gather(Cpu::current(), values(&source), inputs, tokens));
        // What is multiplied with many rows, among them those of a table, is packed from `f32`.
        let is_many = time * batch > FEW_ROWS;
        if is_many || (has_tokens && gathered.is_none()) {
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
            hidden: contiguous(hidden),
            cell_state: contiguous(cell_state),
        }
    }

    fn source(&self) -> Source<'_> {
        match (&self.gathered, &self.tokens) {
            (Some(rows), _) => Source::Dense(rows),
            (None, None) => Source::Dense(values(&self.source)),
            (None, Some(tokens)) => Source::Table {
                embedding: values(&self.source),
                tokens,
            },
        }
    }

    fn weights(&self) -> Weights<'_> {
        Weights {
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
        let (source, weights) = (self.source(), self.weights());
        forward(
            Cpu::current().with(self.precision),
            self.cell,
            self.shape,
            source,
            weights,
            self.before(),
        )
    }

    /// Copies of the last states, which outlive the window.
    fn last_states(&self, window: &Window) -> (FlexTensor, FlexTensor) {
        let Shape { batch, hidden, .. } = self.shape;
        let last = |states: &[f32]| {
            let first = states.len() - batch * hidden;
            Buffer::copy_of(&states[first..]).into_tensor([batch, hidden])
        };
        let hidden = last(&window.outputs);
        let cell = match self.cell {
            Cell::Lstm => last(&window.cells),
            _ => hidden.clone(),
        };
        (hidden, cell)
    }
}

/// What backward needs.
#[derive(Debug)]
struct Saved {
    call: Call,
    outputs: FlexTensor,
    /// Used up by backward, which writes the gradients of the gates in their place.
    gates_and_cells: Mutex<Option<(Buffer, Buffer)>>,
    /// Gradients of the last hidden and cell states, where the loss depends on them.
    last_gradients: Mutex<[Option<FlexTensor>; 2]>,
}

/// The backward pass of the layer.
#[derive(Debug)]
struct Layer;

impl Backward<Flex, 7> for Layer {
    type State = Arc<Saved>;

    fn backward(
        self,
        ops: Ops<Self::State, 7>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let saved = ops.state;
        let call = &saved.call;
        let outputs_gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let taken = saved.gates_and_cells.lock();
        let taken = taken.unwrap_or_else(PoisonError::into_inner).take();
        let (gates, cells) = taken.expect("a graph is gone through backward once");
        let last = saved.last_gradients.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        let [last_hidden, last_cell] = last.map(|gradient| gradient.map(contiguous));
        let cpu = Cpu::current().with(call.precision);
        let found = backward(
            cpu,
            call.cell,
            call.shape,
            call.source(),
            call.weights(),
            call.before(),
            (values(&saved.outputs), &cells, gates),
            Known {
                outputs: values(&outputs_gradient),
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
        let Shape {
            batch,
            inputs,
            hidden: size,
            ..
        } = call.shape;
        let rows = call.cell.gates() * size;
        let source_rows = source.len() / inputs;
        let cell = match call.cell {
            Cell::Lstm => found.cell,
            // A stand-in for the hidden state; see `call`.
            _ => Buffer::zeros(batch * size),
        };
        let found = [
            source.into_tensor([source_rows, inputs]),
            found.input.into_tensor([rows, inputs]),
            found.recurrent.into_tensor([rows, size]),
            found.input_bias.into_tensor([rows]),
            found.recurrent_bias.into_tensor([rows]),
            found.hidden.into_tensor([batch, size]),
            cell.into_tensor([batch, size]),
        ];
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// The backward pass of a last state: its gradient is handed to the layer, which comes later.
#[derive(Debug)]
struct LastState;

impl Backward<Flex, 1> for LastState {
    type State = (Arc<Saved>, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (saved, which) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node);
        // Only the LSTM's second state is one of its own.
        let which = if saved.call.cell == Cell::Lstm {
            which
        } else {
            0
        };
        let mut last = saved
            .last_gradients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last[which] = Some(match last[which].take() {
            Some(other) => Flex::float_add(other, gradient),
            None => gradient,
        });
        let [Some(outputs)] = ops.parents else {
            return;
        };
        // The layer asks for the gradient of its outputs, which may have no other use.
        let Shape {
            time,
            batch,
            hidden,
            ..
        } = saved.call.shape;
        let zeros = Buffer::zeros(time * batch * hidden).into_tensor([time, batch, hidden]);
        gradients.register::<Flex>(outputs.id, zeros);
    }
}
