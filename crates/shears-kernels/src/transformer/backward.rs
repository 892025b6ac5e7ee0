//! From the gradient of a block's output to those of its input and its parameters.

use pulp::{Simd, WithSimd};

use super::forward::{BlockSlices, LinearSlices, NormSlices, Saved, Sizes, add, normalize};
use super::{BlockOf, Masks, Mlp, WithBias};
use crate::attention::{self, Rows};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::layer_norm::{RowMoments, add_up};
use crate::math::{normal, normal_by_tanh};
use crate::matmul::{Initial, Packed, transposed_product};
use crate::vector::{load, store};

/// The gradients of a block's input and of its parameters.
pub(super) fn backward(
    cpu: Cpu,
    sizes: Sizes,
    x: &[f32],
    weights: BlockSlices<'_>,
    masks: Option<Masks>,
    (qkv, saved): (&[f32], Saved),
    gradient: &[f32],
) -> (Buffer, BlockOf<Buffer>) {
    let Sizes { hidden, inner, .. } = sizes;
    let rows = sizes.rows();
    let Saved {
        mixed,
        softmax,
        middle,
        expanded,
    } = saved;
    let after = after_attention(cpu, sizes, weights, masks, (&middle, expanded), gradient);
    drop(middle);
    let AfterAttention {
        active,
        expanded: expanded_gradient,
        normal: normal_2,
        middle: mut x_gradient,
        mixed: mixed_gradient,
        dropped,
        sums,
    } = after;
    let (after_mlp, after_projection) = match &dropped {
        Some([mlp, projection]) => (&**mlp, &**projection),
        None => (gradient, &*x_gradient),
    };
    let project_weight = product(cpu, rows, (after_mlp, hidden), (&active, inner));
    drop(active);
    let expand_weight = product(cpu, rows, (&expanded_gradient, inner), (&normal_2, hidden));
    drop((expanded_gradient, normal_2));
    let projection_weight = product(cpu, rows, (after_projection, hidden), (&mixed, hidden));
    drop(dropped);

    let mut qkv_gradient = Buffer::uninitialised(rows * 3 * hidden);
    let all = |elements| Rows {
        elements,
        row: hidden,
        batch: sizes.time * hidden,
    };
    let mixture = attention::Mixture {
        mixed: all(&mixed),
        gradient: all(&mixed_gradient),
        softmax: &softmax,
    };
    let parts = sizes.split_qkv(qkv);
    attention::backward(
        cpu,
        sizes.attention(masks),
        parts,
        mixture,
        &mut qkv_gradient,
    );
    drop((mixed, mixed_gradient));
    let (normal_1, sums_before) =
        before_attention(cpu, sizes, x, weights, &qkv_gradient, &mut x_gradient);
    let qkv_weight = product(cpu, rows, (&qkv_gradient, 3 * hidden), (&normal_1, hidden));

    let [
        norm_2_weight,
        norm_2_bias,
        project_bias,
        expand_bias,
        projection_bias,
    ] = cut(&sums, [hidden, hidden, hidden, inner, hidden]);
    let [norm_1_weight, norm_1_bias, qkv_bias] = cut(&sums_before, [hidden, hidden, 3 * hidden]);
    let parameters = BlockOf {
        norm_1: WithBias::new(norm_1_weight, norm_1_bias),
        qkv: WithBias::new(qkv_weight, qkv_bias),
        projection: WithBias::new(projection_weight, projection_bias),
        norm_2: WithBias::new(norm_2_weight, norm_2_bias),
        expand: WithBias::new(expand_weight, expand_bias),
        project: WithBias::new(project_weight, project_bias),
    };
    (x_gradient, parameters)
}

/// The gradient of a weight `[outputs, inputs]`, from that of its outputs and its inputs.
fn product(
    cpu: Cpu,
    rows: usize,
    (gradient, outputs): (&[f32], usize),
    (input, inputs): (&[f32], usize),
) -> Buffer {
    let mut weight = Buffer::uninitialised(outputs * inputs);
    let left = (gradient, outputs, outputs);
    let right = (input, inputs, inputs);
    transposed_product(cpu, rows, left, right, (&mut weight, inputs), false);
    weight
}

