//! The plan of a run: every setting, resolved, with nothing implicit.

use std::path::PathBuf;

use gradclip::{ClipPolicy, NonFinite};
use serde::{Deserialize, Serialize};
use shears_data::TokenizerKind;
use shears_model::{Architecture, ModelConfig, Nonlinearity, Precision};

use crate::optimizer::{OptimizerKind, OptimizerSettings};
use crate::preset::Preset;
use crate::schedule::{Schedule, ScheduleKind};
use crate::text_serde;

/// Every setting of a run. It is written to `plan.toml`, where each key is the name of a flag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// The preset that the other settings started from.
    pub preset: Preset,
    /// Files and folders to train on; `-` is standard input; none is the text that the program
    /// carries.
    pub text: Vec<PathBuf>,
    /// Validation text; without it, the last tenth of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// How text becomes tokens.
    #[serde(with = "text_serde")]
    pub tokenizer: TokenizerKind,
    /// Which kind of model.
    pub model: Architecture,
    /// Recurrent layers or Transformer blocks.
    pub layers: usize,
    /// Width of the hidden state or of the residual stream.
    pub hidden: usize,
    /// Width of the token embedding (recurrent models).
    pub embedding: usize,
    /// Attention heads (Transformer).
    pub heads: usize,
    /// Dropout probability.
    pub dropout: f64,
    /// Output layer with the embedding's weights.
    pub tied: bool,
    /// Forget-gate bias 1 (LSTM).
    pub forget_bias: bool,
    /// Activation of the vanilla RNN.
    pub nonlinearity: Nonlinearity,
    /// Precision of the products with weights.
    #[serde(default)]
    pub precision: Precision,
    /// Sequences a micro-batch.
    pub batch: usize,
    /// Tokens a sequence; for the Transformer also its context.
    pub window: usize,
    /// Micro-batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Highest learning rate.
    pub lr: f64,
    /// Factor of `momentum`.
    pub momentum: f64,
    /// Nesterov's variant of `momentum`.
    pub nesterov: bool,
    /// Decay of RMSprop's mean square.
    pub alpha: f64,
    /// Decay of Adam's first moment.
    pub beta1: f64,
    /// Decay of Adam's second moment.
    pub beta2: f64,
    /// Epsilon of RMSprop and Adam.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Shape of the learning rate over time.
    pub schedule: ScheduleKind,
    /// Updates of linear warm-up.
    pub warmup: u64,
    /// Where the schedule ends.
    pub min_lr: f64,
    /// Updates between two decays of the `step` schedule.
    pub decay_every: u64,
    /// Factor of each decay of the `step` schedule.
    pub decay_factor: f64,
    /// Clipping policy.
    #[serde(with = "text_serde")]
    pub clip: ClipPolicy,
    /// What to do with a gradient that is not finite.
    #[serde(with = "text_serde")]
    pub non_finite: NonFinite,
    /// Skipped steps in a row after which the run stops.
    pub max_skips: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Seed of initial weights, of the order of windows and of dropout.
    pub seed: u64,
    /// Steps between evaluations; 0 is only at the end.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 is only at the end.
    pub save_every: u64,
    /// Steps between samples of text; 0 is never.
    pub sample_every: u64,
    /// Evaluations without improvement after which the run stops; 0 is never.
    pub patience: u64,
    /// How many of the newest checkpoints are kept, besides the best.
    pub keep: usize,
    /// Where tensors live.
    pub device: String,
    /// SHA-256 of the training and validation text together, filled in when it is read.
    #[serde(default)]
    pub text_sha256: String,
    /// SHA-256 of the file given by `val`.
    #[serde(default)]
    pub val_sha256: String,
}

/// A setting that is out of range, by the name of its flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);

impl PlanError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        PlanError(message.into())
    }
}

