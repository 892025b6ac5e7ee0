//! The backward pass of a block.

use pulp::{Simd, WithSimd};

use super::BlockOf;
use super::activation::{activate_backward, add_rows};
use super::forward::{Block, LinearSlices, Saved, Sizes};
use super::rope::Direction;
use crate::attention::{self, Rows};
use crate::buffer::Buffer;
use crate::cpu::Shared;
use crate::matmul::{Initial, Packed, transposed_product};
use crate::norm::add_up;

/// The gradients of a block's input and of its parameters.
pub(super) fn backward(
    block: Block<'_>,
    (qkv, saved): (&[f32], Saved),
    gradient: &[f32],
) -> (Buffer, BlockOf<Buffer>) {
    let (cpu, sizes, masks) = (block.cpu, block.sizes, block.masks);
    let Sizes { hidden, inner, .. } = sizes;
    let (rows, qkv_width, expanded_width) = (sizes.rows(), sizes.qkv(), sizes.expanded());
    let Saved {
        mixed,
        softmax,
        middle,
        expanded,
    } = saved;
    let after = after_attention(block, (&middle, expanded), gradient);
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
    let project_weight = product(block, (after_mlp, hidden), (&active, expanded_width, inner));
    drop(active);
    let gradients = (&*expanded_gradient, expanded_width);
    let expand_weight = product(block, gradients, (&normal_2, hidden, hidden));
    drop((expanded_gradient, normal_2));
    let projection_weight = product(block, (after_projection, hidden), (&mixed, hidden, hidden));
    drop(dropped);

    let mut qkv_gradient = Buffer::uninitialised(rows * qkv_width);
    let all = |elements| Rows {
        elements,
        row: hidden,
        batch: sizes.time * hidden,
        heads: sizes.heads,
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
    let (normal_1, sums_before) = before_attention(block, &mut qkv_gradient, &mut x_gradient);
    let qkv_weight = product(
        block,
        (&*qkv_gradient, qkv_width),
        (&normal_1, hidden, hidden),
    );

    let weights = [qkv_weight, projection_weight, expand_weight, project_weight];
    (x_gradient, parameters(block, weights, &sums_before, &sums))
}

/// The gradient of a weight `[outputs, inputs]`, from the gradient of its outputs and from its
/// inputs, whose rows are `stride` elements apart.
fn product(
    block: Block<'_>,
    (gradient, outputs): (&[f32], usize),
    (input, stride, inputs): (&[f32], usize, usize),
) -> Buffer {
    let (cpu, rows) = (block.cpu, block.sizes.rows());
    let mut weight = Buffer::uninitialised(outputs * inputs);
    let factors = ((gradient, outputs, outputs), (input, stride, inputs));
    transposed_product(cpu, rows, factors, &mut weight, false);
    weight
}

/// The gradients of all parameters, from the gradients of the products' weights and the sums of
/// both passes over the rows.
fn parameters(
    block: Block<'_>,
    [qkv_weight, projection_weight, expand_weight, project_weight]: [Buffer; 4],
    before: &[f32],
    after: &[f32],
) -> BlockOf<Buffer> {
    let Sizes { hidden, .. } = block.sizes;
    let widths = [hidden, hidden, block.sizes.qkv()];
    let [norm_1_weight, norm_1_bias, qkv] = cut(before, widths);
    let widths = [hidden, hidden, hidden, block.sizes.expanded(), hidden];
    let [norm_2_weight, norm_2_bias, project, expand, projection] = cut(after, widths);
    let weights = [
        norm_1_weight,
        qkv_weight,
        projection_weight,
        norm_2_weight,
        expand_weight,
        project_weight,
    ];
    let biases = [norm_1_bias, qkv, projection, norm_2_bias, expand, project];
    // Drop the sums of missing biases.
    let (_, given) = block.weights.map(|_| ()).into_arrays();
    let mut biases = biases.into_iter();
    let biases = given.map(|given| biases.next().filter(|_| given.is_some()));
    BlockOf::from_arrays(weights, biases)
}

/// Copies consecutive parts.
fn cut<const N: usize>(sums: &[f32], widths: [usize; N]) -> [Buffer; N] {
    let mut rest = sums;
    widths.map(|width| {
        let (part, others) = rest.split_at(width);
        rest = others;
        Buffer::copy_of(part)
    })
}

/// The result of the pass over the rows after the attention.
struct AfterAttention {
    /// The activations `[rows, inner]`, in the memory and with the row stride of their inputs.
    active: Buffer,
    /// Gradients of the activation's inputs.
    expanded: Buffer,
    /// The output of the second norm `[rows, hidden]`.
    normal: Buffer,
    /// Gradients of the residual sum after the attention `[rows, hidden]`.
    middle: Buffer,
    /// Gradients of the attention's output `[rows, hidden]`.
    mixed: Buffer,
    /// With dropout, the gradients of the MLP's and of the projection's output before their masks,
    /// `[rows, hidden]`.
    dropped: Option<[Buffer; 2]>,
    /// Gradients of the second norm's weight and bias, and of the biases of project, expand and
    /// projection.
    sums: Buffer,
}

fn after_attention(
    block: Block<'_>,
    (middle, mut expanded): (&[f32], Buffer),
    gradient: &[f32],
) -> AfterAttention {
    let (cpu, sizes, weights, masks) = (block.cpu, block.sizes, block.weights, block.masks);
    let Sizes { hidden, inner, .. } = sizes;
    let (rows, expanded_width) = (sizes.rows(), sizes.expanded());
    let pack = |linear: LinearSlices<'_>, outputs, inputs| {
        Packed::plain(cpu, linear.weight.f32(), outputs, inputs)
    };
    let packed = [
        pack(weights.project, hidden, inner),
        pack(weights.expand, expanded_width, hidden),
        pack(weights.projection, hidden, hidden),
    ];
    let narrow = || Buffer::uninitialised(rows * hidden);
    let mut found = [narrow(), narrow(), narrow()];
    let mut dropped = masks.map(|_| [narrow(), narrow()]);
    let mut expanded_gradient = Buffer::uninitialised(rows * expanded_width);
    let width = 4 * hidden + expanded_width;
    let mut sums = Buffer::zeros(rows.div_ceil(sizes.rows_at_once()) * width);
    {
        let shared = found.each_mut().map(|buffer| Shared::new(buffer));
        let dropped = dropped
            .as_mut()
            .map(|both| both.each_mut().map(|b| Shared::new(b)));
        let wide = [&mut expanded, &mut expanded_gradient].map(|buffer| Shared::new(buffer));
        let shared_sums = Shared::new(&mut sums);
        sizes.each_block(cpu, |index, range| {
            let of_rows = |width: usize| range.start * width..range.end * width;
            // SAFETY: blocks of rows do not overlap, here and in the next three.
            let [normal, middle_gradient, mixed] =
                shared.map(|buffer| unsafe { buffer.part(of_rows(hidden)) });
            // SAFETY: as above.
            let dropped = dropped.map(|both| both.map(|b| unsafe { b.part(of_rows(hidden)) }));
            // SAFETY: as above.
            let [expanded, expanded_gradient] =
                wide.map(|buffer| unsafe { buffer.part(of_rows(expanded_width)) });
            // SAFETY: each block has its own row of sums.
            let sums = unsafe { shared_sums.part(index * width..(index + 1) * width) };
            cpu.run(RowsAfter {
                block,
                packed: &packed,
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
struct RowsAfter<'a> {
    block: Block<'a>,
    /// Project, expand, projection.
    packed: &'a [Packed; 3],
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

impl WithSimd for RowsAfter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let RowsAfter {
            packed: [project, expand, projection],
            first,
            gradient,
            middle,
            middle_gradient,
            ..
        } = self;
        let (sizes, weights, masks) = (self.block.sizes, self.block.weights, self.block.masks);
        let [_, norm] = self.block.norms();
        let (hidden, width) = (sizes.hidden, sizes.expanded());
        let (norm_sums, biases) = self.sums.split_at_mut(2 * hidden);
        let (project_bias, biases) = biases.split_at_mut(hidden);
        let (expand_bias, projection_bias) = biases.split_at_mut(biases.len() - hidden);
        let (after_mlp, after_projection) = match self.dropped {
            Some([mlp, projection]) => (Some(mlp), Some(projection)),
            None => (None, None),
        };

        let mask = masks.map(|masks| masks.after_mlp);
        let out = masked(simd, gradient, mask, (first, hidden), after_mlp);
        if weights.project.bias.is_some() {
            add_rows(out, project_bias);
        }
        let gradients = &mut *self.expanded_gradient;
        multiply(simd, project, (out, hidden), (gradients, width));
        activate_backward(
            simd,
            (sizes.mlp, sizes.inner),
            self.expanded,
            gradients,
            expand_bias,
        );
        let mut scratch = Buffer::uninitialised(middle.len());
        multiply(simd, expand, (gradients, width), (&mut scratch, hidden));
        norm.normalize(simd, middle, self.normal);
        middle_gradient.copy_from_slice(gradient);
        norm.backward(simd, middle, &scratch, middle_gradient, norm_sums);

        let mask = masks.map(|masks| masks.after_attention);
        let out = masked(
            simd,
            middle_gradient,
            mask,
            (first, hidden),
            after_projection,
        );
        if weights.projection.bias.is_some() {
            add_rows(out, projection_bias);
        }
        multiply(simd, projection, (out, hidden), (self.mixed, hidden));
    }
}

/// The gradient before dropout: times the mask, if there is one.
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
    mask.multiply_rows(simd, first, (&mut *out, width));
    out
}

/// Multiplies rows by a packed weight.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    packed: &Packed,
    (rows, width): (&[f32], usize),
    (out, stride): (&mut [f32], usize),
) {
    let count = rows.len() / width;
    packed.multiply_rows(simd, (rows, width), (out, stride), count, Initial::Zero);
}

/// The pass over the rows before the attention: rotates the gradients of queries and keys back,
/// adds to the gradient of the input, and returns the output of the first norm and the gradients of
/// its weight and bias and of the bias of `qkv`.
fn before_attention(
    block: Block<'_>,
    qkv_gradient: &mut [f32],
    x_gradient: &mut [f32],
) -> (Buffer, Buffer) {
    let (cpu, sizes, x, weights) = (block.cpu, block.sizes, block.x, block.weights);
    let (hidden, qkv_width) = (sizes.hidden, sizes.qkv());
    let packed = Packed::plain(cpu, weights.qkv.weight.f32(), qkv_width, hidden);
    let mut normal = Buffer::uninitialised(x.len());
    let width = 2 * hidden + qkv_width;
    let mut sums = Buffer::zeros(sizes.rows().div_ceil(sizes.rows_at_once()) * width);
    let (shared_normal, shared_sums) = (Shared::new(&mut normal), Shared::new(&mut sums));
    let shared_gradient = Shared::new(x_gradient);
    let shared_qkv = Shared::new(qkv_gradient);
    sizes.each_block(cpu, |index, range| {
        let narrow = range.start * hidden..range.end * hidden;
        cpu.run(RowsBefore {
            block,
            first: range.start,
            x: &x[narrow.clone()],
            packed: &packed,
            // SAFETY: blocks of rows do not overlap, here and in the next three.
            gradient: unsafe { shared_qkv.part(range.start * qkv_width..range.end * qkv_width) },
            // SAFETY: as above.
            normal: unsafe { shared_normal.part(narrow.clone()) },
            // SAFETY: as above.
            x_gradient: unsafe { shared_gradient.part(narrow) },
            // SAFETY: as above.
            sums: unsafe { shared_sums.part(index * width..(index + 1) * width) },
        });
    });
    (normal, add_up(&sums, width))
}

/// A block of rows before the attention.
struct RowsBefore<'a> {
    block: Block<'a>,
    /// The index of the first row.
    first: usize,
    x: &'a [f32],
    packed: &'a Packed,
    /// Gradients of queries, keys and values: after the rotary embedding, then before it.
    gradient: &'a mut [f32],
    normal: &'a mut [f32],
    x_gradient: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for RowsBefore<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let block = self.block;
        let (sizes, weights, rotation) = (block.sizes, block.weights, block.rotation);
        let [norm, _] = self.block.norms();
        let (hidden, width) = (sizes.hidden, sizes.qkv());
        let (norm_sums, bias_sum) = self.sums.split_at_mut(2 * hidden);
        if let Some(rotation) = rotation {
            let rotated = (&mut *self.gradient, width, hidden + sizes.keys());
            rotation.rotate(simd, self.first, rotated, Direction::Back);
        }
        if weights.qkv.bias.is_some() {
            add_rows(self.gradient, bias_sum);
        }
        let mut scratch = Buffer::uninitialised(self.x.len());
        let out = (&mut *scratch, hidden);
        multiply(simd, self.packed, (self.gradient, width), out);
        norm.normalize(simd, self.x, self.normal);
        norm.backward(simd, self.x, &scratch, self.x_gradient, norm_sums);
    }
}