/// Copies of neighbouring parts.
fn cut<const N: usize>(sums: &[f32], widths: [usize; N]) -> [Buffer; N] {
    let mut rest = sums;
    widths.map(|width| {
        let (part, others) = rest.split_at(width);
        rest = others;
        Buffer::copy_of(part)
    })
}

/// What the pass over the rows after the attention gives.
struct AfterAttention {
    /// The activation's values `[rows, inner]`, in the memory of what went into it.
    active: Buffer,
    /// Gradients of what went into the activation `[rows, inner]`.
    expanded: Buffer,
    /// The second norm's values `[rows, hidden]`.
    normal: Buffer,
    /// Gradients of the sum after the attention `[rows, hidden]`.
    middle: Buffer,
    /// Gradients of the attention's result `[rows, hidden]`.
    mixed: Buffer,
    /// Gradients before both masks, where there are masks: of the perceptron's result, and of
    /// the projection's `[rows, hidden]`.
    dropped: Option<[Buffer; 2]>,
    /// Second norm's weight and bias, biases of project, expand and projection.
    sums: Buffer,
}

fn after_attention(
    cpu: Cpu,
    sizes: Sizes,
    weights: BlockSlices<'_>,
    masks: Option<Masks>,
    (middle, mut expanded): (&[f32], Buffer),
    gradient: &[f32],
) -> AfterAttention {
    let Sizes { hidden, inner, .. } = sizes;
    let rows = sizes.rows();
    let pack = |linear: LinearSlices<'_>, outputs, inputs| {
        Packed::plain(cpu, linear.weight.f32(), outputs, inputs)
    };
    let packed = [
        pack(weights.project, hidden, inner),
        pack(weights.expand, inner, hidden),
        pack(weights.projection, hidden, hidden),
    ];
    let narrow = || Buffer::uninitialised(rows * hidden);
    let mut found = [narrow(), narrow(), narrow()];
    let mut dropped = masks.map(|_| [narrow(), narrow()]);
    let mut expanded_gradient = Buffer::uninitialised(rows * inner);
    let width = 4 * hidden + inner;
    let mut sums = Buffer::zeros(rows.div_ceil(sizes.rows_at_once()) * width);
    {
        let shared = found.each_mut().map(|buffer| Shared::new(buffer));
        let dropped = dropped
            .as_mut()
            .map(|both| both.each_mut().map(|b| Shared::new(b)));
        let wide = [&mut expanded, &mut expanded_gradient].map(|buffer| Shared::new(buffer));
        let shared_sums = Shared::new(&mut sums);
        sizes.each_block(cpu, |block, range| {
            let of_rows = |width: usize| range.start * width..range.end * width;
            // SAFETY: blocks of rows do not overlap; so in all that follow.
            let [normal, middle_gradient, mixed] =
                shared.map(|buffer| unsafe { buffer.part(of_rows(hidden)) });
            // SAFETY: as above.
            let dropped = dropped.map(|both| both.map(|b| unsafe { b.part(of_rows(hidden)) }));
            // SAFETY: as above.
            let [expanded, expanded_gradient] =
                wide.map(|buffer| unsafe { buffer.part(of_rows(inner)) });
            // SAFETY: each block has a row of sums.
            let sums = unsafe { shared_sums.part(block * width..(block + 1) * width) };
            cpu.run(BlockAfter {
                mlp: sizes.mlp,
                weights,
                packed: &packed,
                masks,
                first: range.start,
                gradient: &gradient[of_rows(hidden)],
                middle: &middle[of_rows(hidden)],
                expanded,
                expanded_gradient,
                normal,
                middle_gradient,
                mixed,
                dropped,
                sums,
            });
        });
    }
    let [normal, middle, mixed] = found;
    AfterAttention {
        active: expanded,
        expanded: expanded_gradient,
        normal,
        middle,
        mixed,
        dropped,
        sums: add_up(&sums, width),
    }
}

