//! Import and export of trained models in other programs' formats.
//!
//! ```text
//! source.rs        a model to start from: a run, a folder, a file
//! open.rs          which of these a path is
//! checkpoint.rs    PyTorch files: nanoGPT's, and recurrent models
//! catalogue.rs     the tensors of files by name and shape, before they are read
//! foreign.rs       files from strangers
//! export.rs        a model to export: weights, tokenizer, facts about the run
//! names.rs         the blocks of other programs, and the names of their tensors
//! huggingface.rs   a folder for `transformers`
//! gguf.rs          a file for llama.cpp
//! pytorch.rs       recurrent models under PyTorch's names
//! beside.rs        files beside the weights
//! card.rs          README.md beside the weights
//! safetensors_file.rs  writes weights
//! ```

mod beside;
mod card;
mod catalogue;
mod checkpoint;
mod error;
mod export;
mod foreign;
mod gguf;
mod huggingface;
mod names;
mod open;
mod pytorch;
mod safetensors_file;
mod source;

pub use card::Card;
pub use error::ExchangeError;
pub use export::TrainedModel;
pub use gguf::{GgufType, export_gguf};
pub use huggingface::export_huggingface;
pub use pytorch::export_pytorch;
pub use source::{ModelSource, Parameters};
