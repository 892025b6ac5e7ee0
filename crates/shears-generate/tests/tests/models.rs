//! Models for tests: small random ones, one that counts its reads, and one that follows a script.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use shears_generate::SamplingSettings;
use shears_model::{
    Architecture, BlockConfig, Initializer, LanguageModel, ModelConfig, Nonlinearity, Precision,
    Reading, State, Transformer,
};

pub(crate) const PLAIN: SamplingSettings = SamplingSettings::at(1.0);
pub(crate) const GREEDY: SamplingSettings = SamplingSettings::at(0.0);

pub(crate) const VOCABULARY: usize = 11;

pub(crate) fn config(architecture: Architecture, context: usize) -> ModelConfig {
    ModelConfig {
        architecture,
        layers: 2,
        hidden: 12,
        embedding: 8,
        heads: 3,
        block: BlockConfig::default(),
        context,
        dropout: 0.5,
        tied: false,
        forget_bias: true,
        nonlinearity: Nonlinearity::Tanh,
        precision: Precision::F32,
    }
}

/// A small model with random weights.
pub(crate) fn random<M>(
    new: impl Fn(usize, &ModelConfig, &mut Initializer) -> M,
    architecture: Architecture,
    context: usize,
) -> M {
    let mut initializer = Initializer::new(3, &Device::default());
    new(VOCABULARY, &config(architecture, context), &mut initializer)
}

/// A small random Transformer with Llama's block and a single key-value head.
pub(crate) fn llama(context: usize) -> Transformer {
    let new = |vocabulary, config: &ModelConfig, initializer: &mut Initializer| {
        let config = ModelConfig {
            block: BlockConfig::llama(1),
            ..config.clone()
        };
        Transformer::new(vocabulary, &config, initializer)
    };
    random(new, Architecture::Transformer, context)
}

/// Counts the tokens that its inner model reads.
#[derive(Module, Debug)]
pub(crate) struct Counting<M: Module> {
    inner: M,
    #[module(skip)]
    reads: Arc<AtomicUsize>,
}

impl<M: Module> Counting<M> {
    pub(crate) fn new(inner: M) -> Self {
        Counting {
            inner,
            reads: Arc::default(),
        }
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl<M: LanguageModel + burn::module::ModuleDisplay> LanguageModel for Counting<M> {
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        self.reads.fetch_add(batch * time, Ordering::Relaxed);
        self.inner.forward(tokens, state)
    }

    fn reading(&self) -> Reading {
        self.inner.reading()
    }
}

/// Predicts one given token, then returns NaN.
#[derive(Module, Debug)]
pub(crate) struct Broken {
    before: Scripted,
}

impl Broken {
    pub(crate) fn after(token: u32) -> Self {
        let before = Scripted::new(&[token], 256);
        Broken { before }
    }
}

impl LanguageModel for Broken {
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        let is_first = state.position == 0;
        let (logits, state) = self.before.forward(tokens, state);
        (if is_first { logits } else { logits * f32::NAN }, state)
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}

/// Predicts the next token of its script with certainty, whatever it reads.
#[derive(Module, Debug)]
pub(crate) struct Scripted {
    #[module(skip)]
    script: Vec<u32>,
    #[module(skip)]
    vocabulary: usize,
}

impl Scripted {
    pub(crate) fn new(script: &[u32], vocabulary: usize) -> Self {
        Scripted {
            script: script.to_vec(),
            vocabulary,
        }
    }
}

impl LanguageModel for Scripted {
    fn forward(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [_, time] = tokens.dims();
        let mut logits = vec![0.0_f32; time * self.vocabulary];
        for step in 0..time {
            // The start token is at position 0, and the script follows it.
            let next = self.script.get(state.position + step).copied().unwrap_or(0);
            logits[step * self.vocabulary + next as usize] = 100.0;
        }
        state.position += time;
        let logits = TensorData::new(logits, [1, time, self.vocabulary]);
        (Tensor::from_data(logits, &tokens.device()), state)
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}
