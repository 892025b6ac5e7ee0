//! A Transformer of pre-norm blocks with causal self-attention. By default it is GPT-2 (Radford et
//! al. 2019); with RMSNorm, rotary positions, SwiGLU and no biases it is Llama (Touvron et al.
//! 2023). Both use GPT-2's initialisation with scaled residual projections.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use shears_kernels::{
    BlockSettings, BlockWeights, Dropout, EMBEDDING_SITE, KeysAndValues, TransformerDecoder,
    TransformerWeights, embedding, transformer_block,
};

use crate::config::{BlockConfig, ModelConfig, Position, Precision};
use crate::language_model::{Decoder, LanguageModel, Reading, State, Stateful};
use crate::layers::{
    Embedding, Initializer, Linear, Normalization, Output, dropout, last_step, store_in, with_bias,
};

/// A language model of GPT-2's or Llama's architecture.
#[derive(Module, Debug)]
pub struct Transformer {
    token_embedding: Embedding,
    position_embedding: Option<Embedding>,
    blocks: Vec<Block>,
    final_norm: Normalization,
    output: Output,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    block: BlockConfig,
    #[module(skip)]
    context: usize,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    precision: Precision,
}

#[derive(Module, Debug)]
struct Block {
    norm_1: Normalization,
    attention: Attention,
    norm_2: Normalization,
    mlp: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    /// Queries, keys and values, in this order, in one product.
    qkv: Linear,
    projection: Linear,
}

#[derive(Module, Debug)]
struct FeedForward {
    /// With a gate, the gate comes first.
    expand: Linear,
    project: Linear,
}

impl Transformer {
    /// Creates a model for `vocabulary` tokens, with GPT-2's initialisation.
    pub fn new(vocabulary: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let hidden = config.hidden;
        let position = config.block.position;
        let embedding = |rows, initializer: &mut Initializer| Embedding {
            weight: initializer.normal([rows, hidden], std(config)),
        };
        Transformer {
            token_embedding: embedding(vocabulary, initializer),
            position_embedding: (position == Position::Learned)
                .then(|| embedding(config.context, initializer)),
            blocks: (0..config.layers)
                .map(|_| Block::new(config, initializer))
                .collect(),
            final_norm: Normalization::new(hidden, &config.block, initializer),
            output: Output {
                weight: (!config.tied)
                    .then(|| initializer.normal([vocabulary, hidden], std(config))),
                bias: None,
            },
            heads: config.heads,
            kv_heads: config.kv_heads(),
            block: config.block,
            context: config.context,
            dropout: config.dropout,
            precision: config.precision,
        }
    }

    fn settings(&self, index: usize, dropout: Option<Dropout>) -> BlockSettings {
        let is_rotary = self.block.position == Position::Rope;
        BlockSettings {
            heads: self.heads,
            kv_heads: self.kv_heads,
            index,
            norm: self.block.norm(),
            rope_theta: is_rotary.then_some(self.block.rope_theta),
            mlp: self.block.mlp.into(),
            dropout,
            precision: self.precision.into(),
        }
    }

    /// The hidden states `[batch, time, hidden]` after the tokens `[batch, time]`. The state holds
    /// the keys and values of earlier calls; those of this call are appended if it `keeps` them.
    fn hidden_states(
        &self,
        tokens: Tensor<2, Int>,
        mut state: State,
        keeps: bool,
    ) -> (Tensor<3>, State) {
        let [_, time] = tokens.dims();
        let (start, end) = (state.position, state.position + time);
        assert!(
            end <= self.context,
            "{end} tokens do not fit in a context of {}",
            self.context
        );
        let positions = self.position_embedding.as_ref();
        let positions = positions.map(|positions| (positions.weight.val(), start));
        let x = embedding(tokens, self.token_embedding.weight.val(), positions);
        let dropped = state.dropout(self.dropout);
        let mut x = dropout(x, dropped, EMBEDDING_SITE);
        for (index, block) in self.blocks.iter().enumerate() {
            let settings = self.settings(index, dropped);
            x = block.forward(x, settings, &mut state, keeps); // [batch, time, hidden]
        }
        state.position = end;
        (self.final_norm.forward(x), state)
    }
}

