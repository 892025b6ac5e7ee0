//! Trained models in the files of other programs.
//!
//! ```text
//! export.rs        what leaves: weights, tokenizer, and what is known of the run
//! names.rs         the names of a Transformer's tensors in each format
//! huggingface.rs   a folder that `transformers` loads
//! gguf.rs          a file that llama.cpp loads
//! pytorch.rs       recurrent models under PyTorch's names
//! card.rs          README.md beside the weights
//! safetensors_file.rs  weights on disk
//! ```

mod card;
mod error;
mod export;
mod gguf;
mod huggingface;
mod names;
mod pytorch;
mod safetensors_file;

pub use card::Card;
pub use error::ExchangeError;
pub use export::TrainedModel;
pub use gguf::{GgufType, export_gguf};
pub use huggingface::export_huggingface;
pub use pytorch::export_pytorch;
