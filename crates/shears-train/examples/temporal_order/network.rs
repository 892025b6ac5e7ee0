//! The network: `h = tanh(W_ih x + W_hh h + b)`, with a class predicted from the last state.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use shears_kernels::{Activation, Cell, Precision, RecurrentWeights, linear, recurrent_tokens};
use shears_model::Initializer;

use super::task::{CLASSES, SYMBOLS, Sequences};
use crate::Initialization;

const UNITS: usize = 50;
/// Non-zero recurrent weights per unit, with `smart-tanh`.
const CONNECTIONS: usize = 15;
const SPECTRAL_RADIUS: f64 = 0.95;

#[derive(Module, Debug)]
pub(super) struct Network {
    weight_ih: Param<Tensor<2>>,
    weight_hh: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    weight_output: Param<Tensor<2>>,
    bias_output: Param<Tensor<1>>,
}

impl Network {
    pub(super) fn new(kind: Initialization, seed: u64, device: &Device) -> Network {
        let mut initializer = Initializer::new(seed, device);
        let deviation = match kind {
            Initialization::BasicTanh => 0.1,
            Initialization::SmartTanh => 0.01,
        };
        let weight_hh = match kind {
            Initialization::BasicTanh => initializer.normal([UNITS, UNITS], deviation),
            Initialization::SmartTanh => initializer.parameter([UNITS, UNITS], sparse),
        };
        Network {
            weight_ih: initializer.normal([UNITS, SYMBOLS], deviation),
            weight_hh,
            bias: initializer.constant([UNITS], 0.0),
            weight_output: initializer.normal([CLASSES, UNITS], deviation),
            bias_output: initializer.constant([CLASSES], 0.0),
        }
    }

    /// The logits `[count, classes]`, and the classes.
    pub(super) fn forward(
        &self,
        sequences: &Sequences,
        device: &Device,
    ) -> (Tensor<2>, Tensor<1, Int>) {
        let count = sequences.classes.len();
        let shape = [sequences.symbols.len() / count, count];
        let symbols = TensorData::new(sequences.symbols.clone(), shape);
        let classes = TensorData::new(sequences.classes.clone(), [count]);
        let weights = RecurrentWeights {
            weight_ih: self.weight_ih.val(),
            weight_hh: self.weight_hh.val(),
            bias_ih: Tensor::zeros([UNITS], device),
            bias_hh: self.bias.val(),
        };
        let (_, mut carried) = recurrent_tokens(
            Cell::Rnn(Activation::Tanh),
            Precision::F32,
            Tensor::from_data(symbols, device),
            // One-hot inputs are rows of the identity.
            Tensor::eye(SYMBOLS, device),
            weights,
            vec![Tensor::zeros([1, count, UNITS], device)],
        );
        let last = carried.swap_remove(0).squeeze_dim(0);
        let bias = Some(self.bias_output.val());
        let logits = linear(last, self.weight_output.val(), bias);
        (logits, Tensor::from_data(classes, device))
    }
}

/// A few weights per unit, scaled to a spectral radius near 1.
fn sparse(generator: &mut ChaCha8Rng, weights: &mut [f32]) {
    let mut matrix = vec![0.0_f64; UNITS * UNITS];
    for row in matrix.chunks_mut(UNITS) {
        let mut columns: Vec<usize> = (0..UNITS).collect();
        columns.shuffle(generator);
        for column in &columns[..CONNECTIONS] {
            row[*column] = StandardNormal.sample(generator);
        }
    }
    let factor = SPECTRAL_RADIUS / spectral_radius(&matrix, UNITS);
    for (weight, value) in weights.iter_mut().zip(&matrix) {
        *weight = (value * factor) as f32;
    }
}

/// The largest absolute value of an eigenvalue, by Gelfand's formula: `lim ||A^k||^(1/k)`.
fn spectral_radius(matrix: &[f64], size: usize) -> f64 {
    /// The exponent `k` is two to this power.
    const SQUARINGS: i32 = 20;
    let mut power = matrix.to_vec();
    let mut logarithm = 0.0;
    for squaring in 0..=SQUARINGS {
        let norm = power.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm == 0.0 {
            return 0.0;
        }
        logarithm += norm.ln() / 2.0_f64.powi(squaring);
        if squaring == SQUARINGS {
            break;
        }
        power.iter_mut().for_each(|value| *value /= norm);
        let mut square = vec![0.0; size * size];
        for (row, result) in square.chunks_mut(size).enumerate() {
            for (inner, factor) in power[row * size..(row + 1) * size].iter().enumerate() {
                let other = &power[inner * size..(inner + 1) * size];
                for (sum, value) in result.iter_mut().zip(other) {
                    *sum += factor * value;
                }
            }
        }
        power = square;
    }
    logarithm.exp()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_spectral_radius_of_known_matrices() {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found}");
        near(spectral_radius(&[2.0, 0.0, 0.0, -3.0], 2), 3.0);
        // A rotation by any angle, which has no real eigenvalue, times 0.7.
        let (sine, cosine) = 0.4_f64.sin_cos();
        let turned = [cosine, -sine, sine, cosine].map(|value| 0.7 * value);
        near(spectral_radius(&turned, 2), 0.7);
        // A defective matrix, and a nilpotent one.
        near(spectral_radius(&[0.5, 1.0, 0.0, 0.5], 2), 0.5);
        assert_eq!(spectral_radius(&[0.0, 1.0, 0.0, 0.0], 2), 0.0);
    }

    #[test]
    fn smart_weights_are_sparse_with_the_right_radius() {
        let mut weights = vec![0.0; UNITS * UNITS];
        sparse(&mut ChaCha8Rng::seed_from_u64(5), &mut weights);
        for row in weights.chunks(UNITS) {
            assert_eq!(row.iter().filter(|weight| **weight != 0.0).count(), 15);
        }
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        assert!((spectral_radius(&weights, UNITS) - 0.95).abs() < 1e-4);
    }
}
