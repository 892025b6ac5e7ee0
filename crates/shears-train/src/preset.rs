//! The presets: complete plans with a name. Defaults live here and nowhere else.

use gradclip::{ClipPolicy, ClipRule, NonFinite, NormOrder, Threshold};
use shears_data::TokenizerKind;
use shears_model::{Architecture, Nonlinearity, Precision, named_enum};

use crate::optimizer::OptimizerKind;
use crate::plan::Plan;
use crate::schedule::ScheduleKind;

named_enum! {
    /// A named, complete setting.
    pub enum Preset: "preset" {
        /// Vanilla RNN, 2 layers of 128, batch 50, window 50, Adam 2e-3.
        Rnn128 = "rnn-128",
        /// LSTM of the same shape: char-rnn's setting, and the default.
        Lstm128 = "lstm-128",
        /// GRU of the same shape.
        Gru128 = "gru-128",
        /// LSTM, 2 layers of 512.
        Lstm512 = "lstm-512",
        /// GRU, 2 layers of 512.
        Gru512 = "gru-512",
        /// Transformer: 4 layers, 4 heads, 128 wide, context 64 (nanoGPT on a CPU).
        Gpt128 = "gpt-128",
        /// Transformer: 6 layers, 6 heads, 384 wide, context 256 (nanoGPT's own).
        Gpt384 = "gpt-384",
    }
}

impl Preset {
    /// The preset that a model without a preset starts from.
    pub fn of(architecture: Architecture) -> Preset {
        match architecture {
            Architecture::Rnn => Preset::Rnn128,
            Architecture::Lstm => Preset::Lstm128,
            Architecture::Gru => Preset::Gru128,
            Architecture::Transformer => Preset::Gpt128,
        }
    }

    /// The whole plan, for a text that is still to be named.
    pub fn plan(self) -> Plan {
        match self {
            Preset::Rnn128 => recurrent(self, Architecture::Rnn, 128),
            Preset::Lstm128 => recurrent(self, Architecture::Lstm, 128),
            Preset::Gru128 => recurrent(self, Architecture::Gru, 128),
            Preset::Lstm512 => recurrent(self, Architecture::Lstm, 512),
            Preset::Gru512 => recurrent(self, Architecture::Gru, 512),
            Preset::Gpt128 => transformer(self),
            Preset::Gpt384 => Plan {
                layers: 6,
                heads: 6,
                hidden: 384,
                embedding: 384,
                window: 256,
                batch: 64,
                dropout: 0.2,
                steps: 5000,
                ..transformer(self)
            },
        }
    }
}

/// char-rnn's shape (Karpathy 2015).
///
/// The clipping threshold 5 is that of char-rnn, torch-rnn and Zaremba et al. (2014): for
/// recurrent models, published thresholds lie between 0.2 and 10.
fn recurrent(preset: Preset, architecture: Architecture, hidden: usize) -> Plan {
    Plan {
        preset,
        text: Vec::new(),
        val: None,
        tokenizer: TokenizerKind::Char,
        model: architecture,
        layers: 2,
        hidden,
        embedding: hidden,
        heads: 1,
        dropout: 0.0,
        tied: false,
        forget_bias: false,
        nonlinearity: Nonlinearity::Tanh,
        precision: Precision::F32,
        batch: 50,
        window: 50,
        accumulate: 1,
        optimizer: OptimizerKind::Adam,
        lr: 2e-3,
        momentum: 0.9,
        nesterov: false,
        alpha: 0.99,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        schedule: ScheduleKind::Constant,
        warmup: 0,
        min_lr: 0.0,
        decay_every: 1000,
        decay_factor: 0.5,
        clip: global_norm(5.0),
        non_finite: NonFinite::Skip,
        max_skips: 10,
        steps: 2000,
        seed: 1,
        eval_every: 500,
        save_every: 250,
        sample_every: 0,
        patience: 0,
        keep: 3,
        device: "cpu".to_string(),
        text_sha256: String::new(),
        val_sha256: String::new(),
    }
}

/// nanoGPT's setting for a CPU (Karpathy 2022).
///
/// The clipping threshold 1 is that of GPT-3, nanoGPT and nearly every published Transformer.
fn transformer(preset: Preset) -> Plan {
    Plan {
        model: Architecture::Transformer,
        layers: 4,
        heads: 4,
        batch: 12,
        window: 64,
        tied: true,
        optimizer: OptimizerKind::AdamW,
        lr: 1e-3,
        beta2: 0.99,
        weight_decay: 0.1,
        schedule: ScheduleKind::Cosine,
        warmup: 100,
        min_lr: 1e-4,
        clip: global_norm(1.0),
        ..recurrent(preset, Architecture::Transformer, 128)
    }
}

fn global_norm(threshold: f64) -> ClipPolicy {
    let threshold = Threshold::new(threshold).expect("presets have valid thresholds");
    let order = NormOrder::TWO;
    ClipRule::GlobalNorm { threshold, order }.into()
}
