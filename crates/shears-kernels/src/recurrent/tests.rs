use burn::tensor::{Device, Tensor};

use super::backward::{OutputGradients, backward};
use super::forward::{Shape, forward};
use super::*;
use crate::cpu::Cpu;
use crate::cpu::Precision::F32;
use crate::testing::{assert_close, elements, integers, read, tensor, whole};

const CELLS: [Cell; 4] = [
    Cell::Rnn(Activation::Tanh),
    Cell::Rnn(Activation::Relu),
    Cell::Lstm,
    Cell::Gru,
];

/// Time, batch, inputs, hidden: ones, odd sizes, few rows, more than a panel.
const SHAPES: [[usize; 4]; 7] = [
    [1, 1, 1, 1],
    [4, 3, 5, 7],
    [5, 4, 3, 16],
    [7, 13, 20, 33],
    [3, 50, 16, 40],
    [2, 6, 300, 65],
    [2, 5, 8, 256],
];

/// Values, and gradients of a loss that depends on every output.
#[derive(Clone, Debug)]
struct Found {
    outputs: Vec<f32>,
    carried: Vec<Vec<f32>>,
    /// Gradients of input, weights, biases and states.
    gradients: Vec<Vec<f32>>,
}

/// The inputs of a case.
struct Case {
    cell: Cell,
    shape: Shape,
    source: Vec<f32>,
    source_rows: usize,
    tokens: Option<Vec<u32>>,
    weights: [Vec<f32>; 4],
    states: Vec<Vec<f32>>,
    /// The loss is the sum of outputs and last states, weighted by these.
    factors: Vec<f32>,
    last_factors: Vec<Vec<f32>>,
}

impl Case {
    fn new(
        cell: Cell,
        [time, batch, inputs, hidden]: [usize; 4],
        vocabulary: Option<usize>,
    ) -> Case {
        let rows = cell.gates() * hidden;
        let scale = |values: Vec<f32>, by: f32| values.into_iter().map(|x| x * by).collect();
        let by = 1.0 / (hidden as f32).sqrt();
        let source_rows = vocabulary.unwrap_or(time * batch);
        let count = if cell == Cell::Lstm { 2 } else { 1 };
        Case {
            cell,
            shape: Shape {
                time,
                batch,
                inputs,
                hidden,
            },
            source: elements(source_rows * inputs, 1),
            source_rows,
            tokens: vocabulary.map(|bound| integers(time * batch, bound, 2)),
            weights: [
                scale(elements(rows * inputs, 3), 1.0 / (inputs as f32).sqrt()),
                scale(elements(rows * hidden, 4), by),
                scale(elements(rows, 5), by),
                scale(elements(rows, 6), by),
            ],
            states: (0..count)
                .map(|n| elements(batch * hidden, 7 + n))
                .collect(),
            factors: elements(time * batch * hidden, 9),
            last_factors: (0..count)
                .map(|n| elements(batch * hidden, 10 + n))
                .collect(),
        }
    }

