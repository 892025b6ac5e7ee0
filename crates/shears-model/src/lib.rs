//! The text generators of Shears: vanilla RNN, LSTM, GRU and Transformer.
//!
//! Every model maps token ids `[batch, time]` to logits `[batch, time, vocabulary]` and carries a
//! [`State`] from one call to the next. The trainer and the generator know models only through
//! [`LanguageModel`], so a model of your own is trained by the same loop; see that trait.
//!
//! Weights have PyTorch's shapes and gate order, so that they can be exchanged:
//! `layers.0.weight_ih` is `weight_ih_l0` of `torch.nn.LSTM`. No file here names a device: tensors
//! are created on the device that the caller chose.

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

pub use config::{
    Architecture, BlockConfig, ConfigError, Mlp, ModelConfig, Nonlinearity, Norm, Position,
    Precision,
};
pub use gru::gru;
pub use language_model::{LanguageModel, ParameterInfo, Reading, State, layer_of, parameters};
pub use layers::{Embedding, Initializer, Linear, Normalization, Output, dropout};
pub use lstm::lstm;
pub use named::{ParameterMapper, ParameterVisitor, map_parameters, visit_parameters};
pub use names::UnknownName;
pub use recurrent::{RecurrentLayer, RecurrentModel};
pub use rnn::rnn;
pub use shears_kernels::{Dropout, DropoutKey};
pub use transformer::Transformer;
