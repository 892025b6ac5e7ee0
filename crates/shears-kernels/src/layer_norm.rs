//! Layer normalisation (Ba, Kiros & Hinton 2016) over the last dimension.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::operation::{Forward, Operation, call_for_one};
use crate::tensor::{contiguous, is_ours, values};

/// What is added to the variance, PyTorch's default.
const EPSILON: f64 = 1e-5;

/// `(x - mean) / sqrt(variance + 1e-5) * weight + bias` over the last dimension of `input`
/// `[.., size]`; `weight` and `bias` are `[size]`.
pub fn layer_norm<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
) -> Tensor<D> {
    if is_ours(&input) {
        let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
        let output = call_for_one(LayerNorm, [input.into_dispatch(), weight, bias]);
        return Tensor::from_dispatch(output);
    }
    layer_norm_plain(input, weight, bias)
}

/// [`layer_norm`] in Burn's own operations, on any device and in any precision.
pub fn layer_norm_plain<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
) -> Tensor<D> {
    burn::tensor::module::layer_norm(input, weight, Some(bias), EPSILON)
}

/// Mean and reciprocal standard deviation of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowMoments {
    pub(crate) mean: f32,
    pub(crate) scale: f32,
}

impl RowMoments {
    #[inline(always)]
    pub(crate) fn of<S: Simd>(simd: S, row: &[f32]) -> RowMoments {
        let count = row.len() as f32;
        let mean = sum(simd, row, |x| x, |x| x) / count;
        let shift = simd.splat_f32s(mean);
        let squares = sum(
            simd,
            row,
            |x| {
                let x = simd.sub_f32s(x, shift);
                simd.mul_f32s(x, x)
            },
            |x| (x - mean) * (x - mean),
        );
        let scale = 1.0 / (squares / count + EPSILON as f32).sqrt();
        RowMoments { mean, scale }
    }

    /// The row, normalised.
    #[inline(always)]
    pub(crate) fn normalize(self, row: &[f32], [weight, bias]: [&[f32]; 2], out: &mut [f32]) {
        let RowMoments { mean, scale } = self;
        let parameters = weight.iter().zip(bias);
        for ((out, x), (weight, bias)) in out.iter_mut().zip(row).zip(parameters) {
            *out = (x - mean) * scale * weight + bias;
        }
    }

    /// Adds to `out` the gradient of the row, given that of its normalisation; adds to `sums`
    /// what the row gives to the gradients of weight and bias.
    #[inline(always)]
    pub(crate) fn backward<S: Simd>(
        self,
        simd: S,
        row: &[f32],
        weight: &[f32],
        gradient: &[f32],
        out: &mut [f32],
        [weight_sum, bias_sum]: [&mut [f32]; 2],
    ) {
        let RowMoments { mean, scale } = self;
        let count = row.len();
        // The row's own lengths, so that the loops below need no checks.
        let (weight, gradient) = (&weight[..count], &gradient[..count]);
        let (weight_sum, bias_sum) = (&mut weight_sum[..count], &mut bias_sum[..count]);
        // With n = (x - mean) scale and g = gradient weight, the result is
        // scale (g - mean(g) - n mean(g n)).
        let mut lanes = [[0.0_f32; 16]; 2];
        let mut add = |lane: usize, k: usize| {
            let normal = (row[k] - mean) * scale;
            let g = gradient[k] * weight[k];
            lanes[0][lane] += g;
            lanes[1][lane] += g * normal;
        };
        let whole = count / 16 * 16;
        for first in (0..whole).step_by(16) {
            for lane in 0..16 {
                add(lane, first + lane);
            }
        }
        for k in whole..count {
            add(k - whole, k);
        }
        let [g_mean, gn_mean] = lanes.map(|lanes| total(simd, &lanes) / count as f32);
        for (k, out) in out[..count].iter_mut().enumerate() {
            let normal = (row[k] - mean) * scale;
            *out += scale * (gradient[k] * weight[k] - g_mean - normal * gn_mean);
            weight_sum[k] += gradient[k] * normal;
            bias_sum[k] += gradient[k];
        }
    }
}

/// The sum of 16 elements, in the order of a vector's halves.
#[inline(always)]
fn total<S: Simd>(_: S, lanes: &[f32; 16]) -> f32 {
    let mut lanes = *lanes;
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The sum of a function of a row's elements, given for vectors and for single ones.
#[inline(always)]
fn sum<S: Simd>(
    simd: S,
    row: &[f32],
    vector: impl Fn(S::f32s) -> S::f32s,
    single: impl Fn(f32) -> f32,
) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(row);
    let (pairs, last) = vectors.as_chunks::<2>();
    let mut sums = [simd.splat_f32s(0.0); 2];
    for pair in pairs {
        sums[0] = simd.add_f32s(sums[0], vector(pair[0]));
        sums[1] = simd.add_f32s(sums[1], vector(pair[1]));
    }
    for x in last {
        sums[0] = simd.add_f32s(sums[0], vector(*x));
    }
    let sum = simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]));
    rest.iter().fold(sum, |sum, x| sum + single(*x))
}

