//! The block composed of Burn's operations: the fallback for other devices, and the reference for
//! tests.

use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::activation::{gelu, gelu_approximate, silu, softmax};
use burn::tensor::module::linear;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, s};

use super::rope::angle;
use super::{BlockSettings, BlockWeights, KeysAndValues, Mlp, WithBias};
use crate::dropout::dropout_plain;
use crate::norm::norm_plain;

/// [`super::transformer_block`] composed of Burn's operations, on any device and in any precision.
pub fn transformer_block_plain(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: Option<KeysAndValues>,
) -> (Tensor<3>, KeysAndValues) {
    let [_, _, hidden] = x.dims();
    let normal = norm(x.clone(), weights.norm_1, settings);
    let qkv = product(normal, weights.qkv); // [batch, time, hidden + 2 keys]
    let (mixed, all) = attention(qkv, hidden, settings, earlier); // [batch, time, hidden]
    let attended = product(mixed, weights.projection);
    let middle = x + dropped(attended, settings, 1);
    let inner = weights.project.weight.shape()[1];
    let normal = norm(middle.clone(), weights.norm_2, settings);
    let expanded = product(normal, weights.expand);
    let active = match settings.mlp {
        Mlp::Gelu => gelu(expanded),
        Mlp::GeluTanh => gelu_approximate(expanded),
        Mlp::Swiglu => {
            let gate = expanded.clone().slice(s![.., .., ..inner]);
            silu(gate) * expanded.slice(s![.., .., inner..])
        }
    }; // [batch, time, inner]
    let output = middle + dropped(product(active, weights.project), settings, 2);
    (output, all)
}

/// Queries, keys and values `[batch, time, hidden + 2 keys]` to `[batch, time, hidden]`.
fn attention(
    qkv: Tensor<3>,
    hidden: usize,
    settings: BlockSettings,
    earlier: Option<KeysAndValues>,
) -> (Tensor<3>, KeysAndValues) {
    let [batch, time, _] = qkv.dims();
    let (heads, kv_heads) = (settings.heads, settings.kv_heads);
    let head = hidden / heads;
    let narrow = kv_heads * head;
    let part = |first: usize, width: usize| qkv.clone().slice(s![.., .., first..first + width]);
    let start = earlier.as_ref().map_or(0, |earlier| earlier.keys.dims()[1]);
    let rotate = |rows: Tensor<3>| match settings.rope_theta {
        Some(theta) => rotated(rows, head, start, theta),
        None => rows,
    };
    let queries = rotate(part(0, hidden));
    let (keys, values) = (rotate(part(hidden, narrow)), part(hidden + narrow, narrow));
    let (keys, values) = match earlier {
        Some(earlier) => (
            Tensor::cat(vec![earlier.keys, keys], 1),
            Tensor::cat(vec![earlier.values, values], 1),
        ),
        None => (keys, values),
    };
    let all = KeysAndValues {
        keys: keys.clone().detach(),
        values: values.clone().detach(),
    };
    let [_, end, _] = keys.dims();
    // Key heads are repeated for each query head that reads them.
    let split = |rows: Tensor<3>, count: usize| {
        let [_, time, _] = rows.dims();
        let rows = rows.reshape([batch, time, count, 1, head]);
        let rows = rows.expand([batch, time, count, heads / count, head]);
        let rows = rows.reshape([batch, time, heads, head]).swap_dims(1, 2);
        rows.reshape([batch * heads, time, head])
    };
    let queries = split(queries, heads);
    let (keys, values) = (split(keys, kv_heads), split(values, kv_heads));
    // [batch * heads, time, end]
    let scores = queries.matmul(keys.swap_dims(1, 2)) / (head as f64).sqrt();
    let future = future_mask(end - time, time, &scores.device());
    let future = future.expand([batch * heads, time, end]);
    let weights = softmax(scores.mask_fill(future, f32::NEG_INFINITY), 2);
    let mixed = dropped(weights, settings, 0).matmul(values); // [batch * heads, time, head]
    let mixed = mixed.reshape([batch, heads, time, head]).swap_dims(1, 2);
    (mixed.reshape([batch, time, hidden]), all)
}

/// Rotates each head of rows `[batch, time, heads x width]`, with the first row at position
/// `start`.
fn rotated(rows: Tensor<3>, width: usize, start: usize, theta: f64) -> Tensor<3> {
    let [batch, time, all] = rows.dims();
    let half = width / 2;
    let factors = |function: fn(f64) -> f64| {
        let positions = start..start + time;
        let values = positions.flat_map(|position| {
            (0..half).map(move |pair| function(angle(position, pair, width, theta)))
        });
        let data = TensorData::new(values.collect::<Vec<f64>>(), [1, time, 1, half]);
        let options = (&rows.device(), rows.dtype());
        Tensor::<4>::from_data(data, options).expand([batch, time, all / width, half])
    };
    let (cosines, sines) = (factors(f64::cos), factors(f64::sin));
    let heads = rows.reshape([batch, time, all / width, width]);
    let left = heads.clone().slice(s![.., .., .., ..half]);
    let right = heads.slice(s![.., .., .., half..]);
    let halves = vec![
        left.clone() * cosines.clone() - right.clone() * sines.clone(),
        right * cosines + left * sines,
    ];
    Tensor::cat(halves, 3).reshape([batch, time, all])
}

fn product(input: Tensor<3>, with: WithBias<DispatchTensor>) -> Tensor<3> {
    let weight = Tensor::<2>::from_dispatch(with.weight);
    linear(
        input,
        weight.transpose(),
        with.bias.map(Tensor::from_dispatch),
    )
}

fn norm(input: Tensor<3>, with: WithBias<DispatchTensor>, settings: BlockSettings) -> Tensor<3> {
    let weight = Tensor::from_dispatch(with.weight);
    norm_plain(
        input,
        settings.norm,
        weight,
        with.bias.map(Tensor::from_dispatch),
    )
}

fn dropped(input: Tensor<3>, settings: BlockSettings, which: u32) -> Tensor<3> {
    match settings.dropout {
        Some(dropout) => dropout_plain(input, dropout, settings.site(which)),
        None => input,
    }
}

/// `[1, time, end]`: true for masked, that is later, positions.
fn future_mask(start: usize, time: usize, device: &Device) -> Tensor<3, Bool> {
    let end = start + time;
    let rows = Tensor::<1, Int>::arange(start as i64..end as i64, device).reshape([time, 1]);
    let columns = Tensor::<1, Int>::arange(0..end as i64, device).reshape([1, end]);
    let mask: Tensor<2, Bool> = columns
        .expand([time, end])
        .greater(rows.expand([time, end]));
    mask.unsqueeze_dim(0)
}