impl Plan {
    /// The model's part of the plan.
    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            architecture: self.model,
            layers: self.layers,
            hidden: self.hidden,
            embedding: self.embedding,
            heads: self.heads,
            context: self.window,
            dropout: self.dropout,
            tied: self.tied,
            forget_bias: self.forget_bias,
            nonlinearity: self.nonlinearity,
            precision: self.precision,
        }
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

    /// Tokens that one step reads.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.window * self.accumulate
    }

    /// Checks every setting, before anything is allocated or written.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, with the range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let model = self.model_config().validate();
        model.map_err(|error| PlanError(error.to_string()))?;
        self.validate_counts()?;
        self.validate_rates()?;
        if self.nesterov && self.optimizer != OptimizerKind::Momentum {
            return Err(PlanError(format!(
                "nesterov belongs to optimizer momentum, not to {}",
                self.optimizer
            )));
        }
        let adam = matches!(self.optimizer, OptimizerKind::Adam | OptimizerKind::AdamW);
        if let Some(rule) = self.clip.rules_inside_adam().next().filter(|_| !adam) {
            return Err(PlanError(format!(
                "clipping by `{}` works inside Adam; choose optimizer adam or adamw, not {}",
                rule.name(),
                self.optimizer
            )));
        }
        if self.device != "cpu" {
            return Err(PlanError(format!(
                "device `{}` is not in this build; the devices are: cpu",
                self.device
            )));
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), PlanError> {
        const MANY: u64 = 1_000_000;
        let counts = [
            ("batch", self.batch as u64, 1, MANY),
            ("window", self.window as u64, 1, MANY),
            ("accumulate", self.accumulate as u64, 1, MANY),
            ("steps", self.steps, 1, MANY * MANY),
            ("decay-every", self.decay_every, 1, MANY * MANY),
            ("max-skips", self.max_skips, 1, MANY),
            // With one checkpoint only, a crash while it is replaced would leave none.
            ("keep", self.keep as u64, 2, MANY),
        ];
        for (name, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                let range = format!("from {least} to {most}");
                return Err(PlanError(format!("{name} is {value}; it must be {range}")));
            }
        }
        Ok(())
    }

    fn validate_rates(&self) -> Result<(), PlanError> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f64| (0.0..1.0).contains(&value);
        let decay = |value: f64| value >= 0.0 && value.is_finite();
        let rates = [
            ("lr", self.lr, positive(self.lr), "above 0 and finite"),
            (
                "min-lr",
                self.min_lr,
                (0.0..=self.lr).contains(&self.min_lr),
                "from 0 to lr",
            ),
            (
                "momentum",
                self.momentum,
                share(self.momentum),
                "at least 0 and below 1",
            ),
            (
                "alpha",
                self.alpha,
                share(self.alpha),
                "at least 0 and below 1",
            ),
            (
                "beta1",
                self.beta1,
                share(self.beta1),
                "at least 0 and below 1",
            ),
            (
                "beta2",
                self.beta2,
                share(self.beta2),
                "at least 0 and below 1",
            ),
            (
                "epsilon",
                self.epsilon,
                self.epsilon >= f64::from(f32::MIN_POSITIVE) && self.epsilon.is_finite(),
                "at least 1.2e-38, the least normal number of single precision, and finite",
            ),
            (
                "weight-decay",
                self.weight_decay,
                decay(self.weight_decay),
                "at least 0 and finite",
            ),
            (
                "decay-factor",
                self.decay_factor,
                positive(self.decay_factor) && self.decay_factor <= 1.0,
                "above 0 and at most 1",
            ),
        ];
        for (name, value, is_accepted, range) in rates {
            if !is_accepted {
                return Err(PlanError(format!("{name} is {value}; it must be {range}")));
            }
        }
        Ok(())
    }
}

/// The settings in which two plans differ: name, value in the first, value in the second.
pub fn compare_plans(left: &Plan, right: &Plan) -> Vec<(String, String, String)> {
    let table = |plan: &Plan| toml::Table::try_from(plan).unwrap_or_default();
    let (left, right) = (table(left), table(right));
    let show = |value: Option<&toml::Value>| value.map_or("none".to_string(), |v| v.to_string());
    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name));
    differing
        .map(|name| (name.clone(), show(left.get(name)), show(right.get(name))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for &preset in Preset::ALL {
            let plan = preset.plan();
            plan.validate().unwrap();
            let text = toml::to_string(&plan).unwrap();
            assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan, "{preset}");
            assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
        }
    }

    #[test]
    fn each_bad_setting_is_named() {
        let error = |change: fn(&mut Plan)| {
            let mut plan = Preset::Lstm128.plan();
            change(&mut plan);
            plan.validate().unwrap_err().to_string()
        };
        assert!(error(|plan| plan.lr = f64::NAN).starts_with("lr is NaN"));
        assert!(error(|plan| plan.lr = -1.0).starts_with("lr is -1"));
        assert!(error(|plan| plan.min_lr = 1.0).starts_with("min-lr is 1"));
        assert!(error(|plan| plan.steps = 0).starts_with("steps is 0"));
        assert!(error(|plan| plan.keep = 1).starts_with("keep is 1"));
        assert!(error(|plan| plan.beta2 = 1.0).starts_with("beta2 is 1"));
        assert!(error(|plan| plan.layers = 0).starts_with("layers is 0"));
        assert!(error(|plan| plan.nesterov = true).starts_with("nesterov"));
        assert!(error(|plan| plan.device = "tpu".into()).starts_with("device `tpu`"));
    }

    #[test]
    fn plans_differ_by_name_and_value() {
        let left = Preset::Lstm128.plan();
        let right = Plan {
            lr: 0.1,
            hidden: 64,
            ..left.clone()
        };
        let differing = compare_plans(&left, &right);
        let expected = [("hidden", "128", "64"), ("lr", "0.002", "0.1")];
        let expected = expected.map(|(n, l, r)| (n.to_string(), l.to_string(), r.to_string()));
        assert_eq!(differing, expected);
        assert_eq!(compare_plans(&left, &left), []);
    }
}
