//! What training will take, from the plan alone, before any of it is taken.

use shears_kernels::logit_rows_at_once;
use shears_model::{Architecture, ParameterInfo};

use crate::corpora::Corpora;
use crate::evaluate::{TOKENS_AT_ONCE, windows_at_once};
use crate::optimizer::OptimizerKind;
use crate::plan::{Plan, PlanError};

/// Bytes by purpose. Parameters, gradients and moments are exact; the rest is fitted to measured
/// peaks, and all of it within a fifth of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights, and the copy of them that is taken when the size of an update is looked at.
    pub parameters: u64,
    /// One gradient for each weight.
    pub gradients: u64,
    /// What the optimizer remembers.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass, and what an evaluation takes beside it.
    pub activations: u64,
    /// The tokens of the text, and the tokenizer.
    pub text: u64,
    /// The program itself.
    pub program: u64,
    /// What reading the text took at most, before there was a model.
    pub loading: u64,
    /// What a checkpoint takes while it is written, beside parameters and moments.
    pub saving: u64,
}

impl MemoryEstimate {
    /// The same for a run on this text.
    #[must_use]
    pub fn with_text(self, corpora: &Corpora) -> Self {
        MemoryEstimate {
            text: (corpora.train.bytes() + corpora.validation.bytes()) as u64 + corpora.kept,
            // A model that is evaluated is there before the text.
            loading: match self.loading {
                0 => corpora.loading,
                of_model => of_model.max(self.parameters.saturating_add(corpora.loading)),
            },
            ..self
        }
    }

    /// The most that it takes at a time: while the text is read, or while a checkpoint is written,
    /// for which a step's memory is not given back.
    pub fn total(&self) -> u64 {
        let sum = |parts: &[u64]| {
            parts
                .iter()
                .fold(0, |sum: u64, part| sum.saturating_add(*part))
        };
        let training = sum(&[
            self.program,
            self.text,
            self.parameters,
            self.gradients,
            self.moments,
            self.activations,
            self.saving,
        ]);
        training.max(self.program.saturating_add(self.loading))
    }
}

/// What the program takes before it has a model.
const PROGRAM: u64 = 17_000_000 + shears_parallel::MEMORY;

/// The same of one that trains nothing.
const READER: u64 = 12_000_000 + shears_parallel::MEMORY;

/// Estimates the memory of training a model with these parameters.
///
/// # Errors
///
/// If the sizes exceed what 64 bits can count.
pub fn estimate_memory(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> Result<MemoryEstimate, PlanError> {
    let bytes = bytes_of(parameters)?;
    let too_large = || PlanError::new(TOO_LARGE);
    let moments = match plan.optimizer {
        OptimizerKind::Sgd => 0,
        OptimizerKind::Momentum | OptimizerKind::RmsProp => 1,
        OptimizerKind::Adam | OptimizerKind::AdamW => 2,
    };
    let tokens = (plan.batch as u64)
        .checked_mul(plan.window as u64)
        .ok_or_else(too_large)?;
    let of_training = in_training(plan, tokens, vocabulary);
    let of_evaluation = in_evaluation(plan, vocabulary);
    // What one of them has taken serves the other as far as the sizes are the same.
    let elements = of_training.max(of_evaluation);
    let elements = elements.saturating_add(of_training.min(of_evaluation) / 2);
    let elements = elements.saturating_add(of_time_flow(plan, tokens));
    let activations = elements.checked_mul(4);
    // The branches of the tree of shards that are not yet joined.
    let sums = 1 + u64::from(plan.shards.max(1).ilog2());
    Ok(MemoryEstimate {
        parameters: bytes.checked_mul(2).ok_or_else(too_large)?,
        gradients: bytes.checked_mul(sums).ok_or_else(too_large)?,
        moments: bytes.checked_mul(moments).ok_or_else(too_large)?,
        activations: activations.ok_or_else(too_large)?,
        text: 0,
        program: PROGRAM,
        loading: 0,
        // One tensor at a time is copied.
        saving: parameters.iter().map(bytes_of_one).max().unwrap_or(0),
    })
}

/// Estimates the memory of an evaluation, of which the text is still to be added.
///
/// # Errors
///
/// As [`estimate_memory`].
pub fn estimate_evaluation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> Result<MemoryEstimate, PlanError> {
    of_a_trained_model(parameters, in_evaluation(plan, vocabulary))
}

/// Estimates the memory of writing a text after a prompt of so many tokens.
///
/// # Errors
///
/// As [`estimate_memory`].
pub fn estimate_generation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
    prompt: usize,
) -> Result<MemoryEstimate, PlanError> {
    let hidden = plan.hidden as u64;
    let (at_once, cache) = match plan.model {
        Architecture::Transformer => {
            // Keys and values grow by doubling.
            let cached = (4 * hidden).saturating_mul(plan.layers as u64);
            (plan.window, cached.saturating_mul(plan.window as u64))
        }
        _ => (READ_AT_ONCE, 0),
    };
    let at_once = at_once.min(prompt.max(1)) as u64;
    let read = at_once.saturating_mul(of_a_layer(plan) + 5 * hidden / 4);
    let elements = read
        .saturating_add(cache)
        .saturating_add(vocabulary as u64)
        .saturating_add(prompt as u64);
    of_a_trained_model(parameters, elements)
}

