use burn::tensor::{Device, Tensor, s};

use super::backward::backward;
use super::forward::{Sizes, forward};
use super::*;
use crate::cpu::{Cpu, Precision};
use crate::dropout::DropoutKey;
use crate::matmul::Weight;
use crate::testing::{assert_close, numbers, read, tensor};

/// Batch, time, hidden, inner, heads: one of each, odd ones, more than a block of rows, a preset's.
const SHAPES: [[usize; 5]; 7] = [
    [1, 1, 2, 3, 1],
    [2, 3, 6, 24, 2],
    [1, 7, 5, 9, 5],
    [3, 1, 33, 20, 3],
    [3, 41, 20, 50, 1],
    [5, 50, 40, 160, 2],
    [2, 65, 128, 512, 4],
];

const NAMES: [&str; 14] = [
    "output",
    "x",
    "norm_1.weight",
    "norm_1.bias",
    "qkv.weight",
    "qkv.bias",
    "projection.weight",
    "projection.bias",
    "norm_2.weight",
    "norm_2.bias",
    "expand.weight",
    "expand.bias",
    "project.weight",
    "project.bias",
];

/// The values that a case is made of.
struct Case {
    sizes: Sizes,
    dropout: Option<Dropout>,
    x: Vec<f32>,
    /// In the order of [`NAMES`].
    parameters: Vec<Vec<f32>>,
    /// The loss is the sum of the output times these.
    factors: Vec<f32>,
}

impl Case {
    fn new(
        [batch, time, hidden, inner, heads]: [usize; 5],
        mlp: Mlp,
        dropout: Option<Dropout>,
    ) -> Case {
        let vector = |size: usize, seed: u64| numbers(size, seed);
        let weight = |outputs: usize, inputs: usize, seed: u64| {
            let scale = 1.5 / (inputs as f32).sqrt();
            let values = numbers(outputs * inputs, seed).into_iter();
            values.map(|x| scale * x).collect()
        };
        let near_one = |size: usize, seed: u64| {
            let values = numbers(size, seed).into_iter();
            values.map(|x| 1.0 + 0.3 * x).collect()
        };
        Case {
            sizes: Sizes {
                batch,
                time,
                hidden,
                inner,
                heads,
                mlp,
            },
            dropout,
            x: vector(batch * time * hidden, 1),
            parameters: vec![
                near_one(hidden, 2),
                vector(hidden, 3),
                weight(3 * hidden, hidden, 4),
                vector(3 * hidden, 5),
                weight(hidden, hidden, 6),
                vector(hidden, 7),
                near_one(hidden, 8),
                vector(hidden, 9),
                weight(inner, hidden, 10),
                vector(inner, 11),
                weight(hidden, inner, 12),
                vector(hidden, 13),
            ],
            factors: vector(batch * time * hidden, 14),
        }
    }

    fn settings(&self) -> BlockSettings {
        BlockSettings {
            precision: Precision::F32,
            heads: self.sizes.heads,
            index: 2,
            mlp: self.sizes.mlp,
            dropout: self.dropout,
        }
    }

    fn weights(&self, device: &Device) -> BlockWeights {
        let Sizes { hidden, inner, .. } = self.sizes;
        let vector = |index: usize| {
            let values = &self.parameters[index];
            tensor(values, [values.len()], device)
        };
        let linear = |index: usize, outputs: usize, inputs: usize| {
            let weight = tensor(&self.parameters[index], [outputs, inputs], device);
            WithBias::new(weight, vector(index + 1))
        };
        let norm = |index: usize| WithBias::new(vector(index), vector(index + 1));
        BlockWeights {
            norm_1: norm(0),
            qkv: linear(2, 3 * hidden, hidden),
            projection: linear(4, hidden, hidden),
            norm_2: norm(6),
            expand: linear(8, inner, hidden),
            project: linear(10, hidden, inner),
        }
    }

    /// Through Burn's automatic differentiation; in the order of [`NAMES`].
    fn through_burn(&self, call: Call) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let Sizes {
            batch,
            time,
            hidden,
            ..
        } = self.sizes;
        let x = tensor(&self.x, [batch, time, hidden], &device);
        let weights = self.weights(&device);
        let (output, _) = call(x.clone(), weights.clone(), self.settings(), None);
        let factors = tensor(&self.factors, [batch, time, hidden], &device);
        let gradients = (output.clone() * factors).sum().backward();
        let vector = |tensor: &Tensor<1>| read(&tensor.grad(&gradients).unwrap());
        let matrix = |tensor: &Tensor<2>| read(&tensor.grad(&gradients).unwrap());
        vec![
            read(&output),
            read(&x.grad(&gradients).unwrap()),
            vector(&weights.norm_1.weight),
            vector(&weights.norm_1.bias),
            matrix(&weights.qkv.weight),
            vector(&weights.qkv.bias),
            matrix(&weights.projection.weight),
            vector(&weights.projection.bias),
            vector(&weights.norm_2.weight),
            vector(&weights.norm_2.bias),
            matrix(&weights.expand.weight),
            vector(&weights.expand.bias),
            matrix(&weights.project.weight),
            vector(&weights.project.bias),
        ]
    }

    /// The kernels alone; in the order of [`NAMES`].
    fn fused(&self, cpu: Cpu) -> Vec<Vec<f32>> {
        let parameters = std::array::from_fn(|index| self.parameters[index].as_slice());
        let weights = BlockOf::from_array(parameters).map(Weight::F32, |vector| vector);
        let masks = self.settings().masks(self.sizes.batch * self.sizes.time);
        let pass = forward(cpu, self.sizes, &self.x, weights, masks);
        let left = (&*pass.qkv, pass.saved);
        let (x, parameters) = backward(
            cpu,
            self.sizes,
            &self.x,
            weights,
            masks,
            left,
            &self.factors,
        );
        let first = [pass.output, x].into_iter();
        let all = first.chain(parameters.into_array());
        all.map(|buffer| buffer.to_vec()).collect()
    }
}