    /// Through Burn's automatic differentiation, of the composition or of the fused operation.
    fn through_burn(&self, fused: bool, with_last: bool) -> Found {
        let device = Device::flex().autodiff();
        let Shape {
            time,
            batch,
            inputs,
            hidden,
        } = self.shape;
        let rows = self.cell.gates() * hidden;
        let source = tensor(&self.source, [self.source_rows, inputs], &device);
        let weights = RecurrentWeights {
            weight_ih: tensor(&self.weights[0], [rows, inputs], &device),
            weight_hh: tensor(&self.weights[1], [rows, hidden], &device),
            bias_ih: tensor(&self.weights[2], [rows], &device),
            bias_hh: tensor(&self.weights[3], [rows], &device),
        };
        let states = self.states.iter();
        let states: Vec<Tensor<3>> = states
            .map(|s| tensor(s, [1, batch, hidden], &device))
            .collect();
        let (kept, given) = (weights.clone(), states.clone());
        let (outputs, carried) = match &self.tokens {
            Some(tokens) => {
                let (cell, table) = (self.cell, source.clone());
                let tokens = whole(tokens, [time, batch], &device);
                match fused {
                    true => recurrent_tokens(cell, F32, tokens, table, weights, given),
                    false => recurrent_tokens_plain(cell, tokens, table, weights, given),
                }
            }
            None => {
                let input = source.clone().reshape([time, batch, inputs]);
                match fused {
                    true => recurrent(self.cell, F32, input, weights, given),
                    false => recurrent_plain(self.cell, input, weights, given),
                }
            }
        };
        let constant = device.clone().without_autodiff();
        let factors = |values: &[f32], shape: [usize; 3]| {
            Tensor::from_inner(Tensor::<1>::from_floats(values, &constant).reshape(shape))
        };
        let mut loss = (outputs.clone() * factors(&self.factors, [time, batch, hidden])).sum();
        if with_last {
            for (state, values) in carried.iter().zip(&self.last_factors) {
                let factors = factors(values, [1, batch, hidden]);
                loss = loss + (state.clone() * factors).sum();
            }
        }
        let gradients = loss.backward();
        let of = |tensor: &Tensor<2>| read(&tensor.grad(&gradients).unwrap());
        let of_bias = |tensor: &Tensor<1>| read(&tensor.grad(&gradients).unwrap());
        let mut found = vec![
            of(&source),
            of(&kept.weight_ih),
            of(&kept.weight_hh),
            of_bias(&kept.bias_ih),
            of_bias(&kept.bias_hh),
        ];
        let of_state = |state: &Tensor<3>| read(&state.grad(&gradients).unwrap());
        found.extend(states.iter().map(of_state));
        Found {
            outputs: read(&outputs),
            carried: carried.iter().map(read).collect(),
            gradients: found,
        }
    }

    /// Calls the kernels directly.
    fn directly(&self, cpu: Cpu) -> Found {
        let source = match &self.tokens {
            Some(tokens) => LayerInput::Table {
                embedding: &self.source,
                tokens,
            },
            None => LayerInput::Dense(&self.source),
        };
        let weights = WeightSlices {
            input: Weight::F32(&self.weights[0]),
            recurrent: Weight::F32(&self.weights[1]),
            input_bias: &self.weights[2],
            recurrent_bias: &self.weights[3],
        };
        let cell_state = self.states.get(1).map_or(&[][..], |state| state);
        let before = (&self.states[0][..], cell_state);
        let window = forward(cpu, self.cell, self.shape, source, weights, before);
        let state = self.shape.batch * self.shape.hidden;
        let last = |states: &[f32]| states[states.len() - state..].to_vec();
        let mut carried = vec![last(&window.outputs)];
        if self.cell == Cell::Lstm {
            carried.push(last(&window.cells));
        }
        let known = OutputGradients {
            outputs: &self.factors,
            last_hidden: Some(&self.last_factors[0]),
            last_cell: self.last_factors.get(1).map(Vec::as_slice),
        };
        let left = (&window.outputs[..], &window.cells[..], window.gates);
        let found = backward(
            cpu, self.cell, self.shape, source, weights, before, left, known,
        );
        let mut gradients: Vec<Vec<f32>> = [
            found.source,
            found.input,
            found.recurrent,
            found.input_bias,
            found.recurrent_bias,
            found.hidden,
        ]
        .iter()
        .map(|gradient| gradient.to_vec())
        .collect();
        if self.cell == Cell::Lstm {
            gradients.push(found.cell.to_vec());
        }
        Found {
            outputs: window.outputs.to_vec(),
            carried,
            gradients,
        }
    }
}

fn assert_same(what: &str, found: &Found, expected: &Found, bound: f32) {
    assert_close(
        &format!("{what}: outputs"),
        &found.outputs,
        &expected.outputs,
        bound,
    );
    for (n, (found, expected)) in found.carried.iter().zip(&expected.carried).enumerate() {
        assert_close(&format!("{what}: state {n}"), found, expected, bound);
    }
    assert_eq!(found.gradients.len(), expected.gradients.len());
    for (n, (found, expected)) in found.gradients.iter().zip(&expected.gradients).enumerate() {
        assert_close(&format!("{what}: gradient {n}"), found, expected, bound);
    }
}

