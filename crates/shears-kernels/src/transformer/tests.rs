use burn::tensor::{Device, Tensor, s};

use super::backward::backward;
use super::forward::{Block, Rotation, Sizes, forward};
use super::rope::RotaryTable;
use super::*;
use crate::cpu::{Cpu, Precision};
use crate::dropout::DropoutKey;
use crate::matmul::Weight;
use crate::norm::NormKind;
use crate::testing::{assert_close, elements, read, tensor};

/// Batch, time, hidden, inner, heads, key heads: ones, odd sizes, more than a block of rows, a
/// preset's.
const SHAPES: [[usize; 6]; 7] = [
    [1, 1, 2, 3, 1, 1],
    [2, 3, 6, 24, 2, 2],
    [1, 7, 5, 9, 5, 5],
    [3, 1, 33, 20, 3, 3],
    [3, 41, 20, 50, 1, 1],
    [5, 50, 40, 160, 2, 2],
    [2, 65, 128, 512, 4, 4],
];

/// Shapes with heads of even width, some with shared keys.
const EVEN_SHAPES: [[usize; 6]; 7] = [
    [1, 1, 2, 3, 1, 1],
    [2, 3, 8, 24, 2, 1],
    [1, 7, 12, 9, 6, 2],
    [3, 1, 24, 20, 3, 3],
    [3, 41, 20, 50, 1, 1],
    [5, 50, 48, 128, 4, 2],
    [2, 65, 128, 352, 4, 4],
];

/// The kind of a block.
#[derive(Clone, Copy, Debug)]
struct Kind {
    norm: Norm,
    rope_theta: Option<f64>,
    mlp: Mlp,
    biases: bool,
}

const GPT: Kind = Kind {
    norm: Norm::LAYER,
    rope_theta: None,
    mlp: Mlp::Gelu,
    biases: true,
};

const LLAMA: Kind = Kind {
    norm: Norm::RMS,
    rope_theta: Some(10_000.0),
    mlp: Mlp::Swiglu,
    biases: false,
};

/// Every kind with its shapes.
fn kinds() -> impl Iterator<Item = (Kind, [usize; 6])> {
    let gpt = SHAPES.into_iter().map(|shape| (GPT, shape));
    let llama = EVEN_SHAPES.into_iter().map(|shape| (LLAMA, shape));
    let between = [
        Kind {
            mlp: Mlp::GeluTanh,
            biases: false,
            ..GPT
        },
        Kind {
            norm: Norm::new(NormKind::Layer, 0.1),
            rope_theta: Some(100.0),
            ..GPT
        },
        Kind {
            norm: Norm::new(NormKind::Rms, 0.1),
            biases: true,
            ..LLAMA
        },
    ];
    let shapes = EVEN_SHAPES.into_iter().take(6);
    let between = shapes.flat_map(move |shape| between.map(|kind| (kind, shape)));
    gpt.chain(llama).chain(between)
}

const WEIGHTS: [&str; 6] = [
    "norm_1.weight",
    "qkv.weight",
    "projection.weight",
    "norm_2.weight",
    "expand.weight",
    "project.weight",
];

const BIASES: [&str; 6] = [
    "norm_1.bias",
    "qkv.bias",
    "projection.bias",
    "norm_2.bias",
    "expand.bias",
    "project.bias",
];

