//! A Transformer of GPT-2's shape (Radford et al. 2019): pre-norm blocks, learned positions,
//! exact GELU, causal self-attention, GPT-2's initialisation with scaled residual projections.

use burn::module::Module;
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, s};

use crate::config::ModelConfig;
use crate::language_model::{LanguageModel, Reading, State};
use crate::layers::{Embedding, Initializer, LayerNorm, Linear, Output, dropout};

/// A GPT-2-shaped text generator.
#[derive(Module, Debug)]
pub struct Transformer {
    token_embedding: Embedding,
    position_embedding: Embedding,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    output: Output,
    #[module(skip)]
    context: usize,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Block {
    norm_1: LayerNorm,
    attention: Attention,
    norm_2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Attention {
    /// Queries, keys and values in one product: `[3 hidden, hidden]`.
    qkv: Linear,
    projection: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Mlp {
    expand: Linear,
    project: Linear,
}

impl Transformer {
    /// A new model for `vocabulary` tokens, with GPT-2's initialisation.
    pub fn new(vocabulary: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let hidden = config.hidden;
        let embedding = |rows, initializer: &mut Initializer| Embedding {
            weight: initializer.normal([rows, hidden], std(config)),
        };
        Transformer {
            token_embedding: embedding(vocabulary, initializer),
            position_embedding: embedding(config.context, initializer),
            blocks: (0..config.layers)
                .map(|_| Block::new(config, initializer))
                .collect(),
            final_norm: LayerNorm::new(hidden, initializer),
            output: Output {
                weight: (!config.tied)
                    .then(|| initializer.normal([vocabulary, hidden], std(config))),
                bias: None,
            },
            context: config.context,
            dropout: config.dropout,
        }
    }
}

impl LanguageModel for Transformer {
    /// # Panics
    ///
    /// If the text grows longer than the context: the caller cuts it.
    fn forward(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [_, time] = tokens.dims();
        let device = tokens.device();
        let (start, end) = (state.position, state.position + time);
        assert!(
            end <= self.context,
            "{end} tokens do not fit in a context of {}",
            self.context
        );

        let positions = Tensor::<1, Int>::arange(start as i64..end as i64, &device);
        let positions = self.position_embedding.forward(positions.unsqueeze_dim(0)); // [1, time, hidden]
        let embedded = self.token_embedding.forward(tokens) + positions; // [batch, time, hidden]
        let mut x = dropout(embedded, self.dropout);
        let hidden_future = future_mask(start, time, &device); // [1, time, end]
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &hidden_future, index, &mut state);
        }
        let x = self.final_norm.forward(x); // [batch, time, hidden]
        let logits = self.output.forward(x, &self.token_embedding);
        state.position = end;
        (logits, state) // [batch, time, vocabulary]
    }

    fn reading(&self) -> Reading {
        Reading::Windows {
            context: self.context,
        }
    }
}

impl Block {
    fn new(config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let hidden = config.hidden;
        Block {
            norm_1: LayerNorm::new(hidden, initializer),
            attention: Attention {
                qkv: normal_linear(hidden, 3 * hidden, std(config), initializer),
                projection: normal_linear(hidden, hidden, residual_std(config), initializer),
                heads: config.heads,
                dropout: config.dropout,
            },
            norm_2: LayerNorm::new(hidden, initializer),
            mlp: Mlp {
                expand: normal_linear(hidden, 4 * hidden, std(config), initializer),
                project: normal_linear(4 * hidden, hidden, residual_std(config), initializer),
            },
            dropout: config.dropout,
        }
    }

    /// `[batch, time, hidden]` to `[batch, time, hidden]`.
    fn forward(
        &self,
        x: Tensor<3>,
        future: &Tensor<3, Bool>,
        index: usize,
        state: &mut State,
    ) -> Tensor<3> {
        let attended = self
            .attention
            .forward(self.norm_1.forward(x.clone()), future, index, state);
        let x = x + dropout(attended, self.dropout);
        let expanded = gelu(self.mlp.expand.forward(self.norm_2.forward(x.clone()))); // [batch, time, 4 hidden]
        x + dropout(self.mlp.project.forward(expanded), self.dropout)
    }
}

impl Attention {
    /// `[batch, time, hidden]` to `[batch, time, hidden]`; the keys and values of earlier calls
    /// are in the state, and those of this call are added to it.
    fn forward(
        &self,
        x: Tensor<3>,
        future: &Tensor<3, Bool>,
        index: usize,
        state: &mut State,
    ) -> Tensor<3> {
        let [batch, time, hidden] = x.dims();
        let head = hidden / self.heads;
        let qkv = self.qkv.forward(x); // [batch, time, 3 hidden]
        let part = |n: usize| {
            let part = qkv.clone().slice(s![.., .., n * hidden..(n + 1) * hidden]);
            let part = part
                .reshape([batch, time, self.heads, head])
                .swap_dims(1, 2);
            part.reshape([batch * self.heads, time, head])
        };
        let query = part(0); // [batch * heads, time, head]
        let key = extend(state, format!("blocks.{index}.key"), part(1)); // [batch * heads, end, head]
        let value = extend(state, format!("blocks.{index}.value"), part(2));

        let scores = query.matmul(key.swap_dims(1, 2)) / (head as f64).sqrt(); // [batch * heads, time, end]
        let [rows, _, end] = scores.dims();
        let scores = scores.mask_fill(future.clone().expand([rows, time, end]), f32::NEG_INFINITY);
        let weights = dropout(softmax(scores, 2), self.dropout);
        let mixed = weights.matmul(value); // [batch * heads, time, head]
        let mixed = mixed
            .reshape([batch, self.heads, time, head])
            .swap_dims(1, 2);
        self.projection
            .forward(mixed.reshape([batch, time, hidden]))
    }
}

/// GPT-2's standard deviation of initial weights, 0.02 at its width of 768, carried to other widths:
/// a product sums `hidden` terms, so that its variance stays the same. Taken as it is, 0.02 is far
/// too small for a narrow model (`LOG.md`).
fn std(config: &ModelConfig) -> f64 {
    0.02 * (768.0 / config.hidden as f64).sqrt()
}

/// A residual path is the sum of two projections a block: their initial variance adds up to one
/// block's whatever the depth (Radford et al. 2019, section 2.3).
fn residual_std(config: &ModelConfig) -> f64 {
    std(config) / (2.0 * config.layers as f64).sqrt()
}

fn normal_linear(inputs: usize, outputs: usize, std: f64, initializer: &mut Initializer) -> Linear {
    Linear {
        weight: initializer.normal([outputs, inputs], std),
        bias: Some(initializer.constant([outputs], 0.0)),
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

/// Appends to the entry of that name along time, and gives the whole.
fn extend(state: &mut State, name: String, new: Tensor<3>) -> Tensor<3> {
    let whole = match state.tensors.remove(&name) {
        Some(earlier) => Tensor::cat(vec![earlier, new], 1),
        None => new,
    };
    state.tensors.insert(name, whole.clone());
    whole
}
