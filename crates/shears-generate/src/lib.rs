//! Text generation from a trained model.
//!
//! A [`Generator`] is a model in the middle of a text: it reads tokens and predicts the next one,
//! without recomputing what it has read. A [`Sampler`] chooses a token from the prediction. A
//! [`TextStream`] combines them and yields text in whole characters, up to a number of tokens or a
//! stop text.
//!
//! ```text
//! prompt ─> Generator::read ─> logits ─> Sampler ─> token ─> StreamDecoder ─> stop texts ─> text
//!                 ^                                   │
//!                 └───────────────────────────────────┘
//! ```

mod decode;
mod error;
mod sampling;
mod stop;
mod text;

pub use decode::{Generator, PENALTY_WINDOW};
pub use error::GenerateError;
pub use sampling::{
    Sampler, SamplingSettings, keep_min_p, keep_top_k, keep_top_p, most_probable,
    penalize_repetition, scale_by_temperature, softmax,
};
pub use text::{Ending, Limits, TextStream, generate_text};
