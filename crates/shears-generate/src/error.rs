//! Errors of text generation.

/// Why no text could be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A sampling setting is out of range.
    #[error("{name} is {value}; it must be {accepted}")]
    Setting {
        /// The name of the setting.
        name: &'static str,
        /// The given value.
        value: String,
        /// The accepted values, in words.
        accepted: &'static str,
    },
    /// An empty stop text would stop every text before it starts.
    #[error("a stop text is empty; it must have at least one character")]
    EmptyStop,
    /// A prediction was requested before the model had read anything.
    #[error("the model has read no token yet; it needs a prompt or a start token")]
    NothingRead,
    /// The model predicts nothing, because its vocabulary is empty.
    #[error("the model returns no logits: its vocabulary is empty")]
    NoLogits,
    /// A logit is not a number.
    #[error("the model returns NaN: its weights are not finite, or too large")]
    NanLogits,
    /// A logit is plus infinity, or all of them are minus infinity: there is no distribution.
    #[error("the model returns infinite logits: its weights are not finite, or too large")]
    InfiniteLogits,
    /// The device that runs the model failed.
    #[error("the logits could not be read from the device: {0}")]
    Device(String),
    /// The tokenizer does not have a token, so the model was trained with another one.
    #[error(
        "token {token} is unknown to the tokenizer, which has {vocabulary}: \
         it must be the one that the model was trained with"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// The size of the tokenizer's vocabulary.
        vocabulary: usize,
    },
}
