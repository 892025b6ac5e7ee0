//! From the input of a block to its output.

use pulp::{Simd, WithSimd};

use super::{BlockOf, Masks, Mlp, WithBias};
use crate::attention::{self, Attention, Rows};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::layer_norm::RowMoments;
use crate::math::{normal, normal_by_tanh};
use crate::matmul::{FEW_ROWS, Initial, Packed, Weight};
use crate::vector::{load, store};

/// Sizes of a block, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) time: usize,
    pub(super) hidden: usize,
    /// Width of the perceptron.
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) mlp: Mlp,
}

impl Sizes {
    pub(super) fn rows(self) -> usize {
        self.batch * self.time
    }

    /// Whether these are single positions of few texts, whose products read each weight once, as it
    /// is stored.
    pub(super) fn is_one_position(self) -> bool {
        self.time == 1 && self.batch <= FEW_ROWS
    }

    /// Rows that go through a pass together. It depends on nothing but the sizes, so that sums over
    /// rows are in the same order with any number of threads.
    pub(super) fn rows_at_once(self) -> usize {
        self.rows().div_ceil(16).clamp(12, 48)
    }

    pub(super) fn attention(self, masks: Option<Masks>) -> Attention {
        Attention {
            batch: self.batch,
            time: self.time,
            past: 0,
            heads: self.heads,
            width: self.hidden / self.heads,
            mask: masks.map(|masks| masks.attention),
        }
    }

    /// Queries, keys and values as the first product leaves them.
    pub(super) fn split_qkv(self, qkv: &[f32]) -> [Rows<'_>; 3] {
        let width = 3 * self.hidden;
        std::array::from_fn(|part| Rows {
            elements: &qkv[(part * self.hidden).min(qkv.len())..],
            row: width,
            batch: self.time * width,
        })
    }

    /// Calls `work` for each block of rows, on all threads, with its number and its rows.
    pub(super) fn each_block(self, cpu: Cpu, work: impl Fn(usize, std::ops::Range<usize>) + Sync) {
        let (rows, at_once) = (self.rows(), self.rows_at_once());
        cpu.each(rows.div_ceil(at_once), |block| {
            work(block, block * at_once..rows.min((block + 1) * at_once));
        });
    }
}

/// A product's parameters as slices.
pub(super) type LinearSlices<'a> = WithBias<Weight<'a>, &'a [f32]>;

/// A norm's parameters as slices.
pub(super) type NormSlices<'a> = WithBias<&'a [f32]>;

/// All parameters as slices.
pub(super) type BlockSlices<'a> = BlockOf<Weight<'a>, &'a [f32]>;

/// The result of the forward pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// `[rows, 3 hidden]`
    pub(super) qkv: Buffer,
    /// What backward needs besides.
    pub(super) saved: Saved,
    /// `[rows, hidden]`
    pub(super) output: Buffer,
}

/// What backward needs besides input, weights, queries, keys and values.
#[derive(Debug)]
pub(super) struct Saved {
    /// The attention's result `[rows, hidden]`.
    pub(super) mixed: Buffer,
    /// See [`attention::forward`].
    pub(super) softmax: Buffer,
    /// The sum after the attention `[rows, hidden]`.
    pub(super) middle: Buffer,
    /// What goes into the activation `[rows, inner]`.
    pub(super) expanded: Buffer,
}

/// All of a block, for a text that begins with `x`.
pub(super) fn forward(
    cpu: Cpu,
    sizes: Sizes,
    x: &[f32],
    weights: BlockSlices<'_>,
    masks: Option<Masks>,
) -> Pass {
    let qkv = queries_keys_values(cpu, sizes, x, weights);
    let mut mixed = Buffer::uninitialised(sizes.rows() * sizes.hidden);
    let mut softmax = Buffer::uninitialised(2 * sizes.rows() * sizes.heads);
    let parts = sizes.split_qkv(&qkv);
    let attention = sizes.attention(masks);
    attention::forward(cpu, attention, parts, &mut mixed, &mut softmax);
    let AfterAttention {
        middle,
        expanded,
        output,
    } = after_attention(cpu, sizes, x, weights, masks, &mixed);
    let saved = Saved {
        mixed,
        softmax,
        middle,
        expanded,
    };
    Pass { qkv, saved, output }
}

/// What the pass over the rows after the attention gives; see [`Saved`] and [`Pass`].
pub(super) struct AfterAttention {
    middle: Buffer,
    expanded: Buffer,
    pub(super) output: Buffer,
}

/// Everything after the attention, whose result is `mixed`.
pub(super) fn after_attention(
    cpu: Cpu,
    sizes: Sizes,
    x: &[f32],
    weights: BlockSlices<'_>,
    masks: Option<Masks>,
    mixed: &[f32],
) -> AfterAttention {
    let Sizes { hidden, inner, .. } = sizes;
    let rows = sizes.rows();
    let packed = [
        (weights.projection, hidden, hidden),
        (weights.expand, inner, hidden),
        (weights.project, hidden, inner),
    ]
    .map(|(linear, outputs, inputs)| Packed::transposed(cpu, linear.weight.f32(), outputs, inputs));
    let mut middle = Buffer::uninitialised(rows * hidden);
    let mut expanded = Buffer::uninitialised(rows * inner);
    let mut output = Buffer::uninitialised(rows * hidden);
    let [shared_middle, shared_expanded, shared_output] =
        [&mut middle, &mut expanded, &mut output].map(|buffer| Shared::new(buffer));
    sizes.each_block(cpu, |_, range| {
        let narrow = range.start * hidden..range.end * hidden;
        let wide = range.start * inner..range.end * inner;
        cpu.run(BlockAfter {
            mlp: sizes.mlp,
            weights,
            packed: &packed,
            masks,
            first: range.start,
            x: &x[narrow.clone()],
            mixed: &mixed[narrow.clone()],
            // SAFETY: blocks of rows do not overlap, here and in the next two.
            middle: unsafe { shared_middle.part(narrow.clone()) },
            // SAFETY: as above.
            expanded: unsafe { shared_expanded.part(wide) },
            // SAFETY: as above.
            output: unsafe { shared_output.part(narrow) },
        });
    });
    AfterAttention {
        middle,
        expanded,
        output,
    }
}

