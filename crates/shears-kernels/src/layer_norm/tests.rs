use burn::tensor::{Device, Tensor};

use super::{gradients, layer_norm, layer_norm_plain, normalize};
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::testing::{assert_close, numbers, read, tensor};

const SHAPES: [[usize; 3]; 5] = [[1, 1, 5], [2, 3, 7], [3, 50, 33], [2, 70, 128], [1, 4, 300]];

const NAMES: [&str; 4] = ["values", "input", "weight", "bias"];

/// The values of a layer norm and the gradients of its inputs, for a loss of its values times
/// factors.
fn through_burn(
    call: fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>,
    shape: [usize; 3],
) -> [Vec<f32>; 4] {
    let device = Device::flex().autodiff();
    let [count, width] = [shape.iter().product(), shape[2]];
    let input = tensor(&numbers(count, 1), shape, &device);
    let weight = tensor(&numbers(width, 2), [width], &device);
    let bias = tensor(&numbers(width, 3), [width], &device);
    let output = call(input.clone(), weight.clone(), bias.clone());
    let factors = tensor(&numbers(count, 4), shape, &device);
    let gradients = (output.clone() * factors).sum().backward();
    [
        read(&output),
        read(&input.grad(&gradients).unwrap()),
        read(&weight.grad(&gradients).unwrap()),
        read(&bias.grad(&gradients).unwrap()),
    ]
}

#[test]
fn values_and_gradients_are_those_of_the_plain_operations() {
    for shape in SHAPES {
        let plain = through_burn(layer_norm_plain, shape);
        let fused = through_burn(layer_norm, shape);
        for ((name, fused), plain) in NAMES.iter().zip(fused).zip(plain) {
            assert_close(&format!("{name} {shape:?}"), &fused, &plain, 1e-5);
        }
    }
}

#[test]
fn every_cpu_computes_the_same() {
    for shape in SHAPES {
        let [count, width] = [shape.iter().product::<usize>(), shape[2]];
        let (input, factors) = (numbers(count, 1), numbers(count, 4));
        let (weight, bias) = (numbers(width, 2), numbers(width, 3));
        let run = |cpu: Cpu| {
            let mut output = Buffer::uninitialised(count);
            normalize(cpu, &input, [&weight, &bias], &mut output);
            let [input, weight, bias] = gradients(cpu, &input, &weight, &factors);
            [output, input, weight, bias].map(|buffer| buffer.to_vec())
        };
        let expected = through_burn(layer_norm_plain, shape);
        for cpus in Cpu::all().chunks(3) {
            let one = run(cpus[0]);
            for ((name, found), expected) in NAMES.iter().zip(&one).zip(&expected) {
                assert_close(&format!("{name} {:?}", cpus[0]), found, expected, 1e-5);
            }
            for cpu in &cpus[1..] {
                assert_eq!(run(*cpu), one, "{cpu:?}");
            }
        }
    }
}