/// Rows that add up to one partial sum of the parameters' gradients: a fixed number, so that the
/// order of the sums does not depend on the threads.
const ROWS_OF_A_SUM: usize = 64;

struct LayerNorm;

impl Operation<3> for LayerNorm {
    /// Input and weight.
    type Saved = [FlexTensor; 2];

    fn forward(self, inputs: [FlexTensor; 3], _needs_backward: bool) -> Forward<Self::Saved> {
        let [input, weight, bias] = inputs.map(contiguous);
        Forward::of(forward(&input, &weight, &bias), [input, weight])
    }

    fn backward(
        [input, weight]: Self::Saved,
        gradient: FlexTensor,
        _wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shape = input.layout().shape().clone();
        let [input_gradient, weight_gradient, bias_gradient] = gradients(
            Cpu::current(),
            values(&input),
            values(&weight),
            values(&gradient),
        );
        let width = weight_gradient.len();
        [
            Some(input_gradient.into_tensor(shape)),
            Some(weight_gradient.into_tensor([width])),
            Some(bias_gradient.into_tensor([width])),
        ]
    }
}

fn forward(input: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let shape = input.layout().shape().clone();
    let (input, weight, bias) = (values(input), values(weight), values(bias));
    let mut output = Buffer::uninitialised(input.len());
    normalize(Cpu::current(), input, [weight, bias], &mut output);
    output.into_tensor(shape)
}

/// Normalises all rows.
fn normalize(cpu: Cpu, input: &[f32], parameters: [&[f32]; 2], output: &mut [f32]) {
    let width = parameters[0].len();
    cpu.split_rows(output, width, ROWS_OF_A_SUM, |first, output| {
        let input = &input[first * width..][..output.len()];
        cpu.run(Normalize {
            input,
            parameters,
            output,
        });
    });
}

struct Normalize<'a> {
    input: &'a [f32],
    parameters: [&'a [f32]; 2],
    output: &'a mut [f32],
}

impl WithSimd for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.parameters[0].len();
        let rows = self.input.chunks_exact(width);
        for (row, out) in rows.zip(self.output.chunks_exact_mut(width)) {
            RowMoments::of(simd, row).normalize(row, self.parameters, out);
        }
    }
}

/// The gradients of input, weight and bias.
fn gradients(cpu: Cpu, input: &[f32], weight: &[f32], gradient: &[f32]) -> [Buffer; 3] {
    let width = weight.len();
    let mut input_gradient = Buffer::zeros(input.len());
    let block = ROWS_OF_A_SUM * width;
    let blocks = input.len().div_ceil(block.max(1));
    let mut sums = Buffer::zeros(blocks * 2 * width);
    let outputs = input_gradient.chunks_mut(block.max(1));
    let outputs = outputs.zip(sums.chunks_mut((2 * width).max(1)));
    let mut outputs: Vec<(&mut [f32], &mut [f32])> = outputs.collect();
    cpu.split_rows(&mut outputs, 1, 1, |first, outputs| {
        for (index, (out, sums)) in outputs.iter_mut().enumerate() {
            let start = (first + index) * block;
            let range = start..start + out.len();
            cpu.run(Differentiate {
                input: &input[range.clone()],
                weight,
                gradient: &gradient[range],
                out,
                sums,
            });
        }
    });
    let sums = add_up(&sums, 2 * width);
    let (weight_sum, bias_sum) = sums.split_at(width);
    [
        input_gradient,
        Buffer::copy_of(weight_sum),
        Buffer::copy_of(bias_sum),
    ]
}

struct Differentiate<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    gradient: &'a [f32],
    out: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Differentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        let (weight_sum, bias_sum) = self.sums.split_at_mut(width);
        let gradients = self.gradient.chunks_exact(width);
        let rows = self.input.chunks_exact(width).zip(gradients);
        for ((row, gradient), out) in rows.zip(self.out.chunks_exact_mut(width)) {
            let sums = [&mut *weight_sum, &mut *bias_sum];
            RowMoments::of(simd, row).backward(simd, row, self.weight, gradient, out, sums);
        }
    }
}

/// Partial sums, one row of `width` after the other, added up in their order.
pub(crate) fn add_up(partial: &[f32], width: usize) -> Buffer {
    let mut total = Buffer::zeros(width);
    for row in partial.chunks_exact(width.max(1)) {
        for (total, value) in total.iter_mut().zip(row) {
            *total += value;
        }
    }
    total
}

#[cfg(test)]
mod tests;
