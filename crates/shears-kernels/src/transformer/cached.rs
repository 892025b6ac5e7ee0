//! A block outside training, with a cache of the keys and values of earlier positions.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::DType;
use pulp::{Simd, WithSimd};

use super::activation::activate;
use super::forward::{
    Block, LinearSlices, Rotation, Sizes, add, after_attention, queries_keys_values,
};
use super::rope::Direction;
use crate::attention::{self, Attention, Rows};
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::matmul::{Initial, Weight, product_of_few_rows};
use crate::norm::Normalize;
use crate::tensor::sizes as sizes_of;

/// Computes the output, and the keys and values of all positions. The cache grows in place if it
/// has no other owner.
pub(super) fn forward_cached(
    block: Block<'_>,
    earlier: [FlexTensor; 2],
) -> (Buffer, [FlexTensor; 2]) {
    let Block { cpu, sizes, .. } = block;
    if sizes.is_one_position() {
        return one_position(block, earlier);
    }
    let qkv = queries_keys_values(block);
    let [queries, keys, values] = sizes.split_qkv(&qkv);
    let [earlier_keys, earlier_values] = earlier;
    let keys = extend(earlier_keys, sizes, keys);
    let values = extend(earlier_values, sizes, values);
    let attention = with_past(sizes, &keys);
    let mut mixed = Buffer::uninitialised(sizes.rows() * sizes.hidden);
    let mut softmax = Buffer::uninitialised(2 * sizes.rows() * sizes.heads);
    let parts = [queries, rows_of(&keys, sizes), rows_of(&values, sizes)];
    attention::forward(cpu, attention, parts, &mut mixed, &mut softmax);
    let after = after_attention(block, &mixed);
    (after.output, [keys, values])
}

/// One position of a few sequences. Reads each weight once, unpacked.
fn one_position(block: Block<'_>, [keys, values]: [FlexTensor; 2]) -> (Buffer, [FlexTensor; 2]) {
    let Block {
        cpu,
        sizes,
        x,
        weights,
        rotation,
        ..
    } = block;
    let Sizes { hidden, inner, .. } = sizes;
    let [norm_1, norm_2] = block.norms();
    let rows = sizes.rows();
    let mut qkv = Buffer::uninitialised(rows * sizes.qkv());
    let mut normal = Buffer::uninitialised(rows * hidden);
    cpu.run(Normalize {
        input: x,
        norm: norm_1,
        output: &mut normal,
    });
    product(cpu, weights.qkv, (&normal, rows), &mut qkv);
    if let Some(rotation) = rotation {
        cpu.run(Rotate(rotation, sizes, &mut qkv));
    }
    let [queries, new_keys, new_values] = sizes.split_qkv(&qkv);
    let keys = extend(keys, sizes, new_keys);
    let values = extend(values, sizes, new_values);
    let mut mixed = Buffer::uninitialised(rows * hidden);
    let parts = [queries, rows_of(&keys, sizes), rows_of(&values, sizes)];
    attention::single(cpu, with_past(sizes, &keys), parts, &mut mixed);
    let mut middle = Buffer::uninitialised(rows * hidden);
    product(cpu, weights.projection, (&mixed, rows), &mut middle);
    add(&mut middle, x);
    cpu.run(Normalize {
        input: &middle,
        norm: norm_2,
        output: &mut normal,
    });
    let mut expanded = Buffer::uninitialised(rows * sizes.expanded());
    product(cpu, weights.expand, (&normal, rows), &mut expanded);
    let mut active = Buffer::uninitialised(rows * inner);
    cpu.run(Activate(sizes, &expanded, &mut active));
    let mut output = Buffer::uninitialised(rows * hidden);
    product(cpu, weights.project, (&active, rows), &mut output);
    add(&mut output, &middle);
    (output, [keys, values])
}

struct Rotate<'a>(Rotation<'a>, Sizes, &'a mut [f32]);

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Rotate(rotation, sizes, qkv) = self;
        let rotated = (qkv, sizes.qkv(), sizes.hidden + sizes.keys());
        rotation.rotate(simd, 0, rotated, Direction::Forward);
    }
}

struct Activate<'a>(Sizes, &'a [f32], &'a mut [f32]);

impl WithSimd for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        activate(simd, (self.0.mlp, self.0.inner), self.1, self.2);
    }
}

/// Multiplies rows by a weight and adds the bias, if any.
fn product(cpu: Cpu, linear: LinearSlices<'_>, x: (&[f32], usize), y: &mut [f32]) {
    let outputs = y.len() / x.1.max(1);
    let initial = Initial::from(linear.bias.map(Weight::f32));
    product_of_few_rows(cpu, (linear.weight, outputs), x, (y, outputs), initial);
}

fn with_past(sizes: Sizes, keys: &FlexTensor) -> Attention {
    let [_, end, _] = sizes_of(keys);
    Attention {
        past: end - sizes.time,
        ..sizes.attention(None)
    }
}

/// The rows of a tensor returned by [`extend`].
fn rows_of(all: &FlexTensor, sizes: Sizes) -> Rows<'_> {
    let strides = all.layout().strides();
    Rows {
        elements: all.storage(),
        row: strides[1] as usize,
        batch: strides[0] as usize,
        heads: sizes.kv_heads,
    }
}

/// Appends new rows to earlier ones `[batch, past, width]`. A new buffer has twice the capacity
/// needed, so that a row is copied only a few times as a sequence grows.
fn extend(earlier: FlexTensor, sizes: Sizes, new: Rows<'_>) -> FlexTensor {
    let [batch, past, width] = sizes_of(&earlier);
    let end = past + sizes.time;
    let mut all = reserve(earlier, end);
    let stride = all.layout().strides()[0] as usize;
    let elements = all.try_storage_mut::<f32>();
    let elements = elements.expect("`reserve` returns a tensor with a single owner");
    for element in 0..batch {
        for time in 0..sizes.time {
            let row = &new.elements[element * new.batch + time * new.row..][..width];
            elements[element * stride + (past + time) * width..][..width].copy_from_slice(row);
        }
    }
    let strides = all.layout().strides().to_vec();
    let layout = Layout::new([batch, end, width].into(), strides, 0);
    all.with_layout(layout)
}

/// The rows in a buffer with capacity for `end` rows: the same buffer, if it has the capacity and a
/// single owner.
fn reserve(rows: FlexTensor, end: usize) -> FlexTensor {
    let [batch, past, width] = sizes_of(&rows);
    let layout = rows.layout();
    let strides = layout.strides();
    let in_order = strides[1] == width as isize && strides[2] == 1 && layout.start_offset() == 0;
    let capacity = match batch {
        1 => rows.bytes().len() / size_of::<f32>() / width.max(1),
        _ => strides[0] as usize / width.max(1),
    };
    if in_order && capacity >= end && rows.is_unique() {
        return rows;
    }
    let capacity = (2 * end).next_multiple_of(64);
    // The remaining rows are written before they are read.
    let mut larger = Buffer::uninitialised(batch * capacity * width);
    let first = layout.start_offset();
    let elements = rows.storage::<f32>();
    for element in 0..batch {
        for time in 0..past {
            let start = first + element * strides[0] as usize + time * strides[1] as usize;
            let row = &elements[start..start + width];
            larger[(element * capacity + time) * width..][..width].copy_from_slice(row);
        }
    }
    debug_assert_eq!(rows.dtype(), DType::F32);
    let strides = vec![(capacity * width) as isize, width as isize, 1];
    let layout = Layout::new([batch, past, width].into(), strides, 0);
    larger
        .into_tensor([batch, capacity, width])
        .with_layout(layout)
}
