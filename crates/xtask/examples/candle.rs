//! A training step as a user of Candle writes it, from the modules of `candle_nn` and its AdamW,
//! for `cargo xtask bench peers`. Candle has no clipping, so that this step does less than the
//! others.
//!
//! ```text
//! cargo build --profile peers -p xtask --features peers --example candle
//! RAYON_NUM_THREADS=2 target/peers/examples/candle lstm-128 10 0
//! ```

use std::error::Error;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::ops::{layer_norm_slow, softmax};
use candle_nn::rnn::{GRU, GRUState, LSTM, LSTMState, RNN};
use candle_nn::{
    AdamW, Dropout, Embedding, Init, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap,
    embedding, linear, linear_no_bias,
};

mod workload;

use workload::{Cell, LEARNING_RATE, VOCABULARY, Workload};

enum Layer {
    Lstm(LSTM, Option<LSTMState>),
    Gru(GRU, Option<GRUState>),
}

impl Layer {
    fn new(cell: Cell, hidden: usize, vars: VarBuilder) -> Result<Layer> {
        match cell {
            Cell::Lstm => Ok(Layer::Lstm(
                candle_nn::lstm(hidden, hidden, Default::default(), vars)?,
                None,
            )),
            Cell::Gru => Ok(Layer::Gru(
                candle_nn::gru(hidden, hidden, Default::default(), vars)?,
                None,
            )),
            Cell::Rnn => candle_core::bail!("candle_nn has no vanilla RNN"),
            Cell::Transformer => candle_core::bail!("a Transformer has no recurrent layer"),
        }
    }

    /// `[batch, time, hidden]` to the same; the state after the window is kept for the next.
    fn forward(&mut self, x: &Tensor) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let hidden = match self {
            Layer::Lstm(layer, state) => {
                let start = state.take().map_or_else(|| layer.zero_state(batch), Ok)?;
                let states = layer.seq_init(x, &start)?;
                *state = states
                    .last()
                    .map(|last| LSTMState::new(last.h().detach(), last.c().detach()));
                states.into_iter().map(|state| state.h).collect::<Vec<_>>()
            }
            Layer::Gru(layer, state) => {
                let start = state.take().map_or_else(|| layer.zero_state(batch), Ok)?;
                let states = layer.seq_init(x, &start)?;
                *state = states.last().map(|last| GRUState {
                    h: last.h().detach(),
                });
                states.into_iter().map(|state| state.h).collect()
            }
        };
        Tensor::stack(&hidden, 1)
    }
}

struct Recurrent {
    embedding: Embedding,
    layers: Vec<Layer>,
    output: Linear,
}

impl Recurrent {
    fn new(work: &Workload, vars: VarBuilder) -> Result<Recurrent> {
        let layers = (0..work.layers)
            .map(|index| Layer::new(work.cell, work.hidden, vars.pp(index)))
            .collect::<Result<_>>()?;
        Ok(Recurrent {
            embedding: embedding(VOCABULARY, work.hidden, vars.pp("embedding"))?,
            layers,
            output: linear(work.hidden, VOCABULARY, vars.pp("output"))?,
        })
    }

    /// Logits `[batch, time, vocabulary]`.
    fn forward(&mut self, tokens: &Tensor) -> Result<Tensor> {
        let mut x = self.embedding.forward(tokens)?;
        for layer in &mut self.layers {
            x = layer.forward(&x)?;
        }
        self.output.forward(&x)
    }
}

