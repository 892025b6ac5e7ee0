//! Evaluation: a full pass over the validation text that predicts every token once.

mod parts;

use std::ops::ControlFlow;

use burn::tensor::Device;
use serde::Serialize;
use shears_data::{Batch, DataError, EvaluationStreams, Tokens, evaluation_batches};
use shears_model::{LanguageModel, Reading, State};
use shears_parallel::{Alone, Ranks, agree};
use shears_run::Event;

use crate::batches::to_tensors;

/// The result of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood in nats per token.
    pub val_loss: f64,
    /// The same in bits per character, which is comparable between tokenizers.
    pub bits_per_char: f64,
    /// `exp(val_loss)`.
    pub perplexity: f64,
    /// The number of predicted tokens.
    pub tokens: usize,
}

impl Evaluation {
    /// The log entry of an evaluation after `step` steps.
    pub fn event(&self, step: u64) -> Event {
        Event::Evaluation(shears_run::Evaluation {
            step,
            val_loss: self.val_loss,
            bits_per_char: self.bits_per_char,
            perplexity: self.perplexity,
        })
    }
}

/// The number of parallel streams in which a recurrent model reads an evaluation text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams(pub usize);

impl Streams {
    /// One stream whose state is carried throughout: exact, but one token at a time.
    pub const ONE: Streams = Streams(1);
}

impl Default for Streams {
    /// Enough to keep the CPU busy; see `LOG.md`.
    fn default() -> Self {
        Streams(32)
    }
}

/// Approximate tokens per call of a model: enough to amortise the call, and no more than a usual
/// training batch.
pub(crate) const TOKENS_PER_CALL: usize = 2048;

/// Tokens per call with a single stream: more would not fit the cache.
const SINGLE_STREAM_WINDOW: usize = 256;

/// The fewest tokens of a parallel stream: shorter ones would be reread completely.
const SHORTEST_PART: usize = 512;

/// Windows of the full context that a Transformer reads per call.
pub(crate) fn windows_per_call(context: usize) -> usize {
    (TOKENS_PER_CALL / context.max(1)).max(1)
}

/// Predicts every token of a text, except the first, from those before it.
///
/// A Transformer reads consecutive windows of its context length. A recurrent model reads the text
/// in parallel `streams`; the loss differs from a single stream's by less than 1e-4 nats per token,
/// unless the model remembers thousands of tokens. `tokens` encode a text of `characters`
/// characters. `model` must be outside automatic differentiation ([`burn::module::Module::valid`]).
/// The result depends only on the text and on `streams`, not on the number of threads.
///
/// `watch` is called after every call of the model with the number of tokens read and their total;
/// some may be reread. If it breaks, the result is `None`.
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
        streams,
    };
    evaluate_on_ranks(alone, model, tokens, characters, device, watch)
}

/// The ranks of a distributed evaluation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readers<'a> {
    pub(crate) ranks: &'a dyn Ranks,
    /// The number of groups that the parts of a recurrent model's text are divided into; see
    /// [`crate::exchange::Share`].
    pub(crate) shards: usize,
    pub(crate) streams: Streams,
}

/// Like [`evaluate`], distributed over all ranks. A Transformer's batches are divided among the
/// ranks, and their losses summed in text order, which gives the bits of a single process. The
/// parts of a recurrent model's text are divided like the rows of a training batch, with equal bits
/// for numbers of ranks that divide `shards`.
///
/// Collective: if the `watch` of one rank breaks, all ranks return `None`.
///
/// [`Share`]: crate::exchange::Share
pub(crate) fn evaluate_on_ranks<M: LanguageModel>(
    readers: Readers<'_>,
    model: &M,
    tokens: &Tokens,
    characters: usize,
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
            let batches = evaluation_batches(tokens, windows_per_call(context), context)?;
            reader.read_windows(batches)
        }
        Reading::Streams => {
            let streams = EvaluationStreams::new(tokens, readers.streams.0, SHORTEST_PART)?;
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

/// The observer of an evaluation: gets the number of tokens read, and their total.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A model that reads a text.
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
    /// Each rank reads every `size`-th batch.
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
            // A stopped rank has sent none.
            let Some(loss) = losses.get(index / size) else {
                return ControlFlow::Break(());
            };
            sum.add(f64::from_le_bytes(*loss), targets);
        }
        ControlFlow::Continue(sum)
    }

    /// Every rank reads the head, then its share of the parts.
    fn read_streams(&mut self, streams: EvaluationStreams<'_>) -> ControlFlow<(), Sum> {
        let mut sum = Sum::default();
        let head = self.read_head(streams, &mut sum);
        // If one rank has stopped, the others must not continue without it.
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

    /// The mean loss of a batch in nats per token, and the state afterwards. The mean is an f32
    /// rounded from a sum in f64. `readers` ranks read as much at the same time.
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
