//! What training will take, from the plan alone, before any of it is taken.

use shears_kernels::logit_rows_at_once;
use shears_model::{Architecture, ParameterInfo};

use crate::corpora::Corpora;
use crate::evaluate::{TOKENS_AT_ONCE, windows_at_once};
use crate::plan::Plan;

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
        let of_training = [self.parameters, self.gradients, self.moments];
        let beside = [self.text, self.activations, self.saving];
        let parts = of_training.into_iter().chain(beside);
        let training = parts.fold(self.program, u64::saturating_add);
        training.max(self.program.saturating_add(self.loading))
    }
}

/// What the program takes before it has a model.
const PROGRAM: u64 = 17_000_000 + shears_parallel::MEMORY;

/// The same of one that trains nothing.
const READER: u64 = 12_000_000 + shears_parallel::MEMORY;

/// Estimates the memory of training a model with these parameters.
pub fn estimate_memory(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> MemoryEstimate {
    let elements = elements_of(parameters);
    let moments = plan.optimizer.moments().len() as u128;
    let tokens = plan.batch as u128 * plan.window as u128;
    let of_training = in_training(plan, tokens, vocabulary);
    let of_evaluation = in_evaluation(plan, vocabulary);
    // What one of them has taken serves the other as far as the sizes are the same.
    let activations = of_training.max(of_evaluation) + of_training.min(of_evaluation) / 2;
    // The branches of the tree of shards that are not yet joined.
    let sums = 1 + plan.shards.max(1).ilog2();
    // One tensor at a time is copied.
    let largest = parameters.iter().map(ParameterInfo::elements).max();
    MemoryEstimate {
        parameters: bytes(2 * elements),
        gradients: bytes(elements * u128::from(sums)),
        moments: bytes(elements * moments),
        activations: bytes(activations + of_time_flow(plan, tokens)),
        text: 0,
        program: PROGRAM,
        loading: 0,
        saving: bytes(largest.unwrap_or(0) as u128),
    }
}

/// Estimates the memory of an evaluation, of which the text is still to be added.
pub fn estimate_evaluation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> MemoryEstimate {
    of_a_trained_model(parameters, in_evaluation(plan, vocabulary))
}

/// Estimates the memory of writing a text after a prompt of so many tokens.
pub fn estimate_generation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
    prompt: usize,
) -> MemoryEstimate {
    let hidden = plan.hidden as u128;
    let (at_once, cache) = match plan.model {
        // Keys and values grow by doubling.
        Architecture::Transformer => (
            plan.window,
            4 * hidden * plan.layers as u128 * plan.window as u128,
        ),
        _ => (READ_AT_ONCE, 0),
    };
    let at_once = at_once.min(prompt.max(1)) as u128;
    let read = at_once * (of_a_layer(plan) + 5 * hidden / 4);
    of_a_trained_model(parameters, read + cache + (vocabulary + prompt) as u128)
}

/// Tokens of a prompt that a recurrent model reads in one call.
const READ_AT_ONCE: usize = 256;

/// What a model that is loaded takes, and these elements beside it.
fn of_a_trained_model(parameters: &[ParameterInfo], elements: u128) -> MemoryEstimate {
    let of_model = elements_of(parameters);
    MemoryEstimate {
        parameters: bytes(of_model),
        gradients: 0,
        moments: 0,
        activations: bytes(elements),
        text: 0,
        program: READER,
        // The file is in memory beside what is made of it.
        loading: bytes(2 * of_model),
        saving: 0,
    }
}

/// Bytes of so many f32; the most that can be counted, where that is not enough.
fn bytes(elements: u128) -> u64 {
    u64::try_from(4 * elements).unwrap_or(u64::MAX)
}

fn elements_of(parameters: &[ParameterInfo]) -> u128 {
    let shapes = parameters.iter().map(|parameter| parameter.shape.iter());
    let sizes = shapes.map(|shape| shape.map(|&n| n as u128).product::<u128>());
    sizes.sum()
}

/// Elements that a training step keeps: for each token multiples of each layer's width, fitted to
/// measured peaks, and the gradients of the logits that exist at the same time. There are no
/// attention scores among them.
fn in_training(plan: &Plan, tokens: u128, vocabulary: usize) -> u128 {
    let per_token = plan.layers as u128 * of_a_layer(plan) + 5 * plan.hidden as u128 / 4;
    // The output layer's weights are packed for both directions.
    tokens * per_token + logits(tokens, vocabulary) + 2 * packed_output(plan, vocabulary)
}

/// Elements that following gradients back in time takes, one token a call: the same as a step, but
/// that nothing is fused.
fn of_time_flow(plan: &Plan, tokens: u128) -> u128 {
    match plan.model {
        Architecture::Transformer => 0,
        _ => tokens * (plan.layers as u128 * of_a_layer(plan)) / 2 * 3,
    }
}

/// Elements that an evaluation takes. No layer leaves anything but its result, and a Transformer
/// the keys and values of each block.
fn in_evaluation(plan: &Plan, vocabulary: usize) -> u128 {
    let (tokens, kept) = match plan.model {
        Architecture::Transformer => {
            let model = plan.model_config();
            let (qkv, expanded) = (model.qkv(), model.expanded());
            // Queries, keys and values of a block stay in the memory of what went into the last
            // one's activation, where that is not much larger.
            let kept = match 4 * expanded <= 7 * qkv {
                true => qkv.max(expanded),
                false => qkv,
            };
            let rows = windows_at_once(plan.context());
            let tokens = rows as u128 * plan.context() as u128;
            (tokens, kept as u128 * plan.layers as u128)
        }
        _ => (TOKENS_AT_ONCE as u128, 0),
    };
    let per_token = of_a_layer(plan) + 5 * plan.hidden as u128 / 4 + kept;
    tokens * per_token + logits(tokens, vocabulary) + packed_output(plan, vocabulary)
}

/// Elements of the output layer's weights in panels.
fn packed_output(plan: &Plan, vocabulary: usize) -> u128 {
    plan.hidden as u128 * vocabulary as u128
}

/// Elements of a layer for each token.
fn of_a_layer(plan: &Plan) -> u128 {
    let hidden = plan.hidden as u128;
    let dropped = u128::from(plan.dropout > 0.0);
    match plan.model {
        Architecture::Rnn => (2 + dropped) * hidden,
        Architecture::Lstm => (7 + dropped) * hidden,
        Architecture::Gru => (6 + dropped) * hidden,
        // Masks are drawn again, and not kept.
        Architecture::Transformer => {
            let model = plan.model_config();
            9 * hidden / 2 + model.qkv() as u128 + model.expanded() as u128
        }
    }
}

/// Logits that are in memory at the same time.
fn logits(tokens: u128, vocabulary: usize) -> u128 {
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
    let rows = logit_rows_at_once(tokens, vocabulary.max(1));
    rows as u128 * vocabulary as u128
}