/// `candle_nn::LayerNorm` takes a path without gradients for contiguous inputs, so that training
/// needs the composition beside it.
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn new(width: usize, vars: VarBuilder) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: vars.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vars.get_with_hints(width, "bias", Init::Const(0.0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

struct Block {
    norm_1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    norm_2: LayerNorm,
    expand: Linear,
    project: Linear,
    heads: usize,
    dropout: Option<Dropout>,
}

impl Block {
    fn new(work: &Workload, vars: VarBuilder) -> Result<Block> {
        let width = work.hidden;
        Ok(Block {
            norm_1: LayerNorm::new(width, vars.pp("norm_1"))?,
            qkv: linear(width, 3 * width, vars.pp("qkv"))?,
            projection: linear(width, width, vars.pp("projection"))?,
            norm_2: LayerNorm::new(width, vars.pp("norm_2"))?,
            expand: linear(width, 4 * width, vars.pp("expand"))?,
            project: linear(4 * width, width, vars.pp("project"))?,
            heads: work.heads,
            dropout: dropout(work),
        })
    }

    /// `[batch, time, width]` to the same; the mask is minus infinity where the future is.
    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let attended = self.attend(&self.norm_1.forward(x)?, mask)?;
        let x = (x + drop_some(&self.dropout, attended)?)?;
        let expanded = self.expand.forward(&self.norm_2.forward(&x)?)?.gelu_erf()?;
        &x + drop_some(&self.dropout, self.project.forward(&expanded)?)?
    }

    fn attend(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, time, width) = x.dims3()?;
        let head = width / self.heads;
        let qkv = self
            .qkv
            .forward(x)?
            .reshape((batch, time, 3, self.heads, head))?;
        let part = |n: usize| {
            qkv.narrow(2, n, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };
        let scores = part(0)?.matmul(&part(1)?.t()?)?; // [batch, heads, time, time]
        let scores = (scores / (head as f64).sqrt())?.broadcast_add(mask)?;
        let weights = drop_some(&self.dropout, softmax(&scores, D::Minus1)?)?;
        let mixed = weights.matmul(&part(2)?)?.transpose(1, 2)?;
        self.projection
            .forward(&mixed.reshape((batch, time, width))?)
    }
}

/// Without dropout there are no such modules, as in a model written for it.
fn dropout(work: &Workload) -> Option<Dropout> {
    (work.dropout > 0.0).then(|| Dropout::new(work.dropout as f32))
}

fn drop_some(dropout: &Option<Dropout>, x: Tensor) -> Result<Tensor> {
    match dropout {
        Some(dropout) => dropout.forward(&x, true),
        None => Ok(x),
    }
}

struct Transformer {
    tokens: Embedding,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
    mask: Tensor,
    dropout: Option<Dropout>,
}

impl Transformer {
    fn new(work: &Workload, vars: VarBuilder) -> Result<Transformer> {
        let time = work.window;
        let future = |at: usize| {
            if at % time > at / time {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        };
        let mask: Vec<f32> = (0..time * time).map(future).collect();
        let blocks = (0..work.layers)
            .map(|index| Block::new(work, vars.pp(index)))
            .collect::<Result<_>>()?;
        let small = Init::Randn {
            mean: 0.0,
            stdev: 0.02,
        };
        Ok(Transformer {
            tokens: embedding(VOCABULARY, work.hidden, vars.pp("tokens"))?,
            positions: vars.get_with_hints((time, work.hidden), "positions", small)?,
            blocks,
            norm: LayerNorm::new(work.hidden, vars.pp("norm"))?,
            output: linear_no_bias(work.hidden, VOCABULARY, vars.pp("output"))?,
            mask: Tensor::from_vec(mask, (time, time), &Device::Cpu)?,
            dropout: dropout(work),
        })
    }

    /// Logits `[batch, time, vocabulary]`.
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let embedded = self
            .tokens
            .forward(tokens)?
            .broadcast_add(&self.positions)?;
        let mut x = drop_some(&self.dropout, embedded)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.mask)?;
        }
        self.output.forward(&self.norm.forward(&x)?)
    }
}

/// Times steps: `forward` gives the logits.
fn train(
    work: &Workload,
    vars: &VarMap,
    weight_decay: f64,
    mut forward: impl FnMut(&Tensor) -> Result<Tensor>,
) -> std::result::Result<(), Box<dyn Error>> {
    let (inputs, targets) = work.tokens();
    let mut optimizer = AdamW::new(
        vars.all_vars(),
        ParamsAdamW {
            lr: LEARNING_RATE,
            weight_decay,
            ..ParamsAdamW::default()
        },
    )?;
    let inputs = Tensor::from_vec(inputs, (work.batch, work.window), &Device::Cpu)?;
    let targets = Tensor::from_vec(targets, work.batch * work.window, &Device::Cpu)?;
    work.measure(|| {
        let logits = forward(&inputs)?.flatten_to(1)?;
        let loss = cross_entropy(&logits, &targets)?;
        optimizer.backward_step(&loss)?;
        // As everywhere in this comparison, a step ends with its loss as a number.
        loss.to_scalar::<f32>().map(drop)
    })
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let work = Workload::from_arguments()?;
    let vars = VarMap::new();
    let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    if work.cell == Cell::Transformer {
        let model = Transformer::new(&work, builder)?;
        return train(&work, &vars, 0.1, |tokens| model.forward(tokens));
    }
    let mut model = Recurrent::new(&work, builder)?;
    train(&work, &vars, 0.0, |tokens| model.forward(tokens))
}
