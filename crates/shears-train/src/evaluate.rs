//! Evaluation: a full pass over the validation text, every token predicted once.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use serde::Serialize;
use shears_data::{Batch, DataError, EvaluationStreams, Tokens, evaluation_batches};
use shears_model::{LanguageModel, Reading, State};
use shears_parallel::{Alone, Ranks, agree};

use crate::batches::to_tensors;

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood, in nats a token.
    pub val_loss: f64,
    /// The same in bits a character, which can be compared between tokenizers.
    pub bits_per_char: f64,
    /// `exp(val_loss)`.
    pub perplexity: f64,
    /// How many tokens were predicted.
    pub tokens: usize,
}

/// How many streams a recurrent model reads at the same time in evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams(pub usize);

impl Streams {
    /// One stream whose state is carried throughout: exact, and one token at a time.
    pub const ONE: Streams = Streams(1);
}

impl Default for Streams {
    /// As many as keep the processor busy; see `LOG.md`.
    fn default() -> Self {
        Streams(32)
    }
}

/// Tokens that a model reads in one call, about: many enough to amortise the call, and no more than
/// a batch of training usually has.
pub(crate) const TOKENS_AT_ONCE: usize = 2048;

/// Tokens of a call with a single stream: more would no longer stay in the cache.
const SINGLE_STREAM_WINDOW: usize = 256;

/// Tokens of a parallel stream, at least: shorter ones would be read again as a whole.
const SHORTEST_PART: usize = 512;

/// Within how many nats a token two losses of a window count as equal: a few roundings of an f32.
const SAME: f64 = 3e-6;

/// How many windows in a row must have equal losses: a difference that changes its sign is small in
/// one of them.
const SAME_WINDOWS: usize = 2;

/// The most passes over the parts of a text, which cost nearly as much as a single stream.
const MOST_PASSES: usize = 8;

/// Windows of a Transformer's context that it reads in one call.
pub(crate) fn windows_at_once(context: usize) -> usize {
    (TOKENS_AT_ONCE / context.max(1)).max(1)
}

/// Predicts every token of a text but the first from those before it.
///
/// A Transformer reads consecutive windows of its context. A recurrent model reads the text in
/// parallel `streams`, which give the loss of a single one but for less than 1e-4 nats a token,
/// unless the model remembers thousands of tokens. `tokens` are those of a text of that many
/// `characters`. `model` is outside automatic differentiation ([`burn::module::Module::valid`]).
/// The result depends on the text and on `streams` alone, not on the number of threads.
///
/// `watch` is told after every call of the model how many tokens it has read, and how many there
/// are; some may be read again. If it breaks, there is no result.
///
/// # Errors
///
/// [`DataError::TooShort`] if there is nothing to predict.
pub fn evaluate<M: LanguageModel>(
    model: &M,
    tokens: &Tokens,
    characters: usize,
    streams: Streams,
    device: &Device,
    watch: Watch<'_>,
) -> Result<Option<Evaluation>, DataError> {
    evaluate_together(&Alone, model, tokens, characters, streams, device, watch)
}

/// As [`evaluate`], by all ranks together, with the bits of one: the batches of a Transformer's
/// windows are spread over them, and their losses summed in the order of the text. The parts of a
/// recurrent model's text depend on each other, and every rank reads all of them.
///
/// An exchange: a rank whose `watch` breaks takes part in it, and there is no result for any.
#[allow(
    clippy::too_many_arguments,
    reason = "those of `evaluate`, and who does it"
)]
pub(crate) fn evaluate_together<M: LanguageModel>(
    ranks: &dyn Ranks,
    model: &M,
    tokens: &Tokens,
    characters: usize,
    streams: Streams,
    device: &Device,
    watch: Watch<'_>,
) -> Result<Option<Evaluation>, DataError> {
    let mut reader = Reader {
        ranks,
        model,
        device,
        watch,
        read: 0,
        of: tokens.len(),
    };
    let sum = match model.reading() {
        Reading::Windows { context } => {
            let batches = evaluation_batches(tokens, windows_at_once(context), context)?;
            reader.read_windows(batches)
        }
        Reading::Streams => {
            let streams = EvaluationStreams::new(tokens, streams.0, SHORTEST_PART)?;
            let sum = reader.read_streams(streams);
            // Where one of them has stopped, the others must not go on without it.
            match agree(ranks, sum.is_continue()) {
                true => sum,
                false => ControlFlow::Break(()),
            }
        }
    };
    let ControlFlow::Continue(Sum {
        nats,
        tokens: predicted,
    }) = sum
    else {
        return Ok(None);
    };
    let val_loss = nats / predicted.max(1) as f64;
    // The first token is given, so its characters are not predicted.
    let predicted_characters = characters as f64 * predicted as f64 / tokens.len().max(1) as f64;
    Ok(Some(Evaluation {
        val_loss,
        bits_per_char: nats / std::f64::consts::LN_2 / predicted_characters.max(1.0),
        perplexity: val_loss.exp(),
        tokens: predicted,
    }))
}

