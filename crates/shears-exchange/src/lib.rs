//! Trained models in the files of other programs.
//!
//! ```text
//! source.rs        a model to start from: a run, a folder, a file
//! checkpoint.rs    files of PyTorch: nanoGPT's, and recurrent models
//! open.rs          which of them a path is
//! catalogue.rs     the tensors of files by name and shape, before they are read
//! foreign.rs       files from strangers
//! export.rs        what leaves: weights, tokenizer, and what is known of the run
//! names.rs         the blocks that other programs have, and the names of their tensors
//! huggingface.rs   a folder that `transformers` loads
//! gguf.rs          a file that llama.cpp loads
//! pytorch.rs       recurrent models under PyTorch's names
//! beside.rs        files beside the weights
//! card.rs          README.md beside the weights
//! safetensors_file.rs  weights on disk
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
pub use source::{Parameters, Source};
