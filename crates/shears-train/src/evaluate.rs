//! Evaluation: a full pass over the validation text, every token predicted once.

use burn::tensor::{Device, Int, Tensor, activation::log_softmax};
use serde::Serialize;
use shears_data::{DataError, evaluation_batches};
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

/// Tokens that a recurrent model reads in one call: enough to amortise the call, few enough to
/// stay in cache.
const STREAM_WINDOW: usize = 256;

/// Rows of a Transformer's batch of windows.
const WINDOW_ROWS: usize = 16;

/// Predicts every token of a text but the first from those before it.
///
/// A recurrent model reads the text as one stream, with its state carried throughout; a
/// Transformer reads consecutive windows of its context. `model` is outside automatic
/// differentiation ([`burn::module::Module::valid`]).
///
/// # Errors
///
/// [`DataError::TooShort`] if there is nothing to predict.
pub fn evaluate<M: LanguageModel>(
    model: &M,
    tokens: &[u32],
    characters: usize,
    device: &Device,
) -> Result<Evaluation, DataError> {
    let (rows, window) = match model.reading() {
        Reading::Streams => (1, STREAM_WINDOW),
        Reading::Windows { context } => (WINDOW_ROWS, context),
    };
    let mut nats = 0.0;
    let mut predicted = 0;
    let mut state = State::default();
    for batch in evaluation_batches(tokens, rows, window)? {
        let (inputs, targets) = to_tensors(&batch, device);
        let (logits, after) = model.forward(inputs, state);
        state = match model.reading() {
            Reading::Streams => after,
            Reading::Windows { .. } => State::default(),
        };
        let losses = token_losses(logits, targets);
        // Summed in f64: a sum of 100,000 f32 losses would lose digits.
        let losses = losses.into_data();
        nats += losses.iter::<f32>().map(f64::from).sum::<f64>();
        predicted += losses.num_elements();
    }
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

/// Negative log-likelihood of each target: logits `[batch, time, vocabulary]`, targets
/// `[batch, time]`, result `[batch * time]`.
fn token_losses(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let [batch, time, vocabulary] = logits.dims();
    let rows = batch * time;
    let log_probabilities = log_softmax(logits.reshape([rows, vocabulary]), 1);
    log_probabilities
        .gather(1, targets.reshape([rows, 1]))
        .reshape([rows])
        .neg()
}
