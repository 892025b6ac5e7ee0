//! The forward pass of a block.

use pulp::{Simd, WithSimd};

use super::activation::activate;
use super::rope::{Direction, RotaryTable};
use super::{BlockOf, BlockSettings, Masks, Mlp, WithBias};
use crate::attention::{self, Attention, Rows};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::matmul::{FEW_ROWS, Initial, Packed, Weight};
use crate::norm::{Norm, NormSlices};

/// The sizes of a block, its norm and its activation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) time: usize,
    pub(super) hidden: usize,
    /// The width of the MLP.
    pub(super) inner: usize,
    pub(super) heads: usize,
    /// Key and value heads.
    pub(super) kv_heads: usize,
    pub(super) norm: Norm,
    pub(super) mlp: Mlp,
}

impl Sizes {
    pub(super) fn new(
        [batch, time]: [usize; 2],
        [hidden, inner]: [usize; 2],
        settings: BlockSettings,
    ) -> Sizes {
        Sizes {
            batch,
            time,
            hidden,
            inner,
            heads: settings.heads,
            kv_heads: settings.kv_heads,
            norm: settings.norm,
            mlp: settings.mlp,
        }
    }

    pub(super) fn rows(self) -> usize {
        self.batch * self.time
    }

    /// The width of a head.
    pub(super) fn head(self) -> usize {
        self.hidden / self.heads
    }

    /// The total width of the key heads, or of the value heads.
    pub(super) fn keys(self) -> usize {
        self.kv_heads * self.head()
    }

    /// The total width of queries, keys and values.
    pub(super) fn qkv(self) -> usize {
        self.hidden + 2 * self.keys()
    }

    /// The width of the activation's inputs.
    pub(super) fn expanded(self) -> usize {
        self.inner * self.mlp.parts()
    }

    /// Whether this is one position of a few sequences, whose products read each weight once,
    /// unpacked.
    pub(super) fn is_one_position(self) -> bool {
        self.time == 1 && self.batch <= FEW_ROWS
    }

    /// Rows per block of a pass. Depends only on the sizes, so that sums over rows have the same
    /// order for any number of threads.
    pub(super) fn rows_at_once(self) -> usize {
        self.rows().div_ceil(16).clamp(12, 48)
    }

    pub(super) fn attention(self, masks: Option<Masks>) -> Attention {
        Attention {
            batch: self.batch,
            time: self.time,
            past: 0,
            heads: self.heads,
            width: self.head(),
            mask: masks.map(|masks| masks.attention),
        }
    }

    /// Queries, keys and values in the output of their product.
    pub(super) fn split_qkv(self, qkv: &[f32]) -> [Rows<'_>; 3] {
        let row = self.qkv();
        let parts = [
            (0, self.heads),
            (self.hidden, self.kv_heads),
            (self.hidden + self.keys(), self.kv_heads),
        ];
        parts.map(|(first, heads)| Rows {
            elements: &qkv[first.min(qkv.len())..],
            row,
            batch: self.time * row,
            heads,
        })
    }

    /// Calls `work` for each block of rows, on all threads, with its index and its rows.
    pub(super) fn each_block(self, cpu: Cpu, work: impl Fn(usize, std::ops::Range<usize>) + Sync) {
        let (rows, at_once) = (self.rows(), self.rows_at_once());
        cpu.each(rows.div_ceil(at_once), |block| {
            work(block, block * at_once..rows.min((block + 1) * at_once));
        });
    }
}

/// The parameters of a product as slices.
pub(super) type LinearSlices<'a> = WithBias<Weight<'a>>;

/// Everything that a block reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) cpu: Cpu,
    pub(super) sizes: Sizes,
    /// `[rows, hidden]`
    pub(super) x: &'a [f32],
    /// Only matrices may be bf16.
    pub(super) weights: BlockOf<Weight<'a>>,
    pub(super) masks: Option<Masks>,
    pub(super) rotation: Option<Rotation<'a>>,
}

