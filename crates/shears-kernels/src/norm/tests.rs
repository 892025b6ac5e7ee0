use burn::tensor::{Device, Tensor};

use super::{Norm, NormKind, NormSlices, gradients, norm, norm_plain, normalize};
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::testing::{assert_close, elements, read, tensor};

const SHAPES: [[usize; 3]; 5] = [[1, 1, 5], [2, 3, 7], [3, 50, 33], [2, 70, 128], [1, 4, 300]];

/// The norm, and whether it has a bias.
const KINDS: [(Norm, bool); 5] = [
    (Norm::LAYER, true),
    (Norm::LAYER, false),
    (Norm::RMS, false),
    // Large enough to matter beside the squares of the elements.
    (Norm::new(NormKind::Layer, 0.5), true),
    (Norm::new(NormKind::Rms, 0.5), false),
];

const NAMES: [&str; 4] = ["values", "input", "weight", "bias"];

type Call = fn(Tensor<3>, Norm, Tensor<1>, Option<Tensor<1>>) -> Tensor<3>;

/// The values of a norm and the gradients of its inputs, for a weighted sum of its values as loss.
fn through_burn(call: Call, (kind, biased): (Norm, bool), shape: [usize; 3]) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let [count, width] = [shape.iter().product(), shape[2]];
    let input = tensor(&elements(count, 1), shape, &device);
    let weight = tensor(&elements(width, 2), [width], &device);
    let bias = biased.then(|| tensor(&elements(width, 3), [width], &device));
    let output = call(input.clone(), kind, weight.clone(), bias.clone());
    let factors = tensor(&elements(count, 4), shape, &device);
    let gradients = (output.clone() * factors).sum().backward();
    let mut found = vec![
        read(&output),
        read(&input.grad(&gradients).unwrap()),
        read(&weight.grad(&gradients).unwrap()),
    ];
    found.extend(bias.map(|bias| read(&bias.grad(&gradients).unwrap())));
    found
}

#[test]
fn values_and_gradients_match_the_composition() {
    for shape in SHAPES {
        for kind in KINDS {
            let plain = through_burn(norm_plain, kind, shape);
            let fused = through_burn(norm, kind, shape);
            assert_eq!(fused.len(), plain.len());
            for ((name, fused), plain) in NAMES.iter().zip(fused).zip(plain) {
                assert_close(&format!("{name} {kind:?} {shape:?}"), &fused, &plain, 1e-5);
            }
        }
    }
}

#[test]
fn every_cpu_computes_the_same() {
    for (shape, kind) in SHAPES.into_iter().flat_map(|s| KINDS.map(|kind| (s, kind))) {
        let [count, width] = [shape.iter().product::<usize>(), shape[2]];
        let (input, factors) = (elements(count, 1), elements(count, 4));
        let (weight, bias) = (elements(width, 2), elements(width, 3));
        let run = |cpu: Cpu| {
            let norm = NormSlices {
                norm: kind.0,
                weight: &weight,
                bias: kind.1.then_some(&bias),
            };
            let mut output = Buffer::uninitialised(count);
            normalize(cpu, &input, norm, &mut output);
            let [input, weight, bias] = gradients(cpu, &input, norm, &factors);
            [output, input, weight, bias].map(|buffer| buffer.to_vec())
        };
        let expected = through_burn(norm_plain, kind, shape);
        for cpus in Cpu::all().chunks(3) {
            let one = run(cpus[0]);
            for ((name, found), expected) in NAMES.iter().zip(&one).zip(&expected) {
                let what = format!("{name} {kind:?} {:?}", cpus[0]);
                assert_close(&what, found, expected, 1e-5);
            }
            for cpu in &cpus[1..] {
                assert_eq!(run(*cpu), one, "{cpu:?}");
            }
        }
    }
}