/// Values by name.
type Found = Vec<(&'static str, Vec<f32>)>;

/// The inputs of a case.
struct Case {
    sizes: Sizes,
    kind: Kind,
    dropout: Option<Dropout>,
    x: Vec<f32>,
    parameters: BlockOf<Vec<f32>>,
    /// The loss is the sum of the output, weighted by these.
    factors: Vec<f32>,
}

impl Case {
    fn new(
        kind: Kind,
        [batch, time, hidden, inner, heads, kv_heads]: [usize; 6],
        dropout: Option<Dropout>,
    ) -> Case {
        let sizes = Sizes {
            batch,
            time,
            hidden,
            inner,
            heads,
            kv_heads,
            norm: kind.norm,
            mlp: kind.mlp,
        };
        let bias = |size: usize, seed: u64| kind.biases.then(|| elements(size, seed));
        let linear = |outputs: usize, inputs: usize, seed: u64| {
            let scale = 1.5 / (inputs as f32).sqrt();
            let values = elements(outputs * inputs, seed).into_iter();
            WithBias::new(values.map(|x| scale * x).collect(), bias(outputs, seed + 1))
        };
        let norm = |seed: u64| {
            let values = elements(hidden, seed).into_iter();
            let near_one = values.map(|x| 1.0 + 0.3 * x).collect();
            WithBias::new(near_one, bias(hidden, seed + 1))
        };
        Case {
            sizes,
            kind,
            dropout,
            x: elements(batch * time * hidden, 1),
            parameters: BlockOf {
                norm_1: norm(2),
                qkv: linear(sizes.qkv(), hidden, 4),
                projection: linear(hidden, hidden, 6),
                norm_2: norm(8),
                expand: linear(sizes.expanded(), hidden, 10),
                project: linear(hidden, inner, 12),
            },
            factors: elements(batch * time * hidden, 14),
        }
    }

    fn settings(&self) -> BlockSettings {
        let Kind {
            norm,
            rope_theta,
            mlp,
            ..
        } = self.kind;
        BlockSettings {
            precision: Precision::F32,
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            index: 2,
            norm,
            rope_theta,
            mlp,
            dropout: self.dropout,
        }
    }

    fn weights(&self, device: &Device) -> BlockWeights {
        let vector = |values: &Vec<f32>| tensor(values, [values.len()], device).into_dispatch();
        // The columns of each matrix match its input.
        let matrix = |(values, inputs): (&Vec<f32>, usize)| {
            tensor(values, [values.len() / inputs, inputs], device).into_dispatch()
        };
        let Sizes { hidden, inner, .. } = self.sizes;
        let given = self.parameters.as_ref();
        let linear = |of: WithBias<&Vec<f32>>, inputs: usize| {
            WithBias::new(matrix((of.weight, inputs)), of.bias.map(vector))
        };
        let norm = |of: WithBias<&Vec<f32>>| WithBias::new(vector(of.weight), of.bias.map(vector));
        BlockWeights {
            norm_1: norm(given.norm_1),
            qkv: linear(given.qkv, hidden),
            projection: linear(given.projection, hidden),
            norm_2: norm(given.norm_2),
            expand: linear(given.expand, hidden),
            project: linear(given.project, inner),
        }
    }

    /// Through Burn's automatic differentiation.
    fn through_burn(&self, call: Call) -> Found {
        let device = Device::flex().autodiff();
        let (batch, time, hidden) = (self.sizes.batch, self.sizes.time, self.sizes.hidden);
        let x = tensor(&self.x, [batch, time, hidden], &device);
        let weights = self.weights(&device);
        let (output, _) = call(x.clone(), weights.clone(), self.settings(), None);
        let factors = tensor(&self.factors, [batch, time, hidden], &device);
        let gradients = (output.clone() * factors).sum().backward();
        // Reading ignores the rank in the type.
        let parameters = weights.map(|parameter| {
            read(
                &Tensor::<1>::from_dispatch(parameter)
                    .grad(&gradients)
                    .unwrap(),
            )
        });
        named(
            read(&output),
            read(&x.grad(&gradients).unwrap()),
            parameters,
        )
    }

    /// Calls the kernels directly.
    fn fused(&self, cpu: Cpu) -> Found {
        let parameters = self.parameters.as_ref();
        let start = 0;
        let table = self
            .kind
            .rope_theta
            .map(|theta| RotaryTable::of(self.sizes.head(), theta, self.sizes.time));
        let block = Block {
            cpu,
            sizes: self.sizes,
            x: &self.x,
            weights: parameters.map(|values| Weight::F32(values)),
            masks: self.settings().masks(self.sizes.batch * self.sizes.time),
            rotation: table.as_ref().map(|table| Rotation {
                table,
                start,
                time: self.sizes.time,
            }),
        };
        let pass = forward(block);
        let (x, parameters) = backward(block, (&pass.qkv, pass.saved), &self.factors);
        let parameters = parameters.map(|buffer| buffer.to_vec());
        named(pass.output.to_vec(), x.to_vec(), parameters)
    }
}

fn named(output: Vec<f32>, x: Vec<f32>, parameters: BlockOf<Vec<f32>>) -> Found {
    let (weights, biases) = parameters.into_arrays();
    let biases = BIASES.into_iter().zip(biases);
    let mut all = vec![("output", output), ("x", x)];
    all.extend(WEIGHTS.into_iter().zip(weights));
    all.extend(biases.filter_map(|(name, bias)| Some((name, bias?))));
    all
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
fn compare(what: &str, case: &Case, found: &Found, expected: &Found) {
    assert_eq!(found.len(), expected.len(), "{what} {:?}", case.kind);
    for ((name, found), (other, expected)) in found.iter().zip(expected) {
        assert_eq!(name, other);
        let what = format!("{what} {name} {:?} {:?}", case.sizes, case.kind);
        if *name == "qkv.bias" && case.kind.rope_theta.is_none() {
            // Attention is invariant to shifting all keys: this gradient is zero up to rounding.
            let (hidden, keys) = (case.sizes.hidden, case.sizes.keys());
            let parts = [0..hidden, hidden + keys..hidden + 2 * keys];
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
fn values_and_gradients_match_the_composition() {
    for (kind, shape) in kinds() {
        for dropout in [None, some_dropout()] {
            let case = Case::new(kind, shape, dropout);
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

/// A sequence read in pieces, token by token at the end, as in generation.
#[test]
fn a_sequence_may_be_split_into_calls() {
    for (kind, shape) in kinds() {
        let case = Case::new(kind, shape, None);
        let device = Device::flex();
        let (batch, time, hidden) = (case.sizes.batch, case.sizes.time, case.sizes.hidden);
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
                // A clone of the cache is not modified.
                let copy = now.clone();
                let before = read(&copy.keys);
                outputs.push(output);
                all = Some(if cut[1] % 2 == 0 { copy } else { now });
                assert_eq!(read(&all.as_ref().unwrap().keys), before);
            }
            let all = all.unwrap();
            let what = |name: &str| format!("{name} {:?} {kind:?}", case.sizes);
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

/// A cache that is used twice must not be modified.
#[test]
fn cached_keys_are_not_overwritten_by_another_continuation() {
    let case = Case::new(GPT, [1, 9, 8, 32, 2, 2], None);
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