impl<'a> Block<'a> {
    /// The norms before the attention and before the MLP.
    pub(super) fn norms(self) -> [NormSlices<'a>; 2] {
        [self.weights.norm_1, self.weights.norm_2].map(|of| NormSlices {
            norm: self.sizes.norm,
            weight: of.weight.f32(),
            bias: of.bias.map(Weight::f32),
        })
    }
}

/// The rotary embedding of queries and keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation<'a> {
    pub(super) table: &'a RotaryTable,
    /// The position of the first row of each sequence, and the number of rows per sequence.
    pub(super) start: usize,
    pub(super) time: usize,
}

impl Rotation<'_> {
    /// Rotates the first `rotated` elements of each row of `width` elements, starting with row
    /// `first`.
    #[inline(always)]
    pub(super) fn rotate<S: Simd>(
        self,
        simd: S,
        first: usize,
        (rows, width, rotated): (&mut [f32], usize, usize),
        direction: Direction,
    ) {
        for (row, values) in rows.chunks_exact_mut(width).enumerate() {
            let position = self.start + (first + row) % self.time;
            self.table
                .rotate(simd, position, &mut values[..rotated], direction);
        }
    }
}

/// The result of the forward pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// `[rows, hidden + 2 keys]`
    pub(super) qkv: Buffer,
    /// What else the backward pass needs.
    pub(super) saved: Saved,
    /// `[rows, hidden]`
    pub(super) output: Buffer,
}

/// What the backward pass needs besides input, weights, queries, keys and values.
#[derive(Debug)]
pub(super) struct Saved {
    /// The output of the attention `[rows, hidden]`.
    pub(super) mixed: Buffer,
    /// See [`attention::forward`].
    pub(super) softmax: Buffer,
    /// The residual sum after the attention `[rows, hidden]`.
    pub(super) middle: Buffer,
    /// The inputs of the activation `[rows, inner]`, with a gate `[rows, 2 inner]`.
    pub(super) expanded: Buffer,
}

/// Computes a block for sequences that start with `x`.
pub(super) fn forward(block: Block<'_>) -> Pass {
    let (cpu, sizes, masks) = (block.cpu, block.sizes, block.masks);
    let qkv = queries_keys_values(block);
    let mut mixed = Buffer::uninitialised(sizes.rows() * sizes.hidden);
    let mut softmax = Buffer::uninitialised(2 * sizes.rows() * sizes.heads);
    let parts = sizes.split_qkv(&qkv);
    let attention = sizes.attention(masks);
    attention::forward(cpu, attention, parts, &mut mixed, &mut softmax);
    let AfterAttention {
        middle,
        expanded,
        output,
    } = after_attention(block, &mixed);
    let saved = Saved {
        mixed,
        softmax,
        middle,
        expanded,
    };
    Pass { qkv, saved, output }
}

/// The result of the pass over the rows after the attention; see [`Saved`] and [`Pass`].
pub(super) struct AfterAttention {
    middle: Buffer,
    expanded: Buffer,
    pub(super) output: Buffer,
}

