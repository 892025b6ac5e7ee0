//! The presets: how each differs from the defaults of its kind of model.

use gradclip::{ClipPolicy, ClipRule, NormOrder, Threshold};
use shears_model::{Architecture, BlockConfig, named_enum};

use crate::plan::Plan;

named_enum! {
    /// A named, complete set of settings.
    pub enum Preset: "preset" {
        /// A vanilla RNN of char-rnn's shape (Karpathy 2015).
        Rnn128 = "rnn-128",
        /// An LSTM of the same shape: char-rnn's setting, and the default.
        Lstm128 = "lstm-128",
        /// A GRU of the same shape.
        Gru128 = "gru-128",
        /// A larger LSTM.
        Lstm512 = "lstm-512",
        /// A larger GRU.
        Gru512 = "gru-512",
        /// A Transformer: nanoGPT's setting for a CPU (Karpathy 2022).
        Gpt128 = "gpt-128",
        /// A larger Transformer: nanoGPT's own.
        Gpt384 = "gpt-384",
        /// As many parameters as `gpt-128` in Llama's block (Touvron et al. 2023).
        Llama128 = "llama-128",
        /// As many parameters as `gpt-384` in Llama's block.
        Llama384 = "llama-384",
    }
}

impl Preset {
    /// The default preset of a kind of model.
    pub fn of(architecture: Architecture) -> Preset {
        match architecture {
            Architecture::Rnn => Preset::Rnn128,
            Architecture::Lstm => Preset::Lstm128,
            Architecture::Gru => Preset::Gru128,
            Architecture::Transformer => Preset::Gpt128,
        }
    }

    /// The kind of model of the preset.
    pub fn model(self) -> Architecture {
        match self {
            Preset::Rnn128 => Architecture::Rnn,
            Preset::Lstm128 | Preset::Lstm512 => Architecture::Lstm,
            Preset::Gru128 | Preset::Gru512 => Architecture::Gru,
            Preset::Gpt128 | Preset::Gpt384 | Preset::Llama128 | Preset::Llama384 => {
                Architecture::Transformer
            }
        }
    }

    /// The plan of the preset, without a text.
    pub fn plan(self) -> Plan {
        let plan = Plan {
            preset: self,
            model: self.model(),
            ..Plan::defaults(self.model())
        };
        match self {
            Preset::Rnn128 | Preset::Lstm128 | Preset::Gru128 | Preset::Gpt128 => plan,
            Preset::Lstm512 | Preset::Gru512 => Plan {
                hidden: 512,
                embedding: 512,
                ..plan
            },
            Preset::Gpt384 => Plan {
                layers: 6,
                heads: 6,
                hidden: 384,
                window: 256,
                batch: 64,
                dropout: 0.2,
                steps: 5000,
                ..plan
            },
            Preset::Llama128 => plan.with_llama_block(),
            Preset::Llama384 => Plan {
                preset: self,
                ..Preset::Gpt384.plan().with_llama_block()
            },
        }
    }

    /// A summary for the help text.
    pub fn summary(self) -> String {
        let plan = self.plan();
        let heads = match plan.model {
            Architecture::Transformer => format!(", {} heads", plan.heads),
            _ => String::new(),
        };
        let dropout = match plan.dropout {
            0.0 => String::new(),
            dropout => format!(", dropout {dropout}"),
        };
        format!(
            "{} of {} layers{heads}, {} wide{dropout}, batch {}, window {}, {} at {:?}, {} steps",
            plan.model,
            plan.layers,
            plan.hidden,
            plan.batch,
            plan.window,
            plan.optimizer,
            plan.lr,
            plan.steps
        )
    }
}

impl Plan {
    /// Switches to Llama's block. The rest stays as for GPT-2's block, including clipping at a
    /// global norm of 1, with which Llama and its successors were trained (Touvron et al. 2023,
    /// section 2.3).
    fn with_llama_block(self) -> Plan {
        let block = BlockConfig::llama(0);
        Plan {
            norm: block.norm,
            position: block.position,
            mlp: block.mlp,
            bias: block.bias,
            ..self
        }
    }
}

/// Clips the global norm to `threshold`.
pub(crate) fn global_norm(threshold: f64) -> ClipPolicy {
    let threshold = Threshold::new(threshold).expect("presets have valid thresholds");
    let order = NormOrder::TWO;
    ClipRule::GlobalNorm { threshold, order }.into()
}
