//! Fused CPU training operations for Burn. Each has a plain composition of Burn's operations, which
//! all other devices use and against which the tests compare values and gradients.
//!
//! An operation takes and returns Burn's tensors. For `f32` tensors on the CPU device it runs the
//! kernels of this crate, otherwise Burn's own operations.
//!
//! The vector instructions are chosen at run time: AVX-512, AVX2 with FMA, NEON, or portable
//! 128-bit vectors. The last bits of results depend on that choice, but never on the number of
//! threads.

mod abandon;
mod allocator;
mod attention;
mod buffer;
mod cpu;
mod dropout;
mod elements;
mod embedding;
mod linear;
mod loss;
mod math;
mod matmul;
mod measure;
mod norm;
mod operation;
mod recurrent;
mod tensor;
#[cfg(test)]
mod testing;
mod transformer;
mod update;
mod vector;

pub use abandon::unless;
pub use allocator::{Allocator, return_freed_blocks};
pub use buffer::{filled, written};
pub use cpu::{Bf16Unit, Precision, instructions};
pub use dropout::{Dropout, DropoutKey, dropout, dropout_plain};
pub use elements::Elements;
pub use embedding::{embedding, embedding_plain};
pub use linear::{linear, linear_plain};
pub use loss::{cross_entropy, logit_rows_at_once, output_loss};
pub use measure::{read, scale, scan};
pub use norm::{Norm, NormKind, norm, norm_plain};
pub use recurrent::{
    Activation, Cell, RecurrentDecoder, RecurrentWeights, recurrent, recurrent_plain,
    recurrent_tokens, recurrent_tokens_plain,
};
pub use tensor::narrowed;
pub use transformer::{
    BlockOf, BlockSettings, BlockWeights, EMBEDDING_SITE, KeysAndValues, Mlp, TransformerDecoder,
    TransformerWeights, WithBias, transformer_block, transformer_block_plain,
};
pub use update::{Adam, Parameter, UpdateRule, update};
