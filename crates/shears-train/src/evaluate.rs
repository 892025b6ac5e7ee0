//! Evaluation: a full pass over the validation text, every token predicted once.

use burn::tensor::Device;
use serde::Serialize;
use shears_data::{Batch, DataError, EvaluationStreams, evaluation_batches};
use shears_model::{LanguageModel, Reading, State};

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

/// How a model that reads streams goes over a text in evaluation.
///
/// Every token but the first is predicted once in any case. What differs is the state that it is
/// predicted from, at the start of each stream but the first: that of the `warmup` tokens before it, and not of
/// all. The measurements behind [`Streams::default`] are in `LOG.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Parts of the text that are read at the same time, at most; a short text has fewer.
    pub count: usize,
    /// Tokens that a stream reads before its part, without counting their losses.
    pub warmup: usize,
}

impl Streams {
    /// One stream with its state carried throughout: exact, and one token after the other.
    pub const ONE: Streams = Streams {
        count: 1,
        warmup: 0,
    };
}

impl Default for Streams {
    fn default() -> Self {
        Streams {
            count: 64,
            warmup: 256,
        }
    }
}

/// Tokens that a model reads in one call, about: many enough to amortise the call, and no more than a
/// batch of training usually has.
pub(crate) const TOKENS_AT_ONCE: usize = 2048;

/// Windows of a Transformer's context that it reads in one call.
pub(crate) fn windows_at_once(context: usize) -> usize {
    (TOKENS_AT_ONCE / context.max(1)).max(1)
}

/// Tokens of a call with a single stream: more would no longer stay in the cache.
const SINGLE_STREAM_WINDOW: usize = 256;

/// Predicts every token of a text but the first from those before it.
///
/// A recurrent model reads the text in parallel `streams`, each with its state carried; a Transformer
/// reads consecutive windows of its context. `tokens` are those of a text of that many `characters`.
/// `model` is outside automatic differentiation ([`burn::module::Module::valid`]). The result depends
/// on the text and on `streams` alone, not on the number of threads.
///
/// # Errors
///
/// [`DataError::TooShort`] if there is nothing to predict.
pub fn evaluate<M: LanguageModel>(
    model: &M,
    tokens: &[u32],
    characters: usize,
    streams: Streams,
    device: &Device,
) -> Result<Evaluation, DataError> {
    let mut reader = Reader::new(model, device);
    match model.reading() {
        Reading::Windows { context } => {
            for batch in evaluation_batches(tokens, windows_at_once(context), context)? {
                reader.predict(&batch);
            }
        }
        Reading::Streams => {
            let streams = EvaluationStreams::new(tokens, streams.count, streams.warmup)?;
            for batch in streams.head_batches(SINGLE_STREAM_WINDOW) {
                reader.predict(&batch);
            }
            let window = TOKENS_AT_ONCE / streams.parts().max(1);
            for batch in streams.warmup_batches(window) {
                reader.warm_up(&batch);
            }
            for batch in streams.part_batches(window) {
                reader.predict(&batch);
            }
        }
    }
    let Reader {
        nats, predicted, ..
    } = reader;
    let val_loss = nats / predicted.max(1) as f64;
    // The first token is given, so its characters are not predicted.
    let predicted_characters = characters as f64 * predicted as f64 / tokens.len().max(1) as f64;
    Ok(Evaluation {
        val_loss,
        bits_per_char: nats / std::f64::consts::LN_2 / predicted_characters.max(1.0),
        perplexity: val_loss.exp(),
        tokens: predicted,
    })
}

/// Reads batch after batch and adds up the losses.
struct Reader<'a, M> {
    model: &'a M,
    device: &'a Device,
    state: State,
    nats: f64,
    predicted: usize,
}

impl<'a, M: LanguageModel> Reader<'a, M> {
    fn new(model: &'a M, device: &'a Device) -> Self {
        Reader {
            model,
            device,
            state: State::default(),
            nats: 0.0,
            predicted: 0,
        }
    }

    /// Reads a batch whose losses count.
    fn predict(&mut self, batch: &Batch) {
        let (inputs, targets) = to_tensors(batch, self.device);
        let before = self.state_before(batch);
        let (loss, after) = self.model.loss(inputs, targets, before);
        self.state = after;
        // The loss is a mean in f32, exact to 6e-8 of it; the sum over the batches is in f64.
        let mean = loss.into_data().iter::<f32>().next().unwrap_or(f32::NAN);
        let predictions = batch.targets.len();
        self.nats += f64::from(mean) * predictions as f64;
        self.predicted += predictions;
    }

    /// Reads a batch for its state alone.
    fn warm_up(&mut self, batch: &Batch) {
        let (inputs, _) = to_tensors(batch, self.device);
        let before = self.state_before(batch);
        // It computes the logits of the last token alone.
        self.state = self.model.predict(inputs, before).1;
    }

    fn state_before(&mut self, batch: &Batch) -> State {
        let carried = std::mem::take(&mut self.state);
        match batch.starts_stream {
            true => State::default(),
            false => carried,
        }
    }
}
