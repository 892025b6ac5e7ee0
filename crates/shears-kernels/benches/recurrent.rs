//! Recurrent layers, the output layer with its loss, and plain products, in GFLOP/s compared with
//! the peak of the vector units: `cargo bench -p shears-kernels --bench recurrent`.
//! `RAYON_NUM_THREADS` sets the threads; "items" are the floating-point operations of the matrix
//! products.

use burn::tensor::{Device, Int, Tensor, TensorData};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use pulp::{Simd, WithSimd};
use shears_kernels::{
    Activation, Cell, Precision, RecurrentWeights, linear, output_loss, recurrent, recurrent_plain,
};

fn main() {
    divan::main();
}

/// Steps and rows of a window, as in the presets.
const TIME: usize = 50;
const BATCH: usize = 50;

/// Rounds of [`Ceiling`], each of twelve fused multiply-adds of whole vectors.
const ROUNDS: usize = 100_000;

/// Only fused multiply-adds in registers, an upper bound for every matrix product.
#[derive(Clone, Copy)]
struct Ceiling;

impl WithSimd for Ceiling {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let factor = black_box(simd.splat_f32s(0.999));
        let mut sums = [simd.splat_f32s(1.0); 12];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        let mut total = simd.splat_f32s(0.0);
        for sum in sums {
            total = simd.add_f32s(total, sum);
        }
        simd.reduce_sum_f32s(total)
    }
}

/// The lanes of the vectors that `pulp` chooses on this machine.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

#[divan::bench]
fn ceiling(bencher: Bencher<'_, '_>) {
    let arch = pulp::Arch::new();
    let threads = rayon::current_num_threads();
    let operations = 2 * 12 * ROUNDS * arch.dispatch(Lanes) * threads;
    bencher
        .counter(ItemsCount::new(operations))
        .bench_local(|| rayon::broadcast(|_| arch.dispatch(Ceiling)));
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() * 0.05).collect();
    Tensor::from_data(TensorData::new(values, shape), device).require_grad()
}

fn weights(gates: usize, hidden: usize, device: &Device) -> RecurrentWeights {
    RecurrentWeights {
        weight_ih: tensor([gates * hidden, hidden], device),
        weight_hh: tensor([gates * hidden, hidden], device),
        bias_ih: tensor([gates * hidden], device),
        bias_hh: tensor([gates * hidden], device),
    }
}

/// Forward and backward pass of a layer whose input is as wide as its state.
fn layer(bencher: Bencher<'_, '_>, cell: Cell, gates: usize, hidden: usize, fused: bool) {
    let device = Device::flex().autodiff();
    let weights = weights(gates, hidden, &device);
    let states = if cell == Cell::Lstm { 2 } else { 1 };
    let input = tensor([TIME, BATCH, hidden], &device);
    // Two products forward, and two backward for each.
    let operations = 3 * 2 * 2 * TIME * BATCH * gates * hidden * hidden;
    bencher
        .counter(ItemsCount::new(operations))
        .bench_local(|| {
            let carried = (0..states).map(|_| Tensor::zeros([1, BATCH, hidden], &device));
            let (input, weights, carried) = (input.clone(), weights.clone(), carried.collect());
            let (outputs, _) = match fused {
                true => recurrent(cell, Precision::F32, input, weights, carried),
                false => recurrent_plain(cell, input, weights, carried),
            };
            black_box(outputs.sum().backward());
        });
}

#[divan::bench(args = [128, 512])]
fn rnn(bencher: Bencher<'_, '_>, hidden: usize) {
    layer(bencher, Cell::Rnn(Activation::Tanh), 1, hidden, true);
}

#[divan::bench(args = [128, 512])]
fn lstm(bencher: Bencher<'_, '_>, hidden: usize) {
    layer(bencher, Cell::Lstm, 4, hidden, true);
}

#[divan::bench(args = [128])]
fn lstm_composed(bencher: Bencher<'_, '_>, hidden: usize) {
    layer(bencher, Cell::Lstm, 4, hidden, false);
}

#[divan::bench(args = [128, 512])]
fn gru(bencher: Bencher<'_, '_>, hidden: usize) {
    layer(bencher, Cell::Gru, 3, hidden, true);
}

#[divan::bench(args = [65, 16_384])]
fn output_layer_and_loss(bencher: Bencher<'_, '_>, vocabulary: usize) {
    let device = Device::flex().autodiff();
    let (rows, hidden) = (TIME * BATCH, 128);
    let states = tensor([rows, hidden], &device);
    let weight = tensor([vocabulary, hidden], &device);
    let targets: Vec<i32> = (0..rows).map(|row| (row % vocabulary) as i32).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &device);
    let operations = 3 * 2 * rows * hidden * vocabulary;
    bencher
        .counter(ItemsCount::new(operations))
        .bench_local(|| {
            let loss = output_loss(
                states.clone(),
                weight.clone(),
                None,
                targets.clone(),
                Precision::F32,
            );
            black_box(loss.backward());
        });
}

#[divan::bench(args = [1, 2500])]
fn product(bencher: Bencher<'_, '_>, rows: usize) {
    let device = Device::flex().autodiff();
    let (x, weight) = (tensor([rows, 512], &device), tensor([2048, 512], &device));
    bencher
        .counter(ItemsCount::new(2 * rows * 512 * 2048))
        .bench_local(|| black_box(linear(x.clone(), weight.clone(), None)));
}
