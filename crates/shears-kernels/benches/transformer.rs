//! Transformer blocks, in GFLOP/s; the benchmark `recurrent` measures the ceiling: `cargo bench -p
//! shears-kernels --bench transformer`. `RAYON_NUM_THREADS` sets the threads; "items" are the
//! floating-point operations of the matrix products, with the attention counted for half of all
//! pairs.

use burn::tensor::{Device, Tensor, TensorData};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use shears_kernels::{
    BlockSettings, BlockWeights, Dropout, DropoutKey, Mlp, Norm, Precision, WithBias, dropout,
    norm, transformer_block, transformer_block_plain,
};

fn main() {
    divan::main();
}

/// The shape of a preset; those of width 384 with a batch of 16.
#[derive(Clone, Copy, Debug)]
enum Preset {
    Gpt128,
    Gpt384,
    Llama128,
    Llama384,
}

const PRESETS: [Preset; 4] = [
    Preset::Gpt128,
    Preset::Gpt384,
    Preset::Llama128,
    Preset::Llama384,
];

impl Preset {
    /// Batch, time, hidden, heads.
    fn sizes(self) -> [usize; 4] {
        match self {
            Preset::Gpt128 | Preset::Llama128 => [12, 64, 128, 4],
            Preset::Gpt384 | Preset::Llama384 => [16, 256, 384, 6],
        }
    }

    fn is_llama(self) -> bool {
        matches!(self, Preset::Llama128 | Preset::Llama384)
    }

    /// Floating-point operations of the products of one forward pass, about the same for both
    /// blocks.
    fn operations(self) -> usize {
        let [batch, time, hidden, _] = self.sizes();
        let rows = batch * time;
        2 * rows * 12 * hidden * hidden + 2 * rows * time * hidden
    }

    fn settings(self, dropout: Option<Dropout>) -> BlockSettings {
        let [_, _, _, heads] = self.sizes();
        BlockSettings {
            precision: Precision::F32,
            heads,
            kv_heads: heads,
            norm: if self.is_llama() {
                Norm::RMS
            } else {
                Norm::LAYER
            },
            rope_theta: self.is_llama().then_some(10_000.0),
            mlp: if self.is_llama() {
                Mlp::Swiglu
            } else {
                Mlp::Gelu
            },
            index: 0,
            dropout,
        }
    }
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() * 0.05).collect();
    let tensor = Tensor::from_data(TensorData::new(values, shape), device);
    match device.is_autodiff() {
        true => tensor.require_grad(),
        false => tensor,
    }
}

fn weights(preset: Preset, device: &Device) -> BlockWeights {
    let [_, _, hidden, _] = preset.sizes();
    let (expanded, inner) = match preset {
        Preset::Gpt128 | Preset::Gpt384 => (4 * hidden, 4 * hidden),
        Preset::Llama128 => (704, 352),
        Preset::Llama384 => (2048, 1024),
    };
    let bias = |size| (!preset.is_llama()).then(|| tensor([size], device).into_dispatch());
    let linear = |outputs, inputs| WithBias {
        weight: tensor([outputs, inputs], device).into_dispatch(),
        bias: bias(outputs),
    };
    let norm = || WithBias {
        weight: tensor([hidden], device).into_dispatch(),
        bias: bias(hidden),
    };
    BlockWeights {
        norm_1: norm(),
        qkv: linear(3 * hidden, hidden),
        projection: linear(hidden, hidden),
        norm_2: norm(),
        expand: linear(expanded, hidden),
        project: linear(hidden, inner),
    }
}

fn a_fifth() -> Dropout {
    Dropout {
        key: DropoutKey::of([1, 2]),
        probability: 0.2,
    }
}

/// Forward and backward pass.
fn train(bencher: Bencher<'_, '_>, preset: Preset, dropout: Option<Dropout>, fused: bool) {
    let device = Device::flex().autodiff();
    let [batch, time, hidden, _] = preset.sizes();
    let x = tensor([batch, time, hidden], &device);
    let weights = weights(preset, &device);
    let settings = preset.settings(dropout);
    let run = match fused {
        true => transformer_block,
        false => transformer_block_plain,
    };
    bencher
        .counter(ItemsCount::new(3 * preset.operations()))
        .bench_local(|| {
            let (output, _) = run(x.clone(), weights.clone(), settings, None);
            black_box(output.sum().backward());
        });
}

#[divan::bench(args = PRESETS, sample_count = 20)]
fn block(bencher: Bencher<'_, '_>, preset: Preset) {
    train(bencher, preset, None, true);
}

#[divan::bench(args = PRESETS, sample_count = 20)]
fn block_with_dropout(bencher: Bencher<'_, '_>, preset: Preset) {
    train(bencher, preset, Some(a_fifth()), true);
}

#[divan::bench(args = [Preset::Gpt128], sample_count = 20)]
fn block_composed(bencher: Bencher<'_, '_>, preset: Preset) {
    train(bencher, preset, None, false);
}

#[divan::bench(args = PRESETS, sample_count = 20)]
fn block_forward(bencher: Bencher<'_, '_>, preset: Preset) {
    let device = Device::flex();
    let [batch, time, hidden, _] = preset.sizes();
    let x = tensor([batch, time, hidden], &device);
    let weights = weights(preset, &device);
    let settings = preset.settings(None);
    bencher
        .counter(ItemsCount::new(preset.operations()))
        .bench_local(|| {
            black_box(transformer_block(
                x.clone(),
                weights.clone(),
                settings,
                None,
            ))
        });
}

/// Token by token over the context; bytes are those of the weights, and of keys and values in the
/// middle of the context.
#[divan::bench(args = PRESETS)]
fn block_of_one_token(bencher: Bencher<'_, '_>, preset: Preset) {
    let device = Device::flex();
    let [_, time, hidden, _] = preset.sizes();
    let weights = weights(preset, &device);
    let settings = preset.settings(None);
    let x = tensor([1, 1, hidden], &device);
    let mut earlier = None;
    bencher
        .counter(BytesCount::new(4 * (12 * hidden * hidden + time * hidden)))
        .bench_local(|| {
            let carried = earlier.take();
            let (output, all) = transformer_block(x.clone(), weights.clone(), settings, carried);
            let [_, end, _] = all.keys.dims();
            earlier = (end < time).then_some(all);
            black_box(output)
        });
}

#[divan::bench(args = [128, 384])]
fn layer_norm(bencher: Bencher<'_, '_>, width: usize) {
    let device = Device::flex();
    let x = tensor([16, 256, width], &device);
    let vector = tensor([width], &device);
    bencher
        .counter(BytesCount::new(2 * 4 * 16 * 256 * width))
        .bench_local(|| {
            let bias = Some(vector.clone());
            black_box(norm(x.clone(), Norm::LAYER, vector.clone(), bias))
        });
}

#[divan::bench(args = [128, 384])]
fn masks(bencher: Bencher<'_, '_>, width: usize) {
    let device = Device::flex();
    let x = tensor([16, 256, width], &device);
    bencher
        .counter(BytesCount::new(2 * 4 * 16 * 256 * width))
        .bench_local(|| black_box(dropout(x.clone(), a_fifth(), 0)));
}
