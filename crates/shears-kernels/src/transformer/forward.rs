//! From the input of a block to its output.

use pulp::{Simd, WithSimd};

use super::activation::activate;
use super::rope::{RotaryTable, Turn};
use super::{BlockOf, Masks, Mlp, WithBias};
use crate::attention::{self, Attention, Rows};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::matmul::{FEW_ROWS, Initial, Packed, Weight};
use crate::norm::{Norm, NormSlices};

/// Sizes of a block, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) time: usize,
    pub(super) hidden: usize,
    /// Width of the perceptron.
    pub(super) inner: usize,
    pub(super) heads: usize,
    /// Heads of keys and values.
    pub(super) kv_heads: usize,
    pub(super) norm: Norm,
    pub(super) mlp: Mlp,
}

impl Sizes {
    pub(super) fn rows(self) -> usize {
        self.batch * self.time
    }

    /// Width of a head.
    pub(super) fn head(self) -> usize {
        self.hidden / self.heads
    }

    /// Width of all heads of keys, or of values, together.
    pub(super) fn keys(self) -> usize {
        self.kv_heads * self.head()
    }

    /// Width of queries, keys and values together.
    pub(super) fn qkv(self) -> usize {
        self.hidden + 2 * self.keys()
    }

    /// Width of what goes into the activation.
    pub(super) fn expanded(self) -> usize {
        self.inner * self.mlp.parts()
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
            width: self.head(),
            mask: masks.map(|masks| masks.attention),
        }
    }

    /// Queries, keys and values as the first product leaves them.
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

/// All parameters as slices.
pub(super) type BlockSlices<'a> = BlockOf<Weight<'a>, &'a [f32]>;

/// All that a block reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) cpu: Cpu,
    pub(super) sizes: Sizes,
    /// `[rows, hidden]`
    pub(super) x: &'a [f32],
    pub(super) weights: BlockSlices<'a>,
    pub(super) masks: Option<Masks>,
    pub(super) rotation: Option<Rotation<'a>>,
}

impl<'a> Block<'a> {
    /// The norms before the attention and before the perceptron.
    pub(super) fn norms(self) -> [NormSlices<'a>; 2] {
        [self.weights.norm_1, self.weights.norm_2].map(|of| NormSlices {
            norm: self.sizes.norm,
            weight: of.weight,
            bias: of.bias,
        })
    }
}

/// How queries and keys are turned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation<'a> {
    pub(super) table: &'a RotaryTable,
    /// The position of the first row of each text, and how many follow it.
    pub(super) start: usize,
    pub(super) time: usize,
}

impl Rotation<'_> {
    /// Turns the first `turned` elements of rows of `width`, the first of which has this number.
    #[inline(always)]
    pub(super) fn turn<S: Simd>(
        self,
        simd: S,
        first: usize,
        (rows, width, turned): (&mut [f32], usize, usize),
        turn: Turn,
    ) {
        for (row, values) in rows.chunks_exact_mut(width).enumerate() {
            let position = self.start + (first + row) % self.time;
            self.table.turn(simd, position, &mut values[..turned], turn);
        }
    }
}

/// The result of the forward pass.
#[derive(Debug)]
pub(super) struct Pass {
    /// `[rows, hidden + 2 keys]`
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
    /// What goes into the activation `[rows, inner]`, with a gate `[rows, 2 inner]`.
    pub(super) expanded: Buffer,
}

/// All of a block, for a text that begins with `x`.
pub(super) fn forward(block: Block<'_>) -> Pass {
    let Block {
        cpu, sizes, masks, ..
    } = block;
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

/// What the pass over the rows after the attention gives; see [`Saved`] and [`Pass`].
pub(super) struct AfterAttention {
    middle: Buffer,
    expanded: Buffer,
    pub(super) output: Buffer,
}

/// Everything after the attention, whose result is `mixed`.
pub(super) fn after_attention(block: Block<'_>, mixed: &[f32]) -> AfterAttention {
    let Block {
        cpu,
        sizes,
        x,
        weights,
        ..
    } = block;
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

/// The first norm and the product that follows.
pub(super) fn queries_keys_values(block: Block<'_>) -> Buffer {
    let Block {
        cpu,
        sizes,
        weights,
        ..
    } = block;
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
        let Block {
            sizes,
            weights,
            rotation,
            ..
        } = self.block;
        let [norm, _] = self.block.norms();
        let mut normal = Buffer::uninitialised(self.x.len());
        norm.normalize(simd, self.x, &mut normal);
        let width = sizes.qkv();
        let out = (&mut *self.out, width);
        product(simd, self.packed, &normal, out, weights.qkv.bias);
        if let Some(rotation) = rotation {
            let turned = (self.out, width, sizes.hidden + sizes.keys());
            rotation.turn(simd, self.first, turned, Turn::Forward);
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
        let Block {
            sizes,
            weights,
            masks,
            ..
        } = self.block;
        let [_, norm] = self.block.norms();
        let hidden = sizes.hidden;
        let out = (&mut *middle, hidden);
        product(simd, projection, self.mixed, out, weights.projection.bias);
        if let Some(masks) = masks {
            for (row, values) in middle.chunks_exact_mut(hidden).enumerate() {
                masks.after_attention.apply(simd, first + row, values);
            }
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
            for (row, values) in output.chunks_exact_mut(hidden).enumerate() {
                masks.after_perceptron.apply(simd, first + row, values);
            }
        }
        add(output, middle);
    }
}

/// Rows times a packed weight, plus a bias if there is one.
#[inline(always)]
fn product<S: Simd>(
    simd: S,
    packed: &Packed,
    rows: &[f32],
    (out, columns): (&mut [f32], usize),
    bias: Option<&[f32]>,
) {
    let count = out.len() / columns;
    let width = rows.len() / count.max(1);
    let initial = Initial::from(bias);
    packed.multiply_rows(simd, (rows, width), (out, columns), count, initial);
}

#[inline(always)]
pub(super) fn add(to: &mut [f32], values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
