//! The plan of a run: every setting, fully resolved.
//!
//! Each setting is defined here, once. `resolve` builds a plan from given settings, `stored` reads
//! and writes `plan.toml`, and `change` handles resumed runs with changed settings.

mod belonging;
mod change;
mod places;
mod preset;
mod resolve;
mod setting;
mod stored;

use std::path::PathBuf;
use std::sync::LazyLock;

use gradclip::{ClipPolicy, NonFinite};
use shears_data::{Encoding, Tokenizer, TokenizerKind};
use shears_model::{
    Architecture, BlockConfig, Mlp, ModelConfig, Nonlinearity, Norm, Position, Precision,
};
use shears_run::Change;

use crate::optimizer::{OptimizerKind, OptimizerSettings};
use crate::schedule::{Schedule, ScheduleKind};

use belonging::{
    ADAM, ADAPTIVE, FACTOR, FALLING, LSTM, MANY, MANY_STEPS, MOMENTUM, NORMAL, NOT_NEGATIVE,
    POSITIVE, RECURRENT, RMSPROP, RNN, ROPE, SKIP, STEP, TRANSFORMER,
};
use preset::global_norm;
use setting::{SettingValue, outside, settings};

pub use preset::Preset;
pub use setting::{BelongsTo, Section, Setting};
pub use stored::{Difference, compare_plans};