impl LanguageModel for Transformer {
    /// # Panics
    ///
    /// If the text exceeds the context, which callers must prevent.
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let (hidden, state) = self.hidden_states(tokens, state, true);
        let logits = self.output.forward(hidden, &self.token_embedding);
        (logits, state) // [batch, time, vocabulary]
    }

    /// # Panics
    ///
    /// As [`Transformer::forward`].
    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        let (hidden, state) = self.hidden_states(tokens, state, true);
        let last = last_step(hidden, 1);
        (self.output.forward(last, &self.token_embedding), state)
    }

    /// # Panics
    ///
    /// As [`Transformer::forward`].
    fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: State,
    ) -> (Tensor<1>, State) {
        // Windows are read whole: no later call needs their keys and values, which an evaluation
        // would hold for all blocks at once.
        let (hidden, state) = self.hidden_states(tokens, state, false);
        let loss = self
            .output
            .loss(hidden, &self.token_embedding, targets, self.precision);
        (loss, state)
    }

    fn decoder<'a>(&'a self, device: &Device) -> Box<dyn Decoder + 'a> {
        let positions = self.position_embedding.as_ref();
        let weights = TransformerWeights {
            embedding: self.token_embedding.weight.val().into_dispatch(),
            positions: positions.map(|table| table.weight.val().into_dispatch()),
            blocks: self.blocks.iter().map(Block::weights).collect(),
            norm: with_bias(&self.final_norm.weight, self.final_norm.bias.as_ref()),
            output: self.output.parameters(&self.token_embedding),
        };
        match TransformerDecoder::new(weights, self.settings(0, None)) {
            Some(decoder) => Box::new(decoder),
            None => Box::new(Stateful::new(self, device)),
        }
    }

    fn for_generation(self) -> Self {
        let precision = self.precision;
        // The embedding is not converted: its rows are looked up, even if it is also the output
        // weight.
        Transformer {
            blocks: store_in(precision, self.blocks),
            output: store_in(precision, self.output),
            ..self
        }
    }

    fn reading(&self) -> Reading {
        Reading::Windows {
            context: self.context,
        }
    }
}

impl Block {
    fn new(config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let (hidden, inner) = (config.hidden, config.inner());
        let bias = config.block.bias;
        let norm =
            |initializer: &mut Initializer| Normalization::new(hidden, &config.block, initializer);
        let linear = |inputs, outputs, std, initializer: &mut Initializer| Linear {
            weight: initializer.normal([outputs, inputs], std),
            bias: bias.then(|| initializer.constant([outputs], 0.0)),
        };
        Block {
            norm_1: norm(initializer),
            attention: Attention {
                qkv: linear(hidden, config.qkv(), std(config), initializer),
                projection: linear(hidden, hidden, residual_std(config), initializer),
            },
            norm_2: norm(initializer),
            mlp: FeedForward {
                expand: linear(hidden, config.expanded(), std(config), initializer),
                project: linear(inner, hidden, residual_std(config), initializer),
            },
        }
    }

    fn weights(&self) -> BlockWeights {
        let norm = |of: &Normalization| with_bias(&of.weight, of.bias.as_ref());
        let linear = |of: &Linear| with_bias(&of.weight, of.bias.as_ref());
        BlockWeights {
            norm_1: norm(&self.norm_1),
            qkv: linear(&self.attention.qkv),
            projection: linear(&self.attention.projection),
            norm_2: norm(&self.norm_2),
            expand: linear(&self.mlp.expand),
            project: linear(&self.mlp.project),
        }
    }

    /// `[batch, time, hidden]` to `[batch, time, hidden]`.
    fn forward(
        &self,
        x: Tensor<3>,
        settings: BlockSettings,
        state: &mut State,
        keeps: bool,
    ) -> Tensor<3> {
        let names = ["key", "value"].map(|name| format!("blocks.{}.{name}", settings.index));
        let [key, value] = names;
        let earlier = state.tensors.remove(&key).zip(state.tensors.remove(&value));
        let earlier = earlier.map(|(keys, values)| KeysAndValues { keys, values });
        let (x, all) = transformer_block(x, self.weights(), settings, earlier);
        if keeps {
            state.tensors.insert(key, all.keys);
            state.tensors.insert(value, all.values);
        }
        x
    }
}

/// GPT-2's standard deviation of initial weights, 0.02 at width 768, scaled to keep the variance of
/// a product, a sum of `hidden` terms, independent of the width. Unscaled, 0.02 is far too small
/// for a narrow model (`LOG.md`).
fn std(config: &ModelConfig) -> f64 {
    0.02 * (768.0 / config.hidden as f64).sqrt()
}

/// The residual stream sums two projections per block; this keeps its initial variance independent
/// of the depth (Radford et al. 2019, section 2.3).
fn residual_std(config: &ModelConfig) -> f64 {
    std(config) / (2.0 * config.layers as f64).sqrt()
}
