//! The same block in Burn's own operations: what every other device computes, and what the kernels
//! are compared with.

use burn::tensor::activation::{gelu, gelu_approximate, softmax};
use burn::tensor::module::linear;
use burn::tensor::{Bool, Device, Int, Tensor, s};

use super::{BlockSettings, BlockWeights, KeysAndValues, Mlp, WithBias};
use crate::dropout::dropout_plain;
use crate::layer_norm::layer_norm_plain;

/// [`super::transformer_block`] in Burn's own operations, on any device and in any precision.
pub fn transformer_block_plain(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: Option<KeysAndValues>,
) -> (Tensor<3>, KeysAndValues) {
    let qkv = product(norm(x.clone(), weights.norm_1), weights.qkv); // [batch, time, 3 hidden]
    let (mixed, all) = attention(qkv, settings, earlier); // [batch, time, hidden]
    let attended = product(mixed, weights.projection);
    let middle = x + dropped(attended, settings, 1);
    let expanded = product(norm(middle.clone(), weights.norm_2), weights.expand);
    let active = match settings.mlp {
        Mlp::Gelu => gelu(expanded),
        Mlp::GeluTanh => gelu_approximate(expanded),
    }; // [batch, time, inner]
    let output = middle + dropped(product(active, weights.project), settings, 2);
    (output, all)
}

/// Queries, keys and values `[batch, time, 3 hidden]` to `[batch, time, hidden]`.
fn attention(
    qkv: Tensor<3>,
    settings: BlockSettings,
    earlier: Option<KeysAndValues>,
) -> (Tensor<3>, KeysAndValues) {
    let [batch, time, width] = qkv.dims();
    let (hidden, heads) = (width / 3, settings.heads);
    let head = hidden / heads;
    let part = |n: usize| qkv.clone().slice(s![.., .., n * hidden..(n + 1) * hidden]);
    let (keys, values) = match earlier {
        Some(earlier) => (
            Tensor::cat(vec![earlier.keys, part(1)], 1),
            Tensor::cat(vec![earlier.values, part(2)], 1),
        ),
        None => (part(1), part(2)),
    };
    let all = KeysAndValues {
        keys: keys.clone().detach(),
        values: values.clone().detach(),
    };
    let [_, end, _] = keys.dims();
    let split = |rows: Tensor<3>| {
        let [_, time, _] = rows.dims();
        let rows = rows.reshape([batch, time, heads, head]).swap_dims(1, 2);
        rows.reshape([batch * heads, time, head])
    };
    let (query, keys, values) = (split(part(0)), split(keys), split(values));
    // [batch * heads, time, end]
    let scores = query.matmul(keys.swap_dims(1, 2)) / (head as f64).sqrt();
    let future = future_mask(end - time, time, &scores.device());
    let future = future.expand([batch * heads, time, end]);
    let weights = softmax(scores.mask_fill(future, f32::NEG_INFINITY), 2);
    let mixed = dropped(weights, settings, 0).matmul(values); // [batch * heads, time, head]
    let mixed = mixed.reshape([batch, heads, time, head]).swap_dims(1, 2);
    (mixed.reshape([batch, time, hidden]), all)
}

fn product(input: Tensor<3>, with: WithBias<Tensor<2>, Tensor<1>>) -> Tensor<3> {
    linear(input, with.weight.transpose(), Some(with.bias))
}

fn norm(input: Tensor<3>, with: WithBias<Tensor<1>>) -> Tensor<3> {
    layer_norm_plain(input, with.weight, with.bias)
}

fn dropped(input: Tensor<3>, settings: BlockSettings, which: u32) -> Tensor<3> {
    match settings.dropout {
        Some(dropout) => dropout_plain(input, dropout, settings.site(which)),
        None => input,
    }
}

/// `[1, time, end]`: true where a position must not look, which is at any later one.
fn future_mask(start: usize, time: usize, device: &Device) -> Tensor<3, Bool> {
    let end = start + time;
    let rows = Tensor::<1, Int>::arange(start as i64..end as i64, device).reshape([time, 1]);
    let columns = Tensor::<1, Int>::arange(0..end as i64, device).reshape([1, end]);
    let mask: Tensor<2, Bool> = columns
        .expand([time, end])
        .greater(rows.expand([time, end]));
    mask.unsqueeze_dim(0)
}