/// Who watches an evaluation: tokens read, and how many there are.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A model while it reads a text.
struct Reader<'a, M> {
    ranks: &'a dyn Ranks,
    model: &'a M,
    device: &'a Device,
    watch: Watch<'a>,
    read: usize,
    of: usize,
}

impl<M: LanguageModel> Reader<'_, M> {
    /// Every rank reads each batch whose turn is its own.
    fn read_windows(&mut self, batches: impl Iterator<Item = Batch>) -> ControlFlow<(), Sum> {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let mut targets = Vec::new();
        let mut own = Vec::new();
        let mut stopped = ControlFlow::Continue(());
        for (index, batch) in batches.enumerate() {
            targets.push(batch.targets.len());
            if index % size != rank || stopped.is_break() {
                continue;
            }
            match self.mean_loss(&batch, State::default()) {
                ControlFlow::Continue((loss, _)) => own.extend(loss.to_le_bytes()),
                ControlFlow::Break(()) => stopped = ControlFlow::Break(()),
            }
        }
        let losses = self.ranks.gather(&own);
        let mut sum = Sum::default();
        for (index, targets) in targets.into_iter().enumerate() {
            let (losses, _) = losses[index % size].as_chunks();
            // A rank that was stopped has none.
            let Some(loss) = losses.get(index / size) else {
                return ControlFlow::Break(());
            };
            sum.add(f64::from_le_bytes(*loss), targets);
        }
        ControlFlow::Continue(sum)
    }

    fn read_streams(&mut self, streams: EvaluationStreams<'_>) -> ControlFlow<(), Sum> {
        let mut sum = Sum::default();
        let mut state = State::default();
        for batch in streams.head_batches(SINGLE_STREAM_WINDOW) {
            let (loss, after) = self.mean_loss(&batch, state)?;
            sum.add(loss, batch.targets.len());
            state = after;
        }
        if streams.parts() > 0 {
            self.read_parts(streams, state, &mut sum)?;
        }
        ControlFlow::Continue(sum)
    }

    /// Reads the parts after the head in parallel, each from the state in which the one before it
    /// ends.
    ///
    /// In the first pass these states are unknown, and all parts start from that of the head. In the
    /// next one each part starts from the state in which the one before it ended, and is read until
    /// the losses of its windows no longer change: its old final state is then right. A part that
    /// changes to its end has a better final state for the next pass, and so on, until no part
    /// changes.
    fn read_parts(
        &mut self,
        streams: EvaluationStreams<'_>,
        head: State,
        sum: &mut Sum,
    ) -> ControlFlow<()> {
        let parts = streams.parts();
        let batches = || streams.part_batches(TOKENS_AT_ONCE / parts);
        let mut losses = Vec::new();
        let mut state = head.clone();
        for tensor in state.tensors.values_mut() {
            *tensor = tensor.clone().repeat_dim(1, parts);
        }
        for batch in batches() {
            let (loss, after) = self.mean_loss(&batch, state)?;
            losses.push(loss);
            state = after;
        }
        let mut same = 0;
        'passes: for _ in 1..MOST_PASSES {
            state = one_part_later(&head, state);
            for (batch, loss) in batches().zip(&mut losses) {
                let before = std::mem::take(&mut state);
                let (found, after) = self.mean_loss(&batch, before)?;
                state = after;
                let change = (found - *loss).abs();
                *loss = found;
                same = if change <= SAME { same + 1 } else { 0 };
                // A loss that is not finite will not converge.
                if same == SAME_WINDOWS || !change.is_finite() {
                    break 'passes;
                }
            }
        }
        for (batch, loss) in batches().zip(losses) {
            sum.add(loss, batch.targets.len());
        }
        ControlFlow::Continue(())
    }

    /// The mean loss of a batch in nats a token, and the state afterwards. The mean is an f32 of a
    /// sum in f64, and right to 6e-8 of it.
    fn mean_loss(&mut self, batch: &Batch, state: State) -> ControlFlow<(), (f64, State)> {
        let (inputs, targets) = to_tensors(batch, self.device);
        let (loss, after) = self.model.loss(inputs, targets, state);
        let mean = loss.into_data().iter::<f32>().next().unwrap_or(f32::NAN);
        self.read = self.of.min(self.read + batch.targets.len());
        (self.watch)(self.read, self.of)?;
        ControlFlow::Continue((f64::from(mean), after))
    }
}

/// The states of all parts at their starts, from those at their ends and that of the head.
fn one_part_later(head: &State, ends: State) -> State {
    let mut ends = ends.tensors;
    let mut starts = head.clone();
    for (name, first) in &mut starts.tensors {
        let Some(ends) = ends.remove(name) else {
            continue;
        };
        let [_, parts, _] = ends.dims();
        let others = ends.narrow(1, 0, parts - 1);
        *first = Tensor::cat(vec![first.clone(), others], 1);
    }
    starts
}

/// The summed losses of some tokens.
#[derive(Debug, Default)]
struct Sum {
    nats: f64,
    tokens: usize,
}

impl Sum {
    fn add(&mut self, mean: f64, tokens: usize) {
        self.nats += mean * tokens as f64;
        self.tokens += tokens;
    }
}
