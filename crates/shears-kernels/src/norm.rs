//! Normalisation over the last dimension: layer norm (Ba, Kiros & Hinton 2016) and RMSNorm (Zhang &
//! Sennrich 2019).

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::operation::{Forward, Operation, call_with_one_output};
use crate::tensor::{contiguous, is_ours, values};
use crate::vector::update;

/// The formula of a norm, for a row `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x - mean) / sqrt(variance + epsilon)`.
    Layer,
    /// `x / sqrt(mean(x^2) + epsilon)`.
    Rms,
}

/// A normalisation without its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance or the mean square.
    pub epsilon: f64,
}

impl Norm {
    /// Layer norm with PyTorch's default epsilon.
    pub const LAYER: Norm = Norm::new(NormKind::Layer, 1e-5);
    /// RMSNorm with Llama's epsilon.
    pub const RMS: Norm = Norm::new(NormKind::Rms, 1e-5);

    /// Creates a norm.
    pub const fn new(kind: NormKind, epsilon: f64) -> Self {
        Norm { kind, epsilon }
    }
}

/// Normalises each row of `input` `[.., size]`, then multiplies by `weight` and adds `bias`, both
/// `[size]`.
pub fn norm<const D: usize>(
    input: Tensor<D>,
    norm: Norm,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !is_ours(&input) {
        return norm_plain(input, norm, weight, bias);
    }
    // Without a bias the operation gets an empty one.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([0], &input.device()));
    let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
    let output = call_with_one_output(Normalization(norm), [input.into_dispatch(), weight, bias]);
    Tensor::from_dispatch(output)
}

/// [`norm()`] composed of Burn's operations, on any device and in any precision.
pub fn norm_plain<const D: usize>(
    input: Tensor<D>,
    norm: Norm,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let epsilon = norm.epsilon;
    match norm.kind {
        NormKind::Layer => burn::tensor::module::layer_norm(input, weight, bias, epsilon),
        NormKind::Rms => {
            let squares = input.clone() * input.clone();
            let normal = input / (squares.mean_dim(D - 1) + epsilon).sqrt() * weight.unsqueeze();
            match bias {
                Some(bias) => normal + bias.unsqueeze(),
                None => normal,
            }
        }
    }
}

/// A norm with its parameters, `[size]` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormSlices<'a> {
    pub(crate) norm: Norm,
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
}

impl NormSlices<'_> {
    /// Normalises rows.
    #[inline(always)]
    pub(crate) fn normalize<S: Simd>(self, simd: S, rows: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            RowMoments::of(simd, self.norm, row).normalize(simd, row, self, out);
        }
    }

    /// Adds the gradients of the rows, given the gradients of the norm's output, to `out`, and the
    /// gradients of weight and bias to `sums`, in this order.
    #[inline(always)]
    pub(crate) fn backward<S: Simd>(
        self,
        simd: S,
        rows: &[f32],
        gradient: &[f32],
        out: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = self.weight.len();
        let (weight_sum, bias_sum) = sums.split_at_mut(width);
        let rows = rows.chunks_exact(width).zip(gradient.chunks_exact(width));
        for ((row, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
            let sums = [&mut *weight_sum, &mut *bias_sum];
            RowMoments::of(simd, self.norm, row).backward(simd, self, row, gradient, out, sums);
        }
    }
}

/// The shift and scale of a row: its mean and the reciprocal of the standard deviation, or zero and
/// the reciprocal of the root mean square.
#[derive(Clone, Copy, Debug)]
struct RowMoments {
    mean: f32,
    scale: f32,
}

impl RowMoments {
    #[inline(always)]
    fn of<S: Simd>(simd: S, norm: Norm, row: &[f32]) -> RowMoments {
        let count = row.len() as f32;
        let mean = match norm.kind {
            NormKind::Layer => sum(simd, row, |x| x, |x| x) / count,
            NormKind::Rms => 0.0,
        };
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
        let scale = 1.0 / (squares / count + norm.epsilon as f32).sqrt();
        RowMoments { mean, scale }
    }

    /// Normalises the row.
    #[inline(always)]
    fn normalize<S: Simd>(self, simd: S, row: &[f32], norm: NormSlices<'_>, out: &mut [f32]) {
        let [mean, scale] = [self.mean, self.scale].map(|value| simd.splat_f32s(value));
        let normal = |x| simd.mul_f32s(simd.sub_f32s(x, mean), scale);
        match norm.bias {
            Some(bias) => update(simd, [row, norm.weight, bias], [out], |[x, w, b], _| {
                [simd.add_f32s(simd.mul_f32s(normal(x), w), b)]
            }),
            None => update(simd, [row, norm.weight], [out], |[x, w], _| {
                [simd.mul_f32s(normal(x), w)]
            }),
        }
    }