/// A block of rows after the attention.
struct BlockAfter<'a> {
    mlp: Mlp,
    weights: BlockSlices<'a>,
    /// Project, expand, projection.
    packed: &'a [Packed; 3],
    masks: Option<Masks>,
    /// The index of the first row.
    first: usize,
    gradient: &'a [f32],
    middle: &'a [f32],
    expanded: &'a mut [f32],
    expanded_gradient: &'a mut [f32],
    normal: &'a mut [f32],
    middle_gradient: &'a mut [f32],
    mixed: &'a mut [f32],
    dropped: Option<[&'a mut [f32]; 2]>,
    sums: &'a mut [f32],
}

impl WithSimd for BlockAfter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BlockAfter {
            mlp,
            weights,
            packed: [project, expand, projection],
            masks,
            first,
            gradient,
            middle,
            middle_gradient,
            ..
        } = self;
        let norm = weights.norm_2;
        let hidden = norm.weight.len();
        let (norm_sums, biases) = self.sums.split_at_mut(2 * hidden);
        let (project_bias, biases) = biases.split_at_mut(hidden);
        let (expand_bias, projection_bias) = biases.split_at_mut(biases.len() - hidden);
        let (after_perceptron, after_projection) = match self.dropped {
            Some([perceptron, projection]) => (Some(perceptron), Some(projection)),
            None => (None, None),
        };

        let mask = masks.map(|masks| masks.after_perceptron);
        let out = masked(simd, gradient, mask, (first, hidden), after_perceptron);
        add_rows(out, project_bias);
        multiply(simd, project, (out, hidden), self.expanded_gradient);
        let (expanded, gradients) = (self.expanded, &mut *self.expanded_gradient);
        activate(simd, mlp, expanded, gradients, expand_bias);
        let inner = expand_bias.len();
        let mut scratch = Buffer::uninitialised(middle.len());
        multiply(simd, expand, (self.expanded_gradient, inner), &mut scratch);
        normalize(simd, middle, norm, self.normal);
        middle_gradient.copy_from_slice(gradient);
        norm_backward(
            simd,
            middle,
            norm.weight,
            &scratch,
            middle_gradient,
            norm_sums,
        );

        let mask = masks.map(|masks| masks.after_attention);
        let out = masked(
            simd,
            middle_gradient,
            mask,
            (first, hidden),
            after_projection,
        );
        add_rows(out, projection_bias);
        multiply(simd, projection, (out, hidden), self.mixed);
    }
}

/// The gradient before a mask; without a mask, the gradient itself.
#[inline(always)]
fn masked<'a, S: Simd>(
    simd: S,
    gradient: &'a [f32],
    mask: Option<crate::dropout::Mask>,
    (first, width): (usize, usize),
    out: Option<&'a mut [f32]>,
) -> &'a [f32] {
    let (Some(mask), Some(out)) = (mask, out) else {
        return gradient;
    };
    out.copy_from_slice(gradient);
    for (row, values) in out.chunks_exact_mut(width).enumerate() {
        mask.apply(simd, first + row, values);
    }
    out
}

#[inline(always)]
fn add_rows(rows: &[f32], sum: &mut [f32]) {
    for row in rows.chunks_exact(sum.len()) {
        add(sum, row);
    }
}

/// Rows times a packed weight.
#[inline(always)]
fn multiply<S: Simd>(simd: S, packed: &Packed, (rows, width): (&[f32], usize), out: &mut [f32]) {
    let count = rows.len() / width;
    let columns = out.len() / count.max(1);
    packed.multiply_rows(simd, (rows, width), (out, columns), count, Initial::Zero);
}

/// Turns `x` into its activation, and the activation's gradient into that of `x`, whose rows are
/// added to `sum`.
#[inline(always)]
fn activate<S: Simd>(simd: S, mlp: Mlp, x: &mut [f32], gradient: &mut [f32], sum: &mut [f32]) {
    match mlp {
        Mlp::Gelu => gelu(simd, x, gradient, sum, normal),
        Mlp::GeluTanh => gelu(simd, x, gradient, sum, normal_by_tanh),
    }
}

