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

use toml::Table;

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
    /// Complete setting to start from
    ///
    /// Those of 128 are char-rnn's shape (Karpathy 2015); gpt-128 is nanoGPT's setting for a CPU,
    /// and gpt-384 its own (Karpathy 2022). llama-128 and llama-384 have as many parameters as
    /// these, in Llama's block (Touvron et al. 2023).
    preset: Preset {
        section: Model, value: "NAME", default: Preset::Lstm128, transformer: Preset::Gpt128,
    }

    /// Text files or folders; `-` reads standard input; without any, a text that the program
    /// carries (Cicero, 49 kB)
    ///
    /// UTF-8, or what `--encoding` says. A folder means all .txt, .text and .md files in and below
    /// it, in the order of their paths. The last tenth of the characters is kept for validation.
    text: Vec<PathBuf> { section: Text, value: "TEXT", default: Vec::new() }

    /// Validation text, in place of the last tenth of the text
    val: Option<PathBuf> { section: Text, value: "FILE", default: None }

    /// Encoding of the texts: utf-8, utf-16, latin1, windows-1252, ...
    ///
    /// By the names that browsers know (WHATWG). What a run keeps and writes is UTF-8.
    encoding: Encoding { section: Text, value: "NAME", default: Encoding::UTF_8 }

    /// How text becomes tokens: byte, char, bpe:N, or a Hugging Face tokenizer.json
    ///
    /// `byte`: 256 symbols, any text, and any other file. `char`: the characters that occur in the
    /// text. `bpe:N`: a byte-level BPE of N tokens, trained on the training text. A path: that
    /// tokenizer.
    tokenizer: TokenizerKind { section: Text, value: "KIND", default: TokenizerKind::Char }

    /// Train on what the tokenizer leaves of the text, if it loses more than 1 % of its characters
    ///
    /// Some tokenizers drop what they do not know, or change letters. Bits a character are then
    /// those of the altered text.
    lossy: bool { section: Text, value: "BOOL", default: false }

    /// Model to start from: a run, a Hugging Face folder of GPT-2 or Llama, a checkpoint of nanoGPT
    /// or of a PyTorch RNN, LSTM or GRU
    ///
    /// The shape of the model and its tokenizer come from there; optimizer and steps start anew. Of
    /// a run it is the best checkpoint. What is read is written down by its SHA-256, and after the
    /// first checkpoint it is not needed any more.
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
        section: Model, value: "N", default: 128, unless: "--hidden where that is given",
        range: 1..=1_000_000, belongs_to: RECURRENT,
    }

    /// Attention heads
    heads: usize {
        section: Model, value: "N", default: 4, range: 1..=10_000, belongs_to: TRANSFORMER,
    }

    /// Heads of keys and values, each read by as many neighbouring heads of queries; 0: one for
    /// each
    ///
    /// Fewer of them take less memory and time in generation (Ainslie et al. 2023).
    kv_heads: usize {
        section: Model, value: "N", default: 0, range: 0..=10_000, belongs_to: TRANSFORMER,
    }

    /// Norm before attention and perceptron, and after all blocks
    norm: Norm { section: Model, value: "KIND", default: Norm::Layer, belongs_to: TRANSFORMER }

    /// What the Transformer's norms add to the variance or the mean square
    norm_epsilon: f64 {
        section: Model, value: "X", default: 1e-5, range: NORMAL, belongs_to: TRANSFORMER,
    }

    /// How the Transformer knows positions: a learned vector for each, or rotary queries and keys
    position: Position {
        section: Model, value: "KIND", default: Position::Learned, belongs_to: TRANSFORMER,
    }

    /// Base of the angles by which rotary queries and keys are turned
    rope_theta: f64 {
        section: Model, value: "X", default: 10_000.0, range: POSITIVE, belongs_to: ROPE,
    }

    /// What is between the two products of a block's perceptron
    ///
    /// `gelu` is the exact one. `gelu-tanh` is its approximation, which the weights of GPT-2 that
    /// OpenAI published need; the two differ by at most 0.0005. `swiglu` is Llama's, with a gate.
    mlp: Mlp { section: Model, value: "KIND", default: Mlp::Gelu, belongs_to: TRANSFORMER }

    /// Width of the perceptron; 0: four times `hidden`, with swiglu 8/3 times, rounded up to a
    /// multiple of 32
    inner: usize {
        section: Model, value: "N", default: 0, range: 0..=10_000_000, belongs_to: TRANSFORMER,
    }

    /// Biases in the Transformer's products and layer norms
    bias: bool { section: Model, value: "BOOL", default: true, belongs_to: TRANSFORMER }

    /// Tokens that the Transformer can look back on, at least the window; 0: the window
    context: usize {
        section: Model, value: "N", default: 0, range: 0..=MANY as usize, belongs_to: TRANSFORMER,
    }

    /// Probability with which dropout leaves an activation out
    dropout: f64 { section: Model, value: "P", default: 0.0, range: 0.0..1.0 }

    /// Use the embedding's weights for the output layer
    tied: bool { section: Model, value: "BOOL", default: false, transformer: true }

    /// Start the bias of the forget gate at 1
    forget_bias: bool { section: Model, value: "BOOL", default: false, belongs_to: LSTM }

    /// Activation of the recurrent layers
    nonlinearity: Nonlinearity {
        section: Model, value: "NAME", default: Nonlinearity::Tanh, belongs_to: RNN,
    }

    /// Precision of the products with weights
    ///
    /// With bf16, factors are rounded to bfloat16 and summed in f32: faster on processors with AMX
    /// or AVX512-BF16. Parameters, moments, gradients and clipping stay f32, and no loss scale is
    /// needed. Generation reads weights in bf16, and everything else in f32.
    precision: Precision { section: Model, value: "NAME", default: Precision::F32 }

    /// Sequences in a micro-batch
    batch: usize {
        section: Batches, value: "N", default: 50, transformer: 12, range: 1..=MANY as usize,
    }

    /// Tokens in a sequence
    window: usize {
        section: Batches, value: "N", default: 50, transformer: 64, range: 1..=MANY as usize,
    }

    /// Micro-batches whose gradients are averaged, then clipped once, for one update
    accumulate: usize { section: Batches, value: "N", default: 1, range: 1..=MANY as usize }

    /// Groups of rows whose gradients are computed one by one and summed as a tree
    ///
    /// A power of two, no larger than the batch. The run has then the same bits for every number of
    /// processes that divides it, such as 1, 2, 4 and 8 with 8; smaller groups take longer. With 1
    /// a run of several processes has the same result up to rounding. docs/parallel.md has more.
    shards: usize { section: Batches, value: "N", default: 1, range: 1..=1024 }

    /// Update rule
    ///
    /// PyTorch's formulas and defaults. AdamW decays matrices only, not biases and norms.
    optimizer: OptimizerKind {
        section: Optimizer, value: "NAME", default: OptimizerKind::Adam,
        transformer: OptimizerKind::AdamW,
    }

    /// Highest learning rate
    lr: f64 { section: Optimizer, value: "RATE", default: 2e-3, transformer: 1e-3, range: POSITIVE }

    /// Factor of momentum
    momentum: f64 {
        section: Optimizer, value: "X", default: 0.9, range: 0.0..1.0, belongs_to: MOMENTUM,
    }

    /// Nesterov's variant of momentum
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

    /// What keeps the denominator from zero
    epsilon: f64 {
        section: Optimizer, value: "X", default: 1e-8, range: NORMAL, belongs_to: ADAPTIVE,
    }

    /// Weight decay
    weight_decay: f64 {
        section: Optimizer, value: "X", default: 0.0, transformer: 0.1,
        unless: "with another optimizer than the preset's 0, or 0.01 for adamw",
        range: NOT_NEGATIVE,
    }

    /// Learning rate over time
    schedule: ScheduleKind {
        section: Schedule, value: "NAME", default: ScheduleKind::Constant,
        transformer: ScheduleKind::Cosine,
    }

    /// Updates over which the learning rate rises to its highest
    warmup: u64 { section: Schedule, value: "N", default: 0, transformer: 100 }

    /// Where cosine and linear end, and the floor of step
    min_lr: f64 {
        section: Schedule, value: "RATE", default: 0.0, transformer: 1e-4, range: NOT_NEGATIVE,
        belongs_to: FALLING,
    }

    /// Updates between two decays
    decay_every: u64 {
        section: Schedule, value: "N", default: 1000, range: 1..=MANY_STEPS, belongs_to: STEP,
    }

    /// Factor of each decay
    decay_factor: f64 {
        section: Schedule, value: "X", default: 0.5, range: FACTOR, belongs_to: STEP,
    }

    /// Clipping policy: none, value:C, norm:C[,p=P], global-norm:C[,p=P]
    ///
    /// `global-norm:C` scales the whole gradient to norm C when its norm is greater (Pascanu et
    /// al. 2013). `norm:C` does so for each tensor by itself, `value:C` limits each element; both
    /// change the direction. `p=P` takes the p-norm, P any number above 0 or `inf`. The defaults
    /// are those of the field: published recurrent models use thresholds from 0.2 to 10, char-rnn
    /// and Zaremba et al. 5; nearly every Transformer uses 1. CLIPPING.md has all others (agc,
    /// autoclip, zclip, adagc, median, skip, ...), chains and thresholds that change.
    clip: ClipPolicy {
        section: Clipping, value: "POLICY", default: global_norm(5.0),
        transformer: global_norm(1.0),
    }

    /// What to do with a gradient that has a NaN or an infinity: error, skip, zero
    ///
    /// `skip` leaves the step out: parameters, moments and schedule keep their bits. `zero` sets
    /// those elements to zero. `error` ends the run.
    non_finite: NonFinite { section: Clipping, value: "RULE", default: NonFinite::Skip }

    /// Steps in a row with gradients that are not finite after which the run stops, with exit
    /// code 3
    max_skips: u64 { section: Clipping, value: "N", default: 10, range: 1..=MANY, belongs_to: SKIP }

    /// Steps of the run
    steps: u64 {
        section: Run, value: "N", default: 2000, unless: "300 with neither a text nor --preset",
        range: 1..=MANY_STEPS,
    }

    /// Seed of weights, data order and dropout
    seed: u64 { section: Run, value: "N", default: 1 }

    /// Steps between evaluations on the whole validation text; 0: only at the end
    eval_every: u64 {
        section: Run, value: "N", default: 500, unless: "100 with neither a text nor --preset",
    }

    /// Validation tokens that evaluations read, from the first on; 0: all of them
    ///
    /// A smaller number makes them quicker. The best checkpoint is then the best on these. The last
    /// evaluation of a run reads all in any case.
    eval_tokens: u64 { section: Run, value: "N", default: 0 }

    /// Steps between checkpoints; 0: only at the end
    save_every: u64 { section: Run, value: "N", default: 250 }

    /// Steps between samples of text; 0: only at the end
    sample_every: u64 { section: Run, value: "N", default: 0 }

    /// Evaluations without improvement after which the run stops; 0: never
    patience: u64 { section: Run, value: "N", default: 0 }

    /// Newest checkpoints to keep, besides the best one
    ///
    /// With one only, a crash while it is replaced would leave none.
    keep: usize { section: Run, value: "N", default: 3, range: 2..=MANY as usize }

    /// Where to compute: cpu
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

    /// The settings of a model with this configuration, by name.
    pub fn settings_of(config: &ModelConfig) -> Table {
        let plan = Plan {
            model: config.architecture,
            layers: config.layers,
            hidden: config.hidden,
            embedding: config.embedding,
            heads: config.heads,
            kv_heads: config.block.kv_heads,
            norm: config.block.norm,
            norm_epsilon: config.block.norm_epsilon,
            position: config.block.position,
            rope_theta: config.block.rope_theta,
            mlp: config.block.mlp,
            inner: config.block.inner,
            bias: config.block.bias,
            context: config.context,
            tied: config.tied,
            nonlinearity: config.nonlinearity,
            ..Plan::defaults(config.architecture)
        };
        // These concern initialisation and training.
        let others = ["preset", "init-from", "dropout", "forget-bias", "precision"];
        let of_shape = Plan::settings().iter().filter(|setting| {
            let is_other = others.contains(&setting.name.as_str());
            setting.section == Section::Model && !is_other && setting.belongs(&plan)
        });
        let named = of_shape.filter_map(|s| Some((s.name.clone(), s.value_in(&plan)?)));
        named.collect()
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