    /// Adds the gradient of the row, given the gradient of the norm's output, to `out`, and its
    /// contributions to the gradients of weight and bias to the sums.
    #[inline(always)]
    fn backward<S: Simd>(
        self,
        simd: S,
        norm: NormSlices<'_>,
        row: &[f32],
        gradient: &[f32],
        out: &mut [f32],
        [weight_sum, bias_sum]: [&mut [f32]; 2],
    ) {
        // With n = (x - mean) scale and g = gradient weight, the result is scale (g - mean(g) - n
        // mean(g n)), where mean(g) comes from the mean of x.
        let [mean, scale] = [self.mean, self.scale].map(|value| simd.splat_f32s(value));
        let normal = |x| simd.mul_f32s(simd.sub_f32s(x, mean), scale);
        let given = [row, gradient, norm.weight];
        let [g_mean, gn_mean] = sums(simd, given, |[x, gradient, weight]| {
            let g = simd.mul_f32s(gradient, weight);
            [g, simd.mul_f32s(g, normal(x))]
        })
        .map(|sum| sum / row.len() as f32);
        let g_mean = match norm.norm.kind {
            NormKind::Layer => g_mean,
            NormKind::Rms => 0.0,
        };
        let [g_mean, gn_mean] = [g_mean, gn_mean].map(|value| simd.splat_f32s(value));
        update(
            simd,
            given,
            [out, weight_sum, bias_sum],
            |[x, gradient, weight], [out, weight_sum, bias_sum]| {
                let normal = normal(x);
                let g = simd.sub_f32s(simd.mul_f32s(gradient, weight), g_mean);
                let g = simd.sub_f32s(g, simd.mul_f32s(normal, gn_mean));
                [
                    simd.add_f32s(out, simd.mul_f32s(scale, g)),
                    simd.add_f32s(weight_sum, simd.mul_f32s(gradient, normal)),
                    simd.add_f32s(bias_sum, gradient),
                ]
            },
        );
    }
}

/// The sums of functions of the elements of rows of equal length. A short last vector is padded
/// with zeros, of which the functions must be zero.
#[inline(always)]
fn sums<S: Simd, const ROWS: usize, const SUMS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    terms: impl Fn([S::f32s; ROWS]) -> [S::f32s; SUMS],
) -> [f32; SUMS] {
    let len = rows[0].len();
    let count = len / S::F32_LANES;
    let rows = rows.map(|row| &row[..len]);
    let vectors = rows.map(|row| &S::as_simd_f32s(row).0[..count]);
    let mut totals = [simd.splat_f32s(0.0); SUMS];
    #[expect(clippy::needless_range_loop, reason = "one index into all rows")]
    for k in 0..count {
        // Loops instead of closures, so that everything is inlined into one function.
        let mut now = [simd.splat_f32s(0.0); ROWS];
        for row in 0..ROWS {
            now[row] = vectors[row][k];
        }
        let terms = terms(now);
        for sum in 0..SUMS {
            totals[sum] = simd.add_f32s(totals[sum], terms[sum]);
        }
    }
    let rest = count * S::F32_LANES;
    if rest < len {
        let terms = terms(rows.map(|row| simd.partial_load_f32s(&row[rest..])));
        for sum in 0..SUMS {
            totals[sum] = simd.add_f32s(totals[sum], terms[sum]);
        }
    }
    totals.map(|total| simd.reduce_sum_f32s(total))
}

/// Sums a function of a row's elements, given for vectors and for single elements.
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

/// Rows per partial sum of the parameters' gradients: fixed, so that the order of summation does
/// not depend on the threads.
const ROWS_PER_SUM: usize = 64;

struct Normalization(Norm);

impl Operation<3> for Normalization {
    /// The norm, input, weight and bias.
    type Saved = (Norm, [FlexTensor; 3]);

    fn forward(self, inputs: [FlexTensor; 3], _needs_backward: bool) -> Forward<Self::Saved> {
        let inputs = inputs.map(contiguous);
        let input = values(&inputs[0]);
        let mut output = Buffer::uninitialised(input.len());
        normalize(Cpu::current(), input, slices(self.0, &inputs), &mut output);
        let shape = inputs[0].layout().shape().clone();
        Forward::of(output.into_tensor(shape), (self.0, inputs))
    }

    fn backward(
        (norm, inputs): Self::Saved,
        gradient: FlexTensor,
        _wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [input, _, bias] = &inputs;
        let shape = input.layout().shape().clone();
        let [input_gradient, weight_gradient, bias_gradient] = gradients(
            Cpu::current(),
            values(input),
            slices(norm, &inputs),
            values(&gradient),
        );
        let width = weight_gradient.len();
        let has_bias = !values(bias).is_empty();
        [
            Some(input_gradient.into_tensor(shape)),
            Some(weight_gradient.into_tensor([width])),
            has_bias.then(|| bias_gradient.into_tensor([width])),
        ]
    }
}

fn slices(norm: Norm, [_, weight, bias]: &[FlexTensor; 3]) -> NormSlices<'_> {
    let bias = Some(values(bias)).filter(|bias| !bias.is_empty());
    let weight = values(weight);
    NormSlices { norm, weight, bias }
}

/// Normalises all rows.
fn normalize(cpu: Cpu, input: &[f32], norm: NormSlices<'_>, output: &mut [f32]) {
    let width = norm.weight.len();
    cpu.split_rows(output, width, ROWS_PER_SUM, |first, output| {
        let input = &input[first * width..][..output.len()];
        cpu.run(Normalize {
            input,
            norm,
            output,
        });
    });
}

/// Normalises a block of rows.
pub(crate) struct Normalize<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) norm: NormSlices<'a>,
    pub(crate) output: &'a mut [f32],
}

impl WithSimd for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.norm.normalize(simd, self.input, self.output);
    }
}

/// The gradients of input, weight and bias.
fn gradients(cpu: Cpu, input: &[f32], norm: NormSlices<'_>, gradient: &[f32]) -> [Buffer; 3] {
    let width = norm.weight.len();
    let mut input_gradient = Buffer::zeros(input.len());
    let block = ROWS_PER_SUM * width;
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
                norm,
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
    norm: NormSlices<'a>,
    gradient: &'a [f32],
    out: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Differentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let norm = self.norm;
        norm.backward(simd, self.input, self.gradient, self.out, self.sums);
    }
}

/// Adds up partial sums, rows of `width`, in order.
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
