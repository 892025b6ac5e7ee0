//! Memory estimates from the plan, before anything is allocated.

use shears_kernels::{RecurrentDecoder, logit_rows_at_once};
use shears_model::{Architecture, ParameterInfo};
use shears_run::Columns;

use crate::corpora::Corpora;
use crate::evaluate::{TOKENS_PER_CALL, windows_per_call};
use crate::exchange::Share;
use crate::plan::Plan;
use crate::time_flow::MAX_DISTANCE;

/// An estimate in bytes by purpose. Parameters, gradients and moments are exact; the rest is fitted
/// to measured peaks, with the total within 20 % of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights, and the copy taken to measure the size of an update.
    pub parameters: u64,
    /// One gradient per weight.
    pub gradients: u64,
    /// The optimizer's moments.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass, and what an evaluation needs in addition.
    pub activations: u64,
    /// The tokens of the text, and the tokenizer.
    pub text: u64,
    /// The program itself.
    pub program: u64,
    /// The peak of loading the text, before there is a model.
    pub loading: u64,
    /// What writing a checkpoint needs in addition to parameters and moments.
    pub saving: u64,
    /// The run's log, while it is judged: at the end, and on the screen all the time.
    pub log: u64,
}

/// The most steps that a trainer judges. The log of a longer run is left to programs that hold no
/// model.
pub const STEPS_JUDGED: u64 = 1_000_000;

impl MemoryEstimate {
    /// Adds the memory of the text.
    #[must_use]
    pub fn with_text(self, corpora: &Corpora) -> Self {
        MemoryEstimate {
            text: (corpora.train.bytes() + corpora.validation.bytes()) as u64 + corpora.kept,
            // An evaluation loads the model before the text.
            loading: match self.loading {
                0 => corpora.loading,
                of_model => of_model.max(self.parameters.saturating_add(corpora.loading)),
            },
            ..self
        }
    }

    /// Adds the memory of reading the log of `steps` steps with the norms of `tensors` tensors.
    #[must_use]
    pub fn with_history(self, steps: u64, tensors: usize) -> Self {
        MemoryEstimate {
            log: self.log.max(Columns::estimate(steps, tensors)),
            ..self
        }
    }

    /// The peak: while the text is loaded, or while a checkpoint is written or the log is judged,
    /// when a step's memory is still allocated.
    pub fn total(&self) -> u64 {
        let of_training = [self.parameters, self.gradients, self.moments];
        let beside = [self.text, self.activations, self.saving.max(self.log)];
        let parts = of_training.into_iter().chain(beside);
        let training = parts.fold(self.program, u64::saturating_add);
        training.max(self.program.saturating_add(self.loading))
    }
}

/// The program in bytes, without a model.
const PROGRAM: u64 = 20_500_000 + shears_parallel::MEMORY;

/// The same for programs that do not train.
const READER: u64 = 15_500_000 + shears_parallel::MEMORY;

/// What MPI takes in addition in each of several processes.
const CONNECTED: u64 = 9_000_000;

/// Estimates the memory of training a model with these parameters in one of `ranks` processes,
/// without the text.
pub fn estimate_memory(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
    ranks: usize,
) -> MemoryEstimate {
    let elements = elements_of(parameters);
    let moments = plan.optimizer.moments().len() as u128;
    // A rank computes its groups of rows one after another.
    let groups = Share::groups_of_all(plan.shards.max(1), ranks);
    let tokens_of = |parts: usize| plan.batch.div_ceil(parts) as u128 * plan.window as u128;
    let of_training = training_elements(plan, tokens_of(groups), vocabulary)
        + states(plan, plan.batch.div_ceil(groups));
    let of_evaluation = evaluation_elements(plan, vocabulary);
    // Each reuses the other's buffers where sizes match.
    let activations = of_training.max(of_evaluation) + of_training.min(of_evaluation) / 2;
    // Partial sums of the tree of shards.
    let sums = 1 + (groups / ranks).ilog2();
    // Tensors are copied one at a time.
    let largest = parameters.iter().map(ParameterInfo::elements).max();
    MemoryEstimate {
        parameters: bytes(2 * elements),
        gradients: bytes(elements * u128::from(sums)),
        moments: bytes(elements * moments),
        activations: bytes(activations + time_flow_elements(plan, tokens_of(ranks))),
        text: 0,
        program: PROGRAM + if ranks > 1 { CONNECTED } else { 0 },
        loading: 0,
        saving: bytes(largest.unwrap_or(0) as u128),
        log: Columns::estimate(plan.steps.min(STEPS_JUDGED), parameters.len()),
    }
}

/// Estimates the memory of an evaluation, without the text.
pub fn estimate_evaluation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> MemoryEstimate {
    trained_model(parameters, evaluation_elements(plan, vocabulary))
}

