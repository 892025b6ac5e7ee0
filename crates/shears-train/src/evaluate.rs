//! Evaluation: a full pass over the validation text, every token predicted once.

mod parts;

use std::ops::ControlFlow;

use burn::tensor::Device;
use serde::Serialize;
use shears_data::{Batch, DataError, EvaluationStreams, Tokens, evaluation_batches};
use shears_model::{LanguageModel, Reading, State};
use shears_parallel::{Alone, Ranks, agree};
use shears_run::Event;

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

impl Evaluation {
    /// What the log has of it, after so many steps.
    pub fn event(&self, step: u64) -> Event {
        Event::Evaluation(shears_run::Evaluation {
            step,
            val_loss: self.val_loss,
            bits_per_char: self.bits_per_char,
            perplexity: self.perplexity,
        })
    }
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
    let alone = Readers {
        ranks: &Alone,
        shards: 1,
    };
    evaluate_together(alone, model, tokens, characters, streams, device, watch)
}

/// The ranks that evaluate a model together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readers<'a> {
    pub(crate) ranks: &'a dyn Ranks,
    /// Into how many groups the parts of a recurrent model's text are split; see
    /// [`crate::exchange::Share`].
    pub(crate) shards: usize,
}

/// As [`evaluate`], by all ranks together. The batches of a Transformer's windows are spread over
/// them, and their losses summed in the order of the text: that has the bits of one process. The
/// parts of a recurrent model's text are spread as the rows of a batch are in training, with equal
/// bits for ranks that divide `shards`.
///
/// An exchange: a rank whose `watch` breaks takes part in it, and there is no result for any.
///
/// [`Share`]: crate::exchange::Share
#[allow(
    clippy::too_many_arguments,
    reason = "those of `evaluate`, and who does it"
)]
pub(crate) fn evaluate_together<M: LanguageModel>(
    readers: Readers<'_>,
    model: &M,
    tokens: &Tokens,
    characters: usize,
    streams: Streams,
    device: &Device,
    watch: Watch<'_>,
) -> Result<Option<Evaluation>, DataError> {
    let mut reader = Reader {
        ranks: readers.ranks,
        shards: readers.shards,
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
            reader.read_streams(streams)
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
    shards: usize,
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
            match self.mean_loss(&batch, State::default(), self.ranks.size()) {
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

    /// Every rank reads the head, and its share of the parts.
    fn read_streams(&mut self, streams: EvaluationStreams<'_>) -> ControlFlow<(), Sum> {
        let mut sum = Sum::default();
        let head = self.read_head(streams, &mut sum);
        // Where one of them has stopped, the others must not go on without it.
        let ControlFlow::Continue(state) = head else {
            agree(self.ranks, false);
            return ControlFlow::Break(());
        };
        if !agree(self.ranks, true) {
            return ControlFlow::Break(());
        }
        if streams.parts() > 0 {
            self.read_parts(streams, state, &mut sum)?;
        }
        ControlFlow::Continue(sum)
    }

    fn read_head(
        &mut self,
        streams: EvaluationStreams<'_>,
        sum: &mut Sum,
    ) -> ControlFlow<(), State> {
        let mut state = State::default();
        for batch in streams.head_batches(SINGLE_STREAM_WINDOW) {
            let (loss, after) = self.mean_loss(&batch, state, 1)?;
            sum.add(loss, batch.targets.len());
            state = after;
        }
        ControlFlow::Continue(state)
    }

    /// The mean loss of a batch in nats a token, and the state afterwards. The mean is an f32 of a
    /// sum in f64, and right to 6e-8 of it. So many ranks read as much of the text meanwhile.
    fn mean_loss(
        &mut self,
        batch: &Batch,
        state: State,
        readers: usize,
    ) -> ControlFlow<(), (f64, State)> {
        let (inputs, targets) = to_tensors(batch, self.device);
        let (loss, after) = self.model.loss(inputs, targets, state);
        let mean = loss.into_data().iter::<f32>().next().unwrap_or(f32::NAN);
        let read = batch.targets.len() * readers;
        self.read = self.of.min(self.read + read);
        (self.watch)(self.read, self.of)?;
        ControlFlow::Continue((f64::from(mean), after))
    }
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