/// Tokens of a prompt that a recurrent model reads in one call.
const READ_AT_ONCE: usize = 256;

/// What a model that is loaded takes, and these elements beside it.
fn of_a_trained_model(
    parameters: &[ParameterInfo],
    elements: u64,
) -> Result<MemoryEstimate, PlanError> {
    let bytes = bytes_of(parameters)?;
    Ok(MemoryEstimate {
        parameters: bytes,
        gradients: 0,
        moments: 0,
        activations: elements.saturating_mul(4),
        text: 0,
        program: READER,
        // The file is in memory beside what is made of it.
        loading: bytes.saturating_mul(2),
        saving: 0,
    })
}

/// Bytes of all parameters.
fn bytes_of(parameters: &[ParameterInfo]) -> Result<u64, PlanError> {
    let too_large = || PlanError::new(TOO_LARGE);
    let mut elements = 0_u64;
    for parameter in parameters {
        let size = parameter
            .shape
            .iter()
            .try_fold(1_u64, |size, &n| size.checked_mul(n as u64));
        elements = size
            .and_then(|size| elements.checked_add(size))
            .ok_or_else(too_large)?;
    }
    elements.checked_mul(4).ok_or_else(too_large)
}

fn bytes_of_one(parameter: &ParameterInfo) -> u64 {
    4 * parameter.elements() as u64
}

const TOO_LARGE: &str = "the model's size exceeds what a computer can address";

/// Elements that a training step keeps: for each token multiples of each layer's width, fitted to
/// measured peaks, and the gradients of the logits that exist at the same time. There are no
/// attention scores among them.
fn in_training(plan: &Plan, tokens: u64, vocabulary: usize) -> u64 {
    let per_token = (plan.layers as u64)
        .saturating_mul(of_a_layer(plan))
        .saturating_add(5 * plan.hidden as u64 / 4);
    tokens
        .saturating_mul(per_token)
        .saturating_add(logits(tokens, vocabulary))
        // The output layer's weights are packed for both directions.
        .saturating_add(2 * packed_output(plan, vocabulary))
}

/// Elements that following gradients back in time takes, one token a call: the same as a step, but
/// that nothing is fused.
fn of_time_flow(plan: &Plan, tokens: u64) -> u64 {
    match plan.model {
        Architecture::Transformer => 0,
        _ => tokens.saturating_mul(plan.layers as u64 * of_a_layer(plan)) / 2 * 3,
    }
}

/// Elements that an evaluation takes. No layer leaves anything but its result, and a Transformer
/// the keys and values of each block.
fn in_evaluation(plan: &Plan, vocabulary: usize) -> u64 {
    let hidden = plan.hidden as u64;
    let (tokens, kept) = match plan.model {
        Architecture::Transformer => {
            let rows = windows_at_once(plan.context());
            let model = plan.model_config();
            let (qkv, expanded) = (model.qkv(), model.expanded());
            // Queries, keys and values of a block stay in the memory of what went into the last
            // one's activation, where that is not much larger.
            let kept = match 4 * expanded <= 7 * qkv {
                true => qkv.max(expanded),
                false => qkv,
            };
            let kept = (kept as u64).saturating_mul(plan.layers as u64);
            (rows.saturating_mul(plan.context()), kept)
        }
        _ => (TOKENS_AT_ONCE, 0),
    };
    let per_token = (of_a_layer(plan) + 5 * hidden / 4).saturating_add(kept);
    let tokens = tokens as u64;
    tokens
        .saturating_mul(per_token)
        .saturating_add(logits(tokens, vocabulary))
        .saturating_add(packed_output(plan, vocabulary))
}

/// Elements of the output layer's weights in panels.
fn packed_output(plan: &Plan, vocabulary: usize) -> u64 {
    (plan.hidden as u64).saturating_mul(vocabulary as u64)
}

/// Elements of a layer for each token.
fn of_a_layer(plan: &Plan) -> u64 {
    let hidden = plan.hidden as u64;
    let dropped = u64::from(plan.dropout > 0.0);
    match plan.model {
        Architecture::Rnn => (2 + dropped) * hidden,
        Architecture::Lstm => (7 + dropped) * hidden,
        Architecture::Gru => (6 + dropped) * hidden,
        // Masks are drawn again, and not kept.
        Architecture::Transformer => {
            let model = plan.model_config();
            9 * hidden / 2 + model.qkv() as u64 + model.expanded() as u64
        }
    }
}

/// Logits that are in memory at the same time.
fn logits(tokens: u64, vocabulary: usize) -> u64 {
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
    let rows = logit_rows_at_once(tokens, vocabulary.max(1));
    (rows as u64).saturating_mul(vocabulary as u64)
}