#[test]
fn kernels_match_the_composition_for_any_number_of_threads() {
    for cell in CELLS {
        for shape in SHAPES {
            for vocabulary in [None, Some(2), Some(11)] {
                let case = Case::new(cell, shape, vocabulary);
                let expected = case.through_burn(false, true);
                let mut first: Option<(usize, Found)> = None;
                for cpu in Cpu::all() {
                    let what = format!("{cell:?} {shape:?} {vocabulary:?} {cpu:?}");
                    let found = case.directly(cpu);
                    assert_same(&what, &found, &expected, 1e-5);
                    // Instructions may change the rounding; threads may not.
                    match &first {
                        Some((lanes, first)) if *lanes == cpu.lanes() && cpu.threads > 1 => {
                            assert_same(&what, &found, first, 0.0);
                        }
                        _ => first = Some((cpu.lanes(), found)),
                    }
                }
            }
        }
    }
}

#[test]
fn the_operation_matches_the_composition_for_every_loss() {
    for cell in CELLS {
        // A vocabulary of 50 is larger than the window: its rows are gathered.
        for vocabulary in [None, Some(5), Some(50)] {
            for with_last in [true, false] {
                let case = Case::new(cell, [4, 6, 5, 9], vocabulary);
                let expected = case.through_burn(false, with_last);
                let found = case.through_burn(true, with_last);
                let what = format!("{cell:?} {vocabulary:?} {with_last}");
                assert_same(&what, &found, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn the_loss_may_depend_only_on_the_last_state() {
    let device = Device::flex().autodiff();
    for cell in CELLS {
        let case = Case::new(cell, [3, 4, 5, 6], None);
        let rows = cell.gates() * 6;
        let gradient = |fused: bool| {
            let weight = tensor(&case.weights[1], [rows, 6], &device);
            let weights = RecurrentWeights {
                weight_ih: tensor(&case.weights[0], [rows, 5], &device),
                weight_hh: weight.clone(),
                bias_ih: tensor(&case.weights[2], [rows], &device),
                bias_hh: tensor(&case.weights[3], [rows], &device),
            };
            let input = tensor(&case.source, [3, 4, 5], &device);
            let states = case
                .states
                .iter()
                .map(|state| tensor(state, [1, 4, 6], &device))
                .collect();
            let (_, carried) = match fused {
                true => recurrent(cell, F32, input, weights, states),
                false => recurrent_plain(cell, input, weights, states),
            };
            let last = carried.last().unwrap().clone();
            read(
                &weight
                    .grad(&(last.clone() * last).sum().backward())
                    .unwrap(),
            )
        };
        assert_close(
            &format!("{cell:?}"),
            &gradient(true),
            &gradient(false),
            1e-5,
        );
    }
}

#[test]
fn values_are_the_same_without_gradients() {
    for cell in CELLS {
        let case = Case::new(cell, [4, 6, 5, 9], Some(5));
        let expected = case.through_burn(true, true);
        let device = Device::flex();
        let plain =
            |values: &[f32], shape| Tensor::<1>::from_floats(values, &device).reshape(shape);
        let rows = cell.gates() * 9;
        let weights = RecurrentWeights {
            weight_ih: plain(&case.weights[0], [rows, 5]),
            weight_hh: plain(&case.weights[1], [rows, 9]),
            bias_ih: Tensor::from_floats(&case.weights[2][..], &device),
            bias_hh: Tensor::from_floats(&case.weights[3][..], &device),
        };
        let states = case
            .states
            .iter()
            .map(|state| plain(state, [6, 9]).unsqueeze_dim(0))
            .collect();
        let tokens = whole(case.tokens.as_ref().unwrap(), [4, 6], &device);
        let (outputs, carried) = recurrent_tokens(
            cell,
            F32,
            tokens,
            plain(&case.source, [5, 5]),
            weights,
            states,
        );
        assert_eq!(read(&outputs), expected.outputs);
        for (state, expected) in carried.iter().zip(&expected.carried) {
            assert_eq!(read(state), *expected);
        }
    }
}

#[test]
#[should_panic(expected = "token 5 is not in a vocabulary of 5")]
fn a_token_outside_the_vocabulary_is_named() {
    let mut case = Case::new(Cell::Gru, [1, 4, 3, 2], Some(5));
    case.tokens = Some(vec![0, 5, 1, 2]);
    case.through_burn(true, false);
}