settings! {
    /// Preset to start from
    ///
    /// The -128 presets have char-rnn's shape (Karpathy 2015); gpt-128 and gpt-384 are nanoGPT's
    /// configurations for a CPU and for a GPU (Karpathy 2022). llama-128 and llama-384 have as many
    /// parameters as these, in Llama's block (Touvron et al. 2023).
    preset: Preset {
        section: Model, value: "NAME", default: Preset::Lstm128, transformer: Preset::Gpt128,
    }

    /// Text files or folders; `-` is standard input; without any, a built-in text (Cicero, 49 kB)
    ///
    /// UTF-8 unless `--encoding` is given. A folder means all .txt, .text and .md files in and
    /// below it, in path order. The last tenth of the characters is held out for validation.
    text: Vec<PathBuf> { section: Text, value: "TEXT", default: Vec::new() }

    /// Validation text, instead of the last tenth of the text
    val: Option<PathBuf> { section: Text, value: "FILE", default: None }

    /// Encoding of the texts: utf-8, utf-16, latin1, windows-1252, ...
    ///
    /// The names are those of browsers (WHATWG). A run stores and writes UTF-8.
    encoding: Encoding { section: Text, value: "NAME", default: Encoding::UTF_8, is_later: true }

    /// How text becomes tokens: byte, char, bpe:N, or a Hugging Face tokenizer.json
    ///
    /// `byte`: 256 symbols, for text and any other file. `char`: the characters of the text.
    /// `bpe:N`: a byte-level BPE of N tokens, trained on the training text. A path: that tokenizer.
    tokenizer: TokenizerKind { section: Text, value: "KIND", default: TokenizerKind::Char }

    /// Accept a tokenizer that loses more than 1 % of the text's characters
    ///
    /// Some tokenizers drop unknown characters or change letters. Bits per character then refer to
    /// the altered text.
    lossy: bool { section: Text, value: "BOOL", default: false, is_later: true }

    /// Model to start from: a run, a Hugging Face folder of GPT-2 or Llama, a checkpoint of nanoGPT
    /// or of a PyTorch RNN, LSTM or GRU
    ///
    /// The model's shape and tokenizer come from the source; optimizer and steps start anew. From a
    /// run it takes the best checkpoint. What `shears export` writes is read, too, except for GGUF.
    /// The run records the SHA-256 of the source's files and no longer needs them after its first
    /// checkpoint.
    init_from: Option<PathBuf> { section: Model, value: "SOURCE", default: None }

    /// Kind of model
    model: Architecture {
        section: Model, value: "KIND", default: Architecture::Lstm,
        transformer: Architecture::Transformer,
    }

    /// Recurrent layers or Transformer blocks
    layers: usize { section: Model, value: "N", default: 2, transformer: 4, range: 1..=1_000 }

    /// Width of the hidden state, or of the Transformer
    hidden: usize { section: Model, value: "N", default: 128, range: 1..=1_000_000 }

    /// Width of the token embedding
    embedding: usize {
        section: Model, value: "N", default: 128, unless: "--hidden if given",
        range: 1..=1_000_000, belongs_to: RECURRENT,
    }

    /// Attention heads
    heads: usize {
        section: Model, value: "N", default: 4, range: 1..=10_000, belongs_to: TRANSFORMER,
    }

    /// Key and value heads, each shared by equally many adjacent query heads; 0: as many as query
    /// heads
    ///
    /// Fewer heads take less memory and time in generation (Ainslie et al. 2023).
    kv_heads: usize {
        section: Model, value: "N", default: 0, range: 0..=10_000, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Norm before attention and MLP, and after the last block
    norm: Norm {
        section: Model, value: "KIND", default: Norm::Layer, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Added to the variance or mean square in the Transformer's norms
    norm_epsilon: f64 {
        section: Model, value: "X", default: 1e-5, range: NORMAL, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Position encoding, a learned vector per position or rotary queries and keys
    position: Position {
        section: Model, value: "KIND", default: Position::Learned, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Base of the rotary angles
    rope_theta: f64 {
        section: Model, value: "X", default: 10_000.0, range: POSITIVE, belongs_to: ROPE,
        is_later: true,
    }

    /// Activation of the MLP
    ///
    /// `gelu` is the exact one. `gelu-tanh` approximates it to within 0.0005; OpenAI's GPT-2
    /// weights need it. `swiglu` is Llama's, with a gate.
    mlp: Mlp {
        section: Model, value: "KIND", default: Mlp::Gelu, belongs_to: TRANSFORMER, is_later: true,
    }

    /// Width of the MLP; 0: 4 times `hidden`, or with swiglu 8/3 times, rounded up to a multiple of
    /// 32
    inner: usize {
        section: Model, value: "N", default: 0, range: 0..=10_000_000, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Biases in the Transformer's linear layers and layer norms
    bias: bool {
        section: Model, value: "BOOL", default: true, belongs_to: TRANSFORMER, is_later: true,
    }

    /// Longest context of the Transformer in tokens, at least the window; 0: the window
    context: usize {
        section: Model, value: "N", default: 0, range: 0..=MANY as usize, belongs_to: TRANSFORMER,
        is_later: true,
    }

    /// Dropout probability
    dropout: f64 { section: Model, value: "P", default: 0.0, range: 0.0..1.0 }

    /// Share the embedding's weights with the output layer
    tied: bool { section: Model, value: "BOOL", default: false, transformer: true }

    /// Initialize the forget gate's bias to 1
    forget_bias: bool { section: Model, value: "BOOL", default: false, belongs_to: LSTM }

    /// Activation of the recurrent layers
    nonlinearity: Nonlinearity {
        section: Model, value: "NAME", default: Nonlinearity::Tanh, belongs_to: RNN,
    }

    /// Precision of matrix products with weights
    ///
    /// With bf16, factors are rounded to bfloat16 and products summed in f32: faster on processors
    /// with AMX or AVX512-BF16. Parameters, moments, gradients and clipping stay f32; no loss scale
    /// is needed. Generation reads weights in bf16 and everything else in f32.
    precision: Precision { section: Model, value: "NAME", default: Precision::F32, is_later: true }

    /// Sequences per micro-batch
    batch: usize {
        section: Batches, value: "N", default: 50, transformer: 12, range: 1..=MANY as usize,
    }

    /// Tokens per sequence
    window: usize {
        section: Batches, value: "N", default: 50, transformer: 64, range: 1..=MANY as usize,
    }

    /// Micro-batches per update; their gradients are averaged, then clipped once
    accumulate: usize { section: Batches, value: "N", default: 1, range: 1..=MANY as usize }

    /// Groups of rows whose gradients are computed one by one and summed as a tree
    ///
    /// A power of two, at most the batch. The run has the same bits with every number of processes
    /// that divides it, such as 1, 2, 4 and 8 with 8; smaller groups take longer. With 1, the
    /// results of different numbers of processes differ by rounding. See docs/parallel.md.
    shards: usize { section: Batches, value: "N", default: 1, range: 1..=1024, is_later: true }

    /// Update rule
    ///
    /// PyTorch's formulas and defaults. AdamW decays matrices only, not biases and norms.
    optimizer: OptimizerKind {
        section: Optimizer, value: "NAME", default: OptimizerKind::Adam,
        transformer: OptimizerKind::AdamW,
    }

    /// Peak learning rate
    lr: f64 {
        section: Optimizer, value: "RATE", default: 2e-3, transformer: 1e-3, range: POSITIVE,
        may_change: true,
    }

    /// Momentum factor
    momentum: f64 {
        section: Optimizer, value: "X", default: 0.9, range: 0.0..1.0, belongs_to: MOMENTUM,
    }

    /// Use Nesterov momentum
    nesterov: bool { section: Optimizer, value: "BOOL", default: false, belongs_to: MOMENTUM }

    /// Decay of the mean square
    alpha: f64 {
        section: Optimizer, value: "X", default: 0.99, range: 0.0..1.0, belongs_to: RMSPROP,
    }

    /// Decay of the first moment
    beta1: f64 { section: Optimizer, value: "X", default: 0.9, range: 0.0..1.0, belongs_to: ADAM }

    /// Decay of the second moment
    beta2: f64 {
        section: Optimizer, value: "X", default: 0.999, transformer: 0.99, range: 0.0..1.0,
        belongs_to: ADAM,
    }

    /// Added to the denominator
    epsilon: f64 {
        section: Optimizer, value: "X", default: 1e-8, range: NORMAL, belongs_to: ADAPTIVE,
    }

    /// Weight decay
    weight_decay: f64 {
        section: Optimizer, value: "X", default: 0.0, transformer: 0.1,
        unless: "with an optimizer other than the preset's 0, or 0.01 for adamw",
        range: NOT_NEGATIVE,
    }

    /// Learning rate schedule
    schedule: ScheduleKind {
        section: Schedule, value: "NAME", default: ScheduleKind::Constant,
        transformer: ScheduleKind::Cosine,
    }

    /// Updates over which the learning rate rises to its peak
    warmup: u64 { section: Schedule, value: "N", default: 0, transformer: 100 }

    /// Final rate of cosine and linear, and lower bound of step
    min_lr: f64 {
        section: Schedule, value: "RATE", default: 0.0, transformer: 1e-4, range: NOT_NEGATIVE,
        belongs_to: FALLING, may_change: true,
    }

    /// Updates between decays
    decay_every: u64 {
        section: Schedule, value: "N", default: 1000, range: 1..=MANY_STEPS, belongs_to: STEP,
    }

    /// Factor per decay
    decay_factor: f64 {
        section: Schedule, value: "X", default: 0.5, range: FACTOR, belongs_to: STEP,
    }

    /// Clipping policy: none, value:C, norm:C[,p=P], global-norm:C[,p=P]
    ///
    /// `global-norm:C` scales the whole gradient to norm C if its norm is greater (Pascanu et al.
    /// 2013). `norm:C` does so per tensor, and `value:C` clamps each element; both change the
    /// direction. `p=P` selects the p-norm, with P above 0 or `inf`. The defaults are common:
    /// published recurrent models use thresholds from 0.2 to 10, char-rnn and Zaremba et al. 5;
    /// nearly every Transformer uses 1. CLIPPING.md has all others (agc, autoclip, zclip, adagc,
    /// median, skip, ...), chains and thresholds that change.
    clip: ClipPolicy {
        section: Clipping, value: "POLICY", default: global_norm(5.0),
        transformer: global_norm(1.0), may_change: true,
    }

    /// Rule for gradients with NaN or infinite elements: error, skip, zero
    ///
    /// `skip` skips the step: parameters, moments and schedule keep their bits. `zero` zeroes those
    /// elements. `error` ends the run.
    non_finite: NonFinite { section: Clipping, value: "RULE", default: NonFinite::Skip }

    /// Consecutive steps with non-finite gradients after which the run stops with exit code 3
    max_skips: u64 {
        section: Clipping, value: "N", default: 10, range: 1..=MANY, belongs_to: SKIP,
        may_change: true,
    }

    /// Steps of the run
    steps: u64 {
        section: Run, value: "N", default: 2000, unless: "300 with neither a text nor --preset",
        range: 1..=MANY_STEPS, may_change: true,
    }

    /// Seed of weights, data order and dropout
    seed: u64 { section: Run, value: "N", default: 1 }

    /// Steps between evaluations on the whole validation text; 0: only at the end
    eval_every: u64 {
        section: Run, value: "N", default: 500, unless: "100 with neither a text nor --preset",
        may_change: true,
    }

    /// Validation tokens per evaluation, from the first on; 0: all
    ///
    /// Fewer tokens make evaluations faster, and the best checkpoint is the best on these tokens.
    /// The last evaluation of a run always reads all.
    eval_tokens: u64 { section: Run, value: "N", default: 0, may_change: true, is_later: true }

    /// Steps between checkpoints; 0: only at the end
    save_every: u64 { section: Run, value: "N", default: 250, may_change: true }

    /// Steps between samples of text; 0: only at the end
    sample_every: u64 { section: Run, value: "N", default: 0, may_change: true }

    /// Evaluations without improvement after which the run stops; 0: never
    patience: u64 { section: Run, value: "N", default: 0, may_change: true }

    /// Newest checkpoints to keep, besides the best one
    ///
    /// At least 2, so that a crash during a replacement leaves one.
    keep: usize { section: Run, value: "N", default: 3, range: 2..=MANY as usize, may_change: true }

    /// Compute device: cpu
    device: String { section: Run, value: "NAME", default: "cpu".to_string() }
}

/// An invalid setting or combination of settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    message: String,
    setting: Option<String>,
}

impl PlanError {
    /// An error about several settings.
    pub fn new(message: impl Into<String>) -> Self {
        PlanError {
            message: message.into(),
            setting: None,
        }
    }

    /// An error about one setting, which the message names.
    pub fn about(setting: &str, message: String) -> Self {
        PlanError {
            message,
            setting: Some(setting.to_string()),
        }
    }

    /// The setting to change, if it is a single one.
    pub fn setting(&self) -> Option<&str> {
        self.setting.as_deref()
    }
}

impl Plan {
    /// The format of new plans. In format 1, which `plan.toml` omits, recurrent models never read
    /// the ends of their streams ([`shears_data::StreamBatches::dropping_ends`]).
    pub const FORMAT: u32 = 2;

    /// All settings, in the order of `plan.toml`.
    pub fn settings() -> &'static [Setting] {
        static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(table_of_settings);
        &SETTINGS
    }

    /// The setting with this name.
    pub fn setting(name: &str) -> Option<&'static Setting> {
        Plan::settings().iter().find(|setting| setting.name == name)
    }

    /// The model's part of the plan.
    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            architecture: self.model,
            layers: self.layers,
            hidden: self.hidden,
            embedding: self.embedding,
            heads: self.heads,
            block: BlockConfig {
                norm: self.norm,
                norm_epsilon: self.norm_epsilon,
                position: self.position,
                rope_theta: self.rope_theta,
                mlp: self.mlp,
                inner: self.inner,
                kv_heads: self.kv_heads,
                bias: self.bias,
            },
            context: self.context(),
            dropout: self.dropout,
            tied: self.tied,
            forget_bias: self.forget_bias,
            nonlinearity: self.nonlinearity,
            precision: self.precision,
        }
    }

    /// The context length of a Transformer in tokens.
    pub fn context(&self) -> usize {
        match self.context {
            0 => self.window,
            context => context,
        }
    }

    /// Rows of the model's embedding with this tokenizer.
    pub fn vocabulary_of(&self, tokenizer: &Tokenizer) -> usize {
        self.vocabulary.max(tokenizer.vocab_size())
    }

    /// The optimizer's part of the plan.
    pub fn optimizer_settings(&self) -> OptimizerSettings {
        OptimizerSettings {
            kind: self.optimizer,
            momentum: self.momentum,
            nesterov: self.nesterov,
            alpha: self.alpha,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        }
    }

    /// The learning rate's part of the plan.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            kind: self.schedule,
            lr: self.lr,
            min_lr: self.min_lr,
            warmup: self.warmup,
            steps: self.steps,
            decay_every: self.decay_every,
            decay_factor: self.decay_factor,
        }
    }

    /// Tokens per step.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.window * self.accumulate
    }

    /// Whether the text is read from standard input.
    pub fn reads_standard_input(&self) -> bool {
        self.text.iter().any(|path| path.as_os_str() == "-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_setting_is_named() {
        let error = |change: fn(&mut Plan)| {
            let mut plan = Preset::Lstm128.plan();
            change(&mut plan);
            plan.validate().unwrap_err().to_string()
        };
        assert!(error(|plan| plan.lr = f64::NAN).starts_with("lr is NaN"));
        assert!(error(|plan| plan.lr = -1.0).starts_with("lr is -1"));
        assert!(error(|plan| plan.steps = 0).starts_with("steps is 0"));
        assert!(error(|plan| plan.keep = 1).starts_with("keep is 1; it must be from 2"));
        assert!(error(|plan| plan.beta2 = 1.0).starts_with("beta2 is 1"));
        assert!(error(|plan| plan.layers = 0).starts_with("layers is 0"));
        assert!(error(|plan| plan.layers = 1_000_000_000).starts_with("layers"));
        assert!(error(|plan| plan.window = 1 << 40).starts_with("window"));
        for bad in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            let plan = Plan {
                dropout: bad,
                ..Preset::Lstm128.plan()
            };
            let error = plan.validate().unwrap_err().to_string();
            assert!(error.starts_with("dropout"), "{error}");
        }
        assert!(error(|plan| plan.device = "tpu".into()).contains("no device `tpu`"));
        let lowest = |plan: &mut Plan| {
            plan.schedule = ScheduleKind::Linear;
            plan.min_lr = 1.0;
        };
        assert!(error(lowest).starts_with("min-lr is 1"));
        // A constant schedule has no minimum.
        let constant = Plan {
            min_lr: 1.0,
            ..Preset::Lstm128.plan()
        };
        constant.validate().unwrap();
    }

    #[test]
    fn ranges_are_printed() {
        let said = |range: belonging::RealRange| outside(&f64::NAN, range);
        assert_eq!(said(POSITIVE).unwrap(), "above 0 and finite");
        assert_eq!(said(NOT_NEGATIVE).unwrap(), "at least 0 and finite");
        assert_eq!(said(FACTOR).unwrap(), "above 0 and at most 1");
        assert_eq!(outside(&1.0, 0.0..1.0).unwrap(), "at least 0 and below 1");
        assert_eq!(outside(&0, 1..=9).unwrap(), "from 1 to 9");
        assert_eq!(outside(&1, 1..=9), None);
    }
}
