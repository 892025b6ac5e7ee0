//! The language models of Shears: vanilla RNN, LSTM, GRU and Transformer.
//!
//! Every model maps token ids `[batch, time]` to logits `[batch, time, vocabulary]` and carries a
//! [`State`] from call to call. The trainer and the generator use models only through the trait
//! [`LanguageModel`], so they also work with your own models.
//!
//! Weights have PyTorch's shapes and gate order, so that they can be exchanged:
//! `layers.0.weight_ih` is `weight_ih_l0` of `torch.nn.LSTM`. Tensors are created on the caller's
//! device; no file here names one.

mod any_model;
mod config;
mod gru;
mod language_model;
mod layers;
mod lstm;
mod named;
mod names;
mod recurrent;
mod rnn;
mod transformer;

pub use any_model::AnyModel;
pub use config::{
    Architecture, BlockConfig, ConfigError, Mlp, ModelConfig, Nonlinearity, Norm, Position,
    Precision,
};
pub use gru::gru;
pub use language_model::{
    Decoder, DecoderError, LanguageModel, ParameterInfo, Reading, State, layer_of, parameters,
};
pub use layers::{Embedding, Initializer, Linear, Normalization, Output, dropout};
pub use lstm::lstm;
pub use named::{ParameterMapper, ParameterVisitor, map_parameters, visit_parameters};
pub use names::UnknownName;
pub use recurrent::{RecurrentLayer, RecurrentModel};
pub use rnn::rnn;
pub use shears_kernels::{Dropout, DropoutKey};
pub use transformer::Transformer;
