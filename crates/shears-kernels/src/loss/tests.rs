use burn::tensor::Device;

use super::kernel::Problem;
use super::*;
use crate::cpu::Precision;
use crate::testing::{assert_close, elements, integers, read, tensor, whole};

/// Rows, width, vocabulary.
const SHAPES: [[usize; 3]; 5] = [
    [1, 1, 1],
    [3, 5, 2],
    [70, 16, 65],
    [9, 33, 16],
    [130, 8, 19],
];

/// Loss and gradients through Burn's automatic differentiation.
fn through_burn(
    fused: bool,
    [rows, size, vocabulary]: [usize; 3],
    with_bias: bool,
    times: f32,
) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let hidden = tensor(&elements(rows * size, 1), [rows, size], &device);
    let weight = tensor(&elements(vocabulary * size, 2), [vocabulary, size], &device);
    let bias = tensor(&elements(vocabulary, 3), [vocabulary], &device);
    let targets = whole(&integers(rows, vocabulary, 4), [rows], &device);
    let given = with_bias.then(|| bias.clone());
    let loss = match fused {
        true => output_loss(
            hidden.clone(),
            weight.clone(),
            given,
            targets,
            Precision::F32,
        ),
        false => cross_entropy(linear_plain(hidden.clone(), weight.clone(), given), targets),
    };
    let gradients = (loss.clone() * times).backward();
    let mut found = vec![
        read(&loss),
        read(&hidden.grad(&gradients).unwrap()),
        read(&weight.grad(&gradients).unwrap()),
    ];
    found.extend(bias.grad(&gradients).map(|gradient| read(&gradient)));
    found
}

#[test]
fn matches_the_composition() {
    for shape in SHAPES {
        for with_bias in [false, true] {
            for times in [1.0, -0.25] {
                let found = through_burn(true, shape, with_bias, times);
                let expected = through_burn(false, shape, with_bias, times);
                assert_eq!(found.len(), if with_bias { 4 } else { 3 });
                for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    // With a vocabulary of one the gradient is only the rounding error of exp(0) /
                    // exp(0).
                    if shape[2] > 1 {
                        let what = format!("{shape:?} {with_bias} {times}: {n}");
                        assert_close(&what, found, expected, 1e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn instructions_agree_and_threads_change_no_bit() {
    let [rows, size, vocabulary] = [131, 24, 70];
    let (hidden, weight) = (elements(rows * size, 1), elements(vocabulary * size, 2));
    let bias = elements(vocabulary, 3);
    let targets = integers(rows, vocabulary, 4);
    let problem = Problem {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        targets: &targets,
        size,
        vocabulary,
    };
    let mut first: Option<(usize, Vec<Vec<f32>>)> = None;
    let mut best: Option<Vec<Vec<f32>>> = None;
    for cpu in Cpu::all() {
        let found = problem.solve(cpu, true);
        let gradients = found.gradients.unwrap();
        let found = vec![
            vec![found.loss],
            gradients.hidden.to_vec(),
            gradients.weight.to_vec(),
            gradients.bias.to_vec(),
        ];
        for (found, best) in found.iter().zip(best.get_or_insert_with(|| found.clone())) {
            assert_close(&format!("{cpu:?}"), found, best, 1e-5);
        }
        match &first {
            Some((lanes, first)) if *lanes == cpu.lanes() && cpu.threads > 1 => {
                assert_eq!(found, *first);
            }
            _ => first = Some((cpu.lanes(), found)),
        }
    }
}

#[test]
fn large_logits_neither_overflow_nor_lose_the_loss() {
    let device = Device::flex().autodiff();
    let hidden = tensor(&[1000.0], [1, 1], &device);
    let weight = tensor(&[1.0, -1.0, 0.5], [3, 1], &device);
    let targets = whole(&[2], [1], &device);
    let loss = output_loss(
        hidden.clone(),
        weight.clone(),
        None,
        targets,
        Precision::F32,
    );
    assert_eq!(read(&loss), [500.0]);
    let gradients = loss.backward();
    assert_eq!(
        read(&weight.grad(&gradients).unwrap()),
        [1000.0, 0.0, -1000.0]
    );
}

#[test]
fn non_finite_inputs_give_a_non_finite_loss() {
    let device = Device::flex().autodiff();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let hidden = tensor(&[bad, 1.0, 1.0], [1, 3], &device);
        let weight = tensor(&elements(12, 1), [4, 3], &device);
        let targets = whole(&[1], [1], &device);
        assert!(
            !read(&output_loss(hidden, weight, None, targets, Precision::F32))[0].is_finite(),
            "{bad}"
        );
    }
}
