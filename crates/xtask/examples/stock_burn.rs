//! A training step as a user of Burn writes it, from the modules of `burn::nn` and Burn's own
//! AdamW, for `cargo xtask bench peers`. Burn clips each tensor by itself; it has no global norm.
//!
//! ```text
//! cargo build --profile peers -p xtask --features peers --example stock_burn
//! RAYON_NUM_THREADS=2 target/peers/examples/stock_burn lstm-128 10 0
//! ```

use std::convert::Infallible;
use std::error::Error;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::attention::generate_autoregressive_mask;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{
    Embedding, EmbeddingConfig, Gru, GruConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    Lstm, LstmConfig, LstmState, Rnn, RnnConfig, RnnState,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};

mod workload;

use workload::{Cell, LEARNING_RATE, VOCABULARY, Workload};

#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are two of them, and a module cannot be boxed"
)]
enum Layer {
    Rnn(Rnn),
    Lstm(Lstm),
    Gru(Gru),
}

impl Layer {
    fn new(cell: Cell, hidden: usize, device: &Device) -> Layer {
        match cell {
            Cell::Rnn => Layer::Rnn(RnnConfig::new(hidden, hidden, true).init(device)),
            Cell::Lstm => Layer::Lstm(LstmConfig::new(hidden, hidden, true).init(device)),
            Cell::Gru => Layer::Gru(GruConfig::new(hidden, hidden, true).init(device)),
            Cell::Transformer => unreachable!("a Transformer has no recurrent layer"),
        }
    }

    /// `[batch, time, hidden]` to the same, and the state after the last step: one tensor or two.
    fn forward(&self, x: Tensor<3>, state: Option<Vec<Tensor<2>>>) -> (Tensor<3>, Vec<Tensor<2>>) {
        let mut state = state.into_iter().flatten();
        let first = state.next();
        match self {
            Layer::Rnn(layer) => {
                let (y, state) = layer.forward(x, first.map(RnnState::new));
                (y, vec![state.hidden])
            }
            Layer::Lstm(layer) => {
                let state = first
                    .zip(state.next())
                    .map(|(cell, hidden)| LstmState::new(cell, hidden));
                let (y, state) = layer.forward(x, state);
                (y, vec![state.cell, state.hidden])
            }
            Layer::Gru(layer) => {
                let y = layer.forward(x, first);
                let [_, time, _] = y.dims();
                let last = y.clone().narrow(1, time - 1, 1).squeeze_dim::<2>(1);
                (y, vec![last])
            }
        }
    }
}

#[derive(Module, Debug)]
struct Recurrent {
    embedding: Embedding,
    layers: Vec<Layer>,
    output: Linear,
}

impl Recurrent {
    fn new(work: &Workload, device: &Device) -> Recurrent {
        Recurrent {
            embedding: EmbeddingConfig::new(VOCABULARY, work.hidden).init(device),
            layers: (0..work.layers)
                .map(|_| Layer::new(work.cell, work.hidden, device))
                .collect(),
            output: LinearConfig::new(work.hidden, VOCABULARY).init(device),
        }
    }

    /// Logits `[batch, time, vocabulary]`; the states are replaced by those after the window.
    fn forward(&self, tokens: Tensor<2, Int>, states: &mut [Option<Vec<Tensor<2>>>]) -> Tensor<3> {
        let mut x = self.embedding.forward(tokens);
        for (layer, state) in self.layers.iter().zip(states) {
            let (y, after) = layer.forward(x, state.take());
            *state = Some(after.into_iter().map(Tensor::detach).collect());
            x = y;
        }
        self.output.forward(x)
    }
}

#[derive(Module, Debug)]
struct Transformer {
    tokens: Embedding,
    positions: Embedding,
    blocks: TransformerEncoder,
    norm: LayerNorm,
    output: Linear,
}

impl Transformer {
    fn new(work: &Workload, device: &Device) -> Transformer {
        let blocks =
            TransformerEncoderConfig::new(work.hidden, 4 * work.hidden, work.heads, work.layers)
                .with_dropout(work.dropout)
                .with_norm_first(true);
        Transformer {
            tokens: EmbeddingConfig::new(VOCABULARY, work.hidden).init(device),
            positions: EmbeddingConfig::new(work.window, work.hidden).init(device),
            blocks: blocks.init(device),
            norm: LayerNormConfig::new(work.hidden).init(device),
            output: LinearConfig::new(work.hidden, VOCABULARY)
                .with_bias(false)
                .init(device),
        }
    }

    /// Logits `[batch, time, vocabulary]`.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let ([batch, time], device) = (tokens.dims(), tokens.device());
        let positions = Tensor::arange(0..time as i64, &device).unsqueeze_dim::<2>(0); // [1, time]
        let x = self.tokens.forward(tokens) + self.positions.forward(positions);
        let mask = generate_autoregressive_mask(batch, time, &device);
        let x = self
            .blocks
            .forward(TransformerEncoderInput::new(x).mask_attn(mask));
        self.output.forward(self.norm.forward(x))
    }
}

/// Times steps of any module: `forward` gives the logits.
fn train<M: Module + 'static>(
    work: &Workload,
    device: &Device,
    model: M,
    optimizer: &AdamWConfig,
    mut forward: impl FnMut(&M, Tensor<2, Int>) -> Tensor<3>,
) -> Result<(), Box<dyn Error>> {
    let (inputs, targets) = work.tokens();
    let integers = |tokens: Vec<u32>| tokens.into_iter().map(i64::from).collect::<Vec<_>>();
    let shape = [work.batch, work.window];
    let inputs = TensorData::new(integers(inputs), shape);
    let targets = TensorData::new(integers(targets), [work.batch * work.window]);
    let cross_entropy: CrossEntropyLoss = CrossEntropyLossConfig::new().init(device);
    let mut optimizer = optimizer.init();
    let mut model = Some(model);
    work.measure(|| {
        let current = model.take().expect("every step puts the model back");
        let logits = forward(&current, Tensor::from_data(inputs.clone(), device));
        let targets = Tensor::from_data(targets.clone(), device);
        let loss = cross_entropy.forward(logits.flatten::<2>(0, 1), targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &current);
        model = Some(optimizer.step(LEARNING_RATE, current, gradients));
        // As everywhere in this comparison, a step ends with its loss as a number.
        loss.into_scalar::<f32>();
        Ok::<(), Infallible>(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let work = Workload::from_arguments()?;
    let device = Device::flex().autodiff();
    let optimizer = |decay, threshold| {
        AdamWConfig::new()
            .with_weight_decay(decay)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(threshold)))
    };
    if work.cell == Cell::Transformer {
        let model = Transformer::new(&work, &device);
        let optimizer = optimizer(0.1, 1.0);
        return train(&work, &device, model, &optimizer, Transformer::forward);
    }
    let model = Recurrent::new(&work, &device);
    let mut states = vec![None; work.layers];
    let forward = |model: &Recurrent, tokens| model.forward(tokens, &mut states);
    train(&work, &device, model, &optimizer(0.0, 5.0), forward)
}
