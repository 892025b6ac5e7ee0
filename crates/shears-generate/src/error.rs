//! What can go wrong in generation.

/// Why no text could be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A sampling setting is out of range.
    #[error("{name} is {value}; it must be {accepted}")]
    Setting {
        /// The setting, as its field is called.
        name: &'static str,
        /// What was given.
        value: String,
        /// The values that are accepted, in words.
        accepted: &'static str,
    },
    /// A stop text without a character would stop every text before it starts.
    #[error("a stop text is empty; it must have at least one character")]
    EmptyStop,
    /// A prediction was asked for before the model had read anything.
    #[error("the model has read no token yet; it needs a prompt or a start token")]
    NothingRead,
    /// The model predicts nothing, because its vocabulary is empty.
    #[error("the model gives no logits: its vocabulary is empty")]
    NoLogits,
    /// A logit is not a number.
    #[error("the model gives NaN: its weights are broken")]
    NanLogits,
    /// A logit is plus infinity, or all of them are minus infinity: there is no distribution.
    #[error("the model gives infinite logits: its weights are broken")]
    InfiniteLogits,
    /// The device that runs the model failed.
    #[error("the logits could not be read from the device: {0}")]
    Device(String),
    /// A token that the tokenizer does not have: it is not the one that the model was trained with.
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