/// Estimates the memory of generation after a prompt of `prompt` tokens.
pub fn estimate_generation(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
    prompt: usize,
) -> MemoryEstimate {
    let hidden = plan.hidden as u128;
    let (at_once, cache) = match plan.model {
        // The cache of keys and values grows by doubling.
        Architecture::Transformer => (
            plan.window,
            4 * hidden * plan.layers as u128 * plan.window as u128,
        ),
        _ => (
            PROMPT_TOKENS_PER_CALL,
            kept_products(parameters, vocabulary),
        ),
    };
    let at_once = at_once.min(prompt.max(1)) as u128;
    let read = at_once * (layer_elements(plan) + 5 * hidden / 4);
    trained_model(parameters, read + cache + (vocabulary + prompt) as u128)
}

/// The first layer's products that the decoder of a recurrent model keeps.
fn kept_products(parameters: &[ParameterInfo], vocabulary: usize) -> u128 {
    let mut matrices = parameters.iter();
    let first = matrices.find(|parameter| parameter.name == "layers.0.weight_ih");
    let kept =
        first.map(|of| RecurrentDecoder::kept_products(vocabulary, of.shape[1], of.shape[0]));
    kept.unwrap_or(0) as u128
}

/// Prompt tokens per call of a recurrent model.
const PROMPT_TOKENS_PER_CALL: usize = 256;

/// The memory of a loaded model and `elements` further elements.
fn trained_model(parameters: &[ParameterInfo], elements: u128) -> MemoryEstimate {
    let of_model = elements_of(parameters);
    MemoryEstimate {
        parameters: bytes(of_model),
        gradients: 0,
        moments: 0,
        activations: bytes(elements),
        text: 0,
        program: READER,
        // A text is loaded after the model.
        loading: bytes(of_model),
        saving: 0,
        log: 0,
    }
}

/// The size of `elements` f32 in bytes, saturating.
fn bytes(elements: u128) -> u64 {
    u64::try_from(4 * elements).unwrap_or(u64::MAX)
}

fn elements_of(parameters: &[ParameterInfo]) -> u128 {
    let shapes = parameters.iter().map(|parameter| parameter.shape.iter());
    let sizes = shapes.map(|shape| shape.map(|&n| n as u128).product::<u128>());
    sizes.sum()
}

/// Elements kept by a training step: per token a multiple of each layer's width, fitted to measured
/// peaks, and the gradients of the logits in memory at a time. Attention scores are never stored.
fn training_elements(plan: &Plan, tokens: u128, vocabulary: usize) -> u128 {
    let per_token = plan.layers as u128 * layer_elements(plan) + 5 * plan.hidden as u128 / 4;
    // The output layer's weights are packed for both directions.
    tokens * per_token + logits(tokens, vocabulary) + 2 * packed_output(plan, vocabulary)
}

/// Elements of the states of recurrent layers beside those of their tokens: as carried, as they
/// were after the last step, and their gradients. Fitted to measured peaks of short windows.
fn states(plan: &Plan, rows: usize) -> u128 {
    match plan.model {
        Architecture::Transformer => 0,
        _ => 2 * rows as u128 * plan.layers as u128 * layer_elements(plan),
    }
}

/// Elements for following gradients back in time, one token per call: as for a step, but without
/// fusion, and each call of a layer has five buffers of its own, of whole pages.
fn time_flow_elements(plan: &Plan, tokens: u128) -> u128 {
    const PAGES: u128 = 5 * 4096 / 4;
    let layers = plan.layers as u128;
    let back = plan.window.min(MAX_DISTANCE) as u128;
    match plan.model {
        Architecture::Transformer => 0,
        _ => tokens * (layers * layer_elements(plan)) / 5 * 4 + back * layers * PAGES,
    }
}

/// Elements of an evaluation: each layer keeps only its output.
fn evaluation_elements(plan: &Plan, vocabulary: usize) -> u128 {
    let (tokens, idle) = match plan.model {
        Architecture::Transformer => {
            let model = plan.model_config();
            let tokens = windows_per_call(plan.context()) * plan.context();
            // A block allocates before the largest buffers of the block before it are idle.
            (tokens, model.qkv() + model.expanded())
        }
        _ => (TOKENS_PER_CALL, 0),
    };
    let tokens = tokens as u128;
    let per_token = layer_elements(plan) + 5 * plan.hidden as u128 / 4 + idle as u128;
    tokens * per_token + logits(tokens, vocabulary) + packed_output(plan, vocabulary)
}

/// Elements of the output layer's packed weights.
fn packed_output(plan: &Plan, vocabulary: usize) -> u128 {
    plan.hidden as u128 * vocabulary as u128
}

/// Elements per token of a layer.
fn layer_elements(plan: &Plan) -> u128 {
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