type Call =
    fn(Tensor<3>, BlockWeights, BlockSettings, Option<KeysAndValues>) -> (Tensor<3>, KeysAndValues);

fn some_dropout() -> Option<Dropout> {
    Some(Dropout {
        key: DropoutKey::of([11, 12]),
        probability: 0.25,
    })
}

#[track_caller]
fn compare(what: &str, case: &Case, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    for ((name, found), expected) in NAMES.iter().zip(found).zip(expected) {
        let Sizes { hidden, .. } = case.sizes;
        let what = format!("{what} {name} {:?}", case.sizes);
        if *name == "qkv.bias" {
            // Attention does not change when all keys move: that part is zero but for rounding.
            let parts = [0..hidden, 2 * hidden..3 * hidden];
            for part in parts {
                if expected[part.clone()].iter().any(|x| x.abs() > 1e-5) {
                    assert_close(&what, &found[part.clone()], &expected[part], 1e-5);
                }
            }
        } else {
            assert_close(&what, found, expected, 1e-5);
        }
    }
}

#[test]
fn values_and_gradients_are_those_of_the_plain_operations() {
    for shape in SHAPES {
        let with_dropout = [None, some_dropout()].map(|dropout| (Mlp::Gelu, dropout));
        for (mlp, dropout) in with_dropout.into_iter().chain([(Mlp::GeluTanh, None)]) {
            let case = Case::new(shape, mlp, dropout);
            let plain = case.through_burn(transformer_block_plain);
            compare("burn", &case, &case.through_burn(transformer_block), &plain);
            for cpus in Cpu::all().chunks(3) {
                let one = case.fused(cpus[0]);
                compare(&format!("{:?}", cpus[0].instructions), &case, &one, &plain);
                for cpu in &cpus[1..] {
                    assert_eq!(case.fused(*cpu), one, "{cpu:?}");
                }
            }
        }
    }
}

/// A text that is read in pieces, token by token at the end, as generation does.
#[test]
fn a_text_may_be_cut_into_calls() {
    for shape in SHAPES {
        let case = Case::new(shape, Mlp::Gelu, None);
        let device = Device::flex();
        let Sizes {
            batch,
            time,
            hidden,
            ..
        } = case.sizes;
        let weights = case.weights(&device);
        let x = tensor(&case.x, [batch, time, hidden], &device);
        let (expected, expected_all) =
            transformer_block_plain(x.clone(), weights.clone(), case.settings(), None);
        for call in [transformer_block as Call, transformer_block_plain as Call] {
            let mut cuts = vec![0, time.div_ceil(3), time.div_ceil(2)];
            cuts.extend(time.div_ceil(2) + 1..=time);
            cuts.push(time);
            cuts.dedup();
            let mut all = None;
            let mut outputs = Vec::new();
            for cut in cuts.windows(2) {
                let piece = x.clone().slice(s![.., cut[0]..cut[1], ..]);
                let (output, now) = call(piece, weights.clone(), case.settings(), all);
                // A copy of what is carried stays as it is.
                let copy = now.clone();
                let before = read(&copy.keys);
                outputs.push(output);
                all = Some(if cut[1] % 2 == 0 { copy } else { now });
                assert_eq!(read(&all.as_ref().unwrap().keys), before);
            }
            let all = all.unwrap();
            let what = |name: &str| format!("{name} {:?}", case.sizes);
            assert_close(
                &what("output"),
                &read(&Tensor::cat(outputs, 1)),
                &read(&expected),
                1e-5,
            );
            assert_close(
                &what("keys"),
                &read(&all.keys),
                &read(&expected_all.keys),
                1e-5,
            );
            assert_close(
                &what("values"),
                &read(&all.values),
                &read(&expected_all.values),
                1e-5,
            );
        }
    }
}

/// What was carried and is used twice must not change under the other's feet.
#[test]
fn carried_keys_are_not_written_by_another_continuation() {
    let case = Case::new([1, 9, 8, 32, 2], Mlp::Gelu, None);
    let device = Device::flex();
    let weights = case.weights(&device);
    let x = tensor(&case.x, [1, 9, 8], &device);
    let at = |from: usize, to: usize| x.clone().slice(s![.., from..to, ..]);
    let call = |x, all| transformer_block(x, weights.clone(), case.settings(), all);
    let (_, start) = call(at(0, 4), None);
    let (_, start) = call(at(4, 5), Some(start));
    let (first, _) = call(at(5, 6), Some(start.clone()));
    let (_, other) = call(at(7, 8), Some(start.clone()));
    let (again, _) = call(at(5, 6), Some(start));
    assert_eq!(read(&first), read(&again));
    assert_eq!(other.keys.dims(), [1, 6, 8]);
}