/// [`activate`] for `x` times a distribution function, given with its derivative.
#[inline(always)]
fn gelu<S: Simd>(
    simd: S,
    x: &mut [f32],
    gradient: &mut [f32],
    sum: &mut [f32],
    distribution: impl Fn(S, S::f32s) -> (S::f32s, S::f32s),
) {
    let width = sum.len();
    let rows = x
        .chunks_exact_mut(width)
        .zip(gradient.chunks_exact_mut(width));
    for (x, gradient) in rows {
        let vectors = x
            .chunks_mut(S::F32_LANES)
            .zip(gradient.chunks_mut(S::F32_LANES));
        for ((x, gradient), sum) in vectors.zip(sum.chunks_mut(S::F32_LANES)) {
            let value = load(simd, x);
            let (distribution, density) = distribution(simd, value);
            store(simd, x, simd.mul_f32s(value, distribution));
            let slope = simd.mul_add_e_f32s(value, density, distribution);
            let change = simd.mul_f32s(load(simd, gradient), slope);
            store(simd, gradient, change);
            store(simd, sum, simd.add_f32s(load(simd, sum), change));
        }
    }
}

/// Adds to `out` the gradients of rows, given those of their norm, and to `sums` what they give to
/// the norm's weight and bias.
#[inline(always)]
fn norm_backward<S: Simd>(
    simd: S,
    rows: &[f32],
    weight: &[f32],
    gradient: &[f32],
    out: &mut [f32],
    sums: &mut [f32],
) {
    let width = weight.len();
    let (weight_sum, bias_sum) = sums.split_at_mut(width);
    let gradients = gradient.chunks_exact(width);
    let rows = rows.chunks_exact(width).zip(gradients);
    for ((row, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
        let sums = [&mut *weight_sum, &mut *bias_sum];
        RowMoments::of(simd, row).backward(simd, row, weight, gradient, out, sums);
    }
}

/// The pass over the rows before the attention: adds to the gradient of the input, and gives the
/// first norm's values and the sums of its weight and bias and of the bias that follows.
fn before_attention(
    cpu: Cpu,
    sizes: Sizes,
    x: &[f32],
    weights: BlockSlices<'_>,
    qkv_gradient: &[f32],
    x_gradient: &mut [f32],
) -> (Buffer, Buffer) {
    let hidden = sizes.hidden;
    let packed = Packed::plain(cpu, weights.qkv.weight.f32(), 3 * hidden, hidden);
    let mut normal = Buffer::uninitialised(x.len());
    let width = 5 * hidden;
    let mut sums = Buffer::zeros(sizes.rows().div_ceil(sizes.rows_at_once()) * width);
    let (shared_normal, shared_sums) = (Shared::new(&mut normal), Shared::new(&mut sums));
    let shared_gradient = Shared::new(x_gradient);
    sizes.each_block(cpu, |block, range| {
        let narrow = range.start * hidden..range.end * hidden;
        cpu.run(BlockBefore {
            x: &x[narrow.clone()],
            norm: weights.norm_1,
            packed: &packed,
            gradient: &qkv_gradient[3 * narrow.start..3 * narrow.end],
            // SAFETY: blocks of rows do not overlap, here and in the next two.
            normal: unsafe { shared_normal.part(narrow.clone()) },
            // SAFETY: as above.
            x_gradient: unsafe { shared_gradient.part(narrow) },
            // SAFETY: as above.
            sums: unsafe { shared_sums.part(block * width..(block + 1) * width) },
        });
    });
    (normal, add_up(&sums, width))
}

struct BlockBefore<'a> {
    x: &'a [f32],
    norm: NormSlices<'a>,
    packed: &'a Packed,
    gradient: &'a [f32],
    normal: &'a mut [f32],
    x_gradient: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for BlockBefore<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let hidden = self.norm.weight.len();
        let (norm_sums, bias_sum) = self.sums.split_at_mut(2 * hidden);
        add_rows(self.gradient, bias_sum);
        let mut scratch = Buffer::uninitialised(self.x.len());
        multiply(simd, self.packed, (self.gradient, 3 * hidden), &mut scratch);
        normalize(simd, self.x, self.norm, self.normal);
        let weight = self.norm.weight;
        norm_backward(simd, self.x, weight, &scratch, self.x_gradient, norm_sums);
    }
}
