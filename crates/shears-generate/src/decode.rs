//! Feeds each token to a model once, and samples the next.

use burn::tensor::Device;
use shears_model::{Decoder, LanguageModel, Reading};

use crate::error::GenerateError;
use crate::sampling::Sampler;

/// The number of recent tokens, of prompt and output, to which the repetition penalty applies.
///
/// A penalty on the whole text would, if that is long, fall on every common token.
pub const PENALTY_WINDOW: usize = 64;

/// A recurrent model reads a prompt in pieces of this size, which bounds the memory.
const READ_AT_ONCE: usize = 256;

/// A model in the middle of a text.
///
/// What the model carries from call to call (hidden states, or keys and values) is kept, so that
/// nothing is computed twice. A sampled token is fed to the model only when the next logits are
/// needed.
///
/// # When the context of a Transformer is full
///
/// A model that reads windows of at most `context` tokens cannot take another token then. Its state
/// is dropped, and the last `context / 2` tokens (at least 1) of the text, including the new one,
/// are read as the start of a text, at positions 0 and up. The model looks back on `context / 2` to
/// `context` tokens, and reads no token more than twice. A prompt longer than the context follows
/// the same rule: the model ends up in the state that feeding the prompt token by token would give,
/// and the part that would have been dropped is never read.
///
/// After a device error a generator must not be used any more.
pub struct Generator<'a> {
    decoder: Box<dyn Decoder + 'a>,
    reading: Reading,
    /// The latest tokens of the text: enough for the context and for the repetition penalty.
    text: Vec<u32>,
    /// The number of tokens at the end of `text` that the model has yet to read.
    unread: usize,
    /// The number of tokens read since the state was last empty.
    position: usize,
    /// The prediction after the latest token read; empty before the first.
    logits: Vec<f32>,
    /// Only tokens below this are sampled.
    limit: usize,
}

impl<'a> Generator<'a> {
    /// A generator at the start of a text. The model must be on `device`, and without automatic
    /// differentiation (`model.valid()`), or the graph of the whole text would be kept.
    pub fn new<M: LanguageModel>(model: &'a M, device: &Device) -> Self {
        Generator {
            decoder: model.decoder(device),
            reading: model.reading(),
            text: Vec::new(),
            unread: 0,
            position: 0,
            logits: Vec::new(),
            limit: usize::MAX,
        }
    }

    /// Samples only tokens below `tokens`: an embedding may have rows that the tokenizer lacks.
    pub fn limit_to(&mut self, tokens: usize) {
        self.limit = tokens;
    }

    /// Continues the text with the given tokens, which must be in the model's vocabulary.
    ///
    /// # Errors
    ///
    /// [`GenerateError::Device`] if the device fails.
    pub fn read(&mut self, tokens: &[u32]) -> Result<(), GenerateError> {
        self.text.extend_from_slice(tokens);
        self.unread += tokens.len();
        self.catch_up()
    }

    /// Samples the next token and continues the text with it.
    ///
    /// # Errors
    ///
    /// [`GenerateError::NothingRead`] at the start of a text; those of [`Sampler::sample`] and
    /// [`Self::read`].
    pub fn next(&mut self, sampler: &mut Sampler) -> Result<u32, GenerateError> {
        self.catch_up()?;
        if self.text.is_empty() {
            return Err(GenerateError::NothingRead);
        }
        let recent = self.text.len().saturating_sub(PENALTY_WINDOW);
        let known = &self.logits[..self.limit.min(self.logits.len())];
        let token = sampler.sample(known, &self.text[recent..])?;
        self.text.push(token);
        self.unread += 1;
        Ok(token)
    }

    /// The prediction after the text so far: one logit per token.
    ///
    /// # Errors
    ///
    /// [`GenerateError::NothingRead`] at the start of a text; those of [`Self::read`].
    pub fn logits(&mut self) -> Result<&[f32], GenerateError> {
        self.catch_up()?;
        if self.text.is_empty() {
            Err(GenerateError::NothingRead)
        } else {
            Ok(&self.logits)
        }
    }

    /// Lets the model read what it has not read yet.
    fn catch_up(&mut self) -> Result<(), GenerateError> {
        if self.unread == 0 {
            return Ok(());
        }
        let (at_once, remembered) = match self.reading {
            Reading::Streams => (READ_AT_ONCE, 0),
            Reading::Windows { context } => {
                let context = context.max(1);
                self.make_room(context);
                (context, context)
            }
        };
        let unread = self.text[self.text.len() - self.unread..].to_vec();
        for tokens in unread.chunks(at_once) {
            self.feed(tokens)?;
        }
        self.unread = 0;
        self.forget(remembered.max(PENALTY_WINDOW));
        Ok(())
    }

    /// Restarts the window if the unread tokens do not fit into it.
    fn make_room(&mut self, context: usize) {
        let end = self.position + self.unread;
        if end <= context {
            return;
        }
        // If fed one by one, the first token that does not fit leaves a window of `restart` tokens,
        // and every `cycle`-th one after that does so again.
        let restart = (context / 2).max(1);
        let cycle = context - restart + 1;
        self.unread = restart + (end - context - 1) % cycle;
        self.decoder.restart();
        self.position = 0;
    }

    /// Runs the model on tokens that fit.
    fn feed(&mut self, tokens: &[u32]) -> Result<(), GenerateError> {
        let logits = self.decoder.read(tokens);
        self.logits = logits.map_err(|error| GenerateError::Device(error.to_string()))?;
        self.position += tokens.len();
        Ok(())
    }

    /// Drops all but the latest `kept` tokens. It waits until there are twice as many, so that the
    /// cost of moving the rest to the front is amortised.
    fn forget(&mut self, kept: usize) {
        if self.text.len() >= 2 * kept {
            self.text.drain(..self.text.len() - kept);
        }
    }
}