/// The first norm and the product that follows.
pub(super) fn queries_keys_values(
    cpu: Cpu,
    sizes: Sizes,
    x: &[f32],
    weights: BlockSlices<'_>,
) -> Buffer {
    let hidden = sizes.hidden;
    let packed = Packed::transposed(cpu, weights.qkv.weight.f32(), 3 * hidden, hidden);
    let mut qkv = Buffer::uninitialised(sizes.rows() * 3 * hidden);
    let shared = Shared::new(&mut qkv);
    sizes.each_block(cpu, |_, range| {
        // SAFETY: blocks of rows do not overlap.
        let qkv = unsafe { shared.part(range.start * 3 * hidden..range.end * 3 * hidden) };
        cpu.run(NormAndProduct {
            x: &x[range.start * hidden..range.end * hidden],
            norm: weights.norm_1,
            packed: &packed,
            bias: weights.qkv.bias,
            out: qkv,
        });
    });
    qkv
}

struct NormAndProduct<'a> {
    x: &'a [f32],
    norm: NormSlices<'a>,
    packed: &'a Packed,
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for NormAndProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut normal = Buffer::uninitialised(self.x.len());
        normalize(simd, self.x, self.norm, &mut normal);
        product(simd, self.packed, &normal, self.out, self.bias);
    }
}

/// A block of rows after the attention.
struct BlockAfter<'a> {
    mlp: Mlp,
    weights: BlockSlices<'a>,
    /// Projection, expand, project.
    packed: &'a [Packed; 3],
    masks: Option<Masks>,
    /// The index of the first row.
    first: usize,
    x: &'a [f32],
    mixed: &'a [f32],
    middle: &'a mut [f32],
    expanded: &'a mut [f32],
    output: &'a mut [f32],
}

impl WithSimd for BlockAfter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BlockAfter {
            mlp,
            weights,
            packed: [projection, expand, project],
            masks,
            first,
            middle,
            expanded,
            output,
            ..
        } = self;
        let hidden = weights.norm_2.weight.len();
        product(
            simd,
            projection,
            self.mixed,
            middle,
            weights.projection.bias,
        );
        if let Some(masks) = masks {
            for (row, values) in middle.chunks_exact_mut(hidden).enumerate() {
                masks.after_attention.apply(simd, first + row, values);
            }
        }
        add(middle, self.x);
        let mut scratch = Buffer::uninitialised(expanded.len().max(middle.len()));
        let normal = &mut scratch[..middle.len()];
        normalize(simd, middle, weights.norm_2, normal);
        product(simd, expand, normal, expanded, weights.expand.bias);
        let active = &mut scratch[..expanded.len()];
        activate(simd, mlp, expanded, active);
        product(simd, project, active, output, weights.project.bias);
        if let Some(masks) = masks {
            for (row, values) in output.chunks_exact_mut(hidden).enumerate() {
                masks.after_perceptron.apply(simd, first + row, values);
            }
        }
        add(output, middle);
    }
}

/// Rows times a packed weight, plus a bias.
#[inline(always)]
fn product<S: Simd>(simd: S, packed: &Packed, rows: &[f32], out: &mut [f32], bias: &[f32]) {
    let columns = bias.len();
    let count = out.len() / columns;
    let width = rows.len() / count.max(1);
    packed.multiply_rows(
        simd,
        (rows, width),
        (out, columns),
        count,
        Initial::Bias(bias),
    );
}

#[inline(always)]
pub(super) fn normalize<S: Simd>(simd: S, rows: &[f32], norm: NormSlices<'_>, out: &mut [f32]) {
    let width = norm.weight.len();
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        RowMoments::of(simd, row).normalize(row, [norm.weight, norm.bias], out);
    }
}

#[inline(always)]
pub(super) fn add(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}

/// What goes into the second product, from the result of the first.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, mlp: Mlp, x: &[f32], out: &mut [f32]) {
    match mlp {
        Mlp::Gelu => gelu(simd, x, out, normal),
        Mlp::GeluTanh => gelu(simd, x, out, normal_by_tanh),
    }
}

/// `x` times a distribution function of `x` (Hendrycks & Gimpel 2016).
#[inline(always)]
fn gelu<S: Simd>(
    simd: S,
    x: &[f32],
    out: &mut [f32],
    distribution: impl Fn(S, S::f32s) -> (S::f32s, S::f32s),
) {
    let rows = x.chunks(S::F32_LANES).zip(out.chunks_mut(S::F32_LANES));
    for (x, out) in rows {
        let x = load(simd, x);
        let (distribution, _) = distribution(simd, x);
        store(simd, out, simd.mul_f32s(x, distribution));
    }
}