/// Computes everything after the attention, whose output is `mixed`.
pub(super) fn after_attention(block: Block<'_>, mixed: &[f32]) -> AfterAttention {
    let (cpu, sizes, x, weights) = (block.cpu, block.sizes, block.x, block.weights);
    let Sizes { hidden, inner, .. } = sizes;
    let (rows, expanded_width) = (sizes.rows(), sizes.expanded());
    let packed = [
        (weights.projection, hidden, hidden),
        (weights.expand, expanded_width, hidden),
        (weights.project, hidden, inner),
    ]
    .map(|(linear, outputs, inputs)| Packed::transposed(cpu, linear.weight.f32(), outputs, inputs));
    let mut middle = Buffer::uninitialised(rows * hidden);
    let mut expanded = Buffer::uninitialised(rows * expanded_width);
    let mut output = Buffer::uninitialised(rows * hidden);
    let [shared_middle, shared_expanded, shared_output] =
        [&mut middle, &mut expanded, &mut output].map(|buffer| Shared::new(buffer));
    sizes.each_block(cpu, |_, range| {
        let narrow = range.start * hidden..range.end * hidden;
        let wide = range.start * expanded_width..range.end * expanded_width;
        cpu.run(RowsAfter {
            block,
            packed: &packed,
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

/// Computes the first norm and queries, keys and values.
pub(super) fn queries_keys_values(block: Block<'_>) -> Buffer {
    let (cpu, sizes, weights) = (block.cpu, block.sizes, block.weights);
    let (hidden, width) = (sizes.hidden, sizes.qkv());
    let packed = Packed::transposed(cpu, weights.qkv.weight.f32(), width, hidden);
    let mut qkv = Buffer::uninitialised(sizes.rows() * width);
    let shared = Shared::new(&mut qkv);
    sizes.each_block(cpu, |_, range| {
        cpu.run(RowsBefore {
            block,
            first: range.start,
            x: &block.x[range.start * hidden..range.end * hidden],
            packed: &packed,
            // SAFETY: blocks of rows do not overlap.
            out: unsafe { shared.part(range.start * width..range.end * width) },
        });
    });
    qkv
}

/// A block of rows before the attention.
struct RowsBefore<'a> {
    block: Block<'a>,
    /// The index of the first row.
    first: usize,
    x: &'a [f32],
    packed: &'a Packed,
    out: &'a mut [f32],
}

impl WithSimd for RowsBefore<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let block = self.block;
        let (sizes, weights, rotation) = (block.sizes, block.weights, block.rotation);
        let [norm, _] = self.block.norms();
        let mut normal = Buffer::uninitialised(self.x.len());
        norm.normalize(simd, self.x, &mut normal);
        let width = sizes.qkv();
        let out = (&mut *self.out, width);
        product(simd, self.packed, &normal, out, weights.qkv.bias);
        if let Some(rotation) = rotation {
            let rotated = (self.out, width, sizes.hidden + sizes.keys());
            rotation.rotate(simd, self.first, rotated, Direction::Forward);
        }
    }
}

/// A block of rows after the attention.
struct RowsAfter<'a> {
    block: Block<'a>,
    /// Projection, expand, project.
    packed: &'a [Packed; 3],
    /// The index of the first row.
    first: usize,
    x: &'a [f32],
    mixed: &'a [f32],
    middle: &'a mut [f32],
    expanded: &'a mut [f32],
    output: &'a mut [f32],
}

impl WithSimd for RowsAfter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let RowsAfter {
            packed: [projection, expand, project],
            first,
            middle,
            expanded,
            output,
            ..
        } = self;
        let (sizes, weights, masks) = (self.block.sizes, self.block.weights, self.block.masks);
        let [_, norm] = self.block.norms();
        let hidden = sizes.hidden;
        let out = (&mut *middle, hidden);
        product(simd, projection, self.mixed, out, weights.projection.bias);
        if let Some(masks) = masks {
            let rows = (&mut *middle, hidden);
            masks.after_attention.multiply_rows(simd, first, rows);
        }
        add(middle, self.x);
        let mut scratch = Buffer::uninitialised(expanded.len().max(middle.len()));
        let normal = &mut scratch[..middle.len()];
        norm.normalize(simd, middle, normal);
        let out = (&mut *expanded, sizes.expanded());
        product(simd, expand, normal, out, weights.expand.bias);
        let active = &mut scratch[..expanded.len() / sizes.mlp.parts()];
        activate(simd, (sizes.mlp, sizes.inner), expanded, active);
        let out = (&mut *output, hidden);
        product(simd, project, active, out, weights.project.bias);
        if let Some(masks) = masks {
            let rows = (&mut *output, hidden);
            masks.after_mlp.multiply_rows(simd, first, rows);
        }
        add(output, middle);
    }
}

/// Multiplies rows by a packed weight and adds the bias, if any.
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    packed: &Packed,
    rows: &[f32],
    (out, columns): (&mut [f32], usize),
    bias: Option<Weight<'_>>,
) {
    let count = out.len() / columns;
    let width = rows.len() / count.max(1);
    let initial = Initial::from(bias.map(Weight::f32));
    packed.multiply_rows(simd, (rows, width), (out, columns), count, initial);
}

#[inline(always)]
pub(super) fn add(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
