//! A Transformer block as one operation: GPT-2's (Radford et al. 2019), Llama's (Touvron et al.
//! 2023), and variants in between.
//!
//! ```text
//! middle = x + dropout(projection(attention(qkv(norm_1(x)))))
//! output = middle + dropout(project(activation(expand(norm_2(middle)))))
//! ```
//!
//! Only the attention mixes rows, so there are three passes over the rows: before the attention,
//! the attention, and after it. In the first and the last, a block of rows goes through all
//! operations while it is in the cache. The backward pass runs them in reverse, and recomputes what
//! is cheaper to compute than to store: normalised rows, attention weights, activations and masks.
//! The gradients of the weights are large products at the end.

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;

use crate::cpu::Precision;
use crate::dropout::{Dropout, Mask};
use crate::norm::Norm;
use crate::tensor::is_ours;

mod activation;
mod backward;
mod block_of;
mod cached;
mod decoder;
mod forward;
mod operation;
mod plain;
mod rope;

#[cfg(test)]
mod tests;

pub use block_of::{BlockOf, WithBias};
pub use decoder::{TransformerDecoder, TransformerWeights};
pub use plain::transformer_block_plain;

/// The parameters of a block: tensors of either rank, without it in their type.
pub type BlockWeights = BlockOf<DispatchTensor>;

/// The activation of a block's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// GELU with the exact normal distribution (Hendrycks & Gimpel 2016).
    Gelu,
    /// GELU with their tanh approximation, as in GPT-2's published weights.
    GeluTanh,
    /// SwiGLU (Shazeer 2020): the first product computes a gate and the values that it gates.
    Swiglu,
}

impl Mlp {
    /// The number of outputs of the first product per input of the second.
    fn parts(self) -> usize {
        match self {
            Mlp::Gelu | Mlp::GeluTanh => 1,
            Mlp::Swiglu => 2,
        }
    }
}

/// The settings of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockSettings {
    /// The number of attention heads, a divisor of `hidden`.
    pub heads: usize,
    /// The number of key and value heads, each shared by consecutive query heads (Ainslie et al.
    /// 2023, GQA); a divisor of `heads`.
    pub kv_heads: usize,
    /// The index of the block in the model, which selects its dropout masks.
    pub index: usize,
    /// The kind of both norms.
    pub norm: Norm,
    /// The base of the rotary position embedding of queries and keys, which needs heads of even
    /// width; `None` if positions are part of `x`.
    pub rope_theta: Option<f64>,
    /// The activation of the MLP.
    pub mlp: Mlp,
    /// Dropout of the attention weights and of both residual branches.
    pub dropout: Option<Dropout>,
    /// The precision of products with weights. The attention itself always uses `f32`, as do single
    /// positions of up to 16 sequences in generation, and everything on other devices.
    pub precision: Precision,
}

/// The keys and values of an attention, each `[batch, time, keys]`, where `keys` is the total width
/// of the key heads.
#[derive(Clone, Debug)]
pub struct KeysAndValues {
    /// `[batch, time, keys]`, after the rotary embedding if the block has one.
    pub keys: Tensor<3>,
    /// `[batch, time, keys]`
    pub values: Tensor<3>,
}

/// Computes a block: `x` `[batch, time, hidden]` to the same shape.
///
/// `earlier` has the keys and values of the positions before `x`; returns the keys and values of
/// all positions, including `x`. They carry no gradient: a loss does not flow into earlier calls.
///
/// # Panics
///
/// If the shapes do not match.
pub fn transformer_block(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: Option<KeysAndValues>,
) -> (Tensor<3>, KeysAndValues) {
    if !is_ours(&x) {
        return transformer_block_plain(x, weights, settings, earlier);
    }
    match earlier {
        None => operation::call(x, weights, settings),
        Some(earlier) if operation::is_plain(&x, &weights, settings, &earlier) => {
            operation::call_cached(x, weights, settings, earlier)
        }
        // Training on a sequence that is split into calls, which no training loop does.
        Some(earlier) => transformer_block_plain(x, weights, settings, Some(earlier)),
    }
}

/// The masks of a block.
#[derive(Clone, Copy, Debug)]
struct Masks {
    attention: Mask,
    after_attention: Mask,
    after_mlp: Mask,
}

/// The dropout site after the embedding; those of the blocks follow.
pub const EMBEDDING_SITE: u32 = 0;

impl BlockSettings {
    /// The site of each of the block's three masks.
    fn site(&self, which: u32) -> u32 {
        EMBEDDING_SITE + 1 + 3 * self.index as u32 + which
    }

    /// The masks for `positions` positions, counted over all sequences.
    fn masks(&self, positions: usize) -> Option<Masks> {
        let dropout = self.dropout?;
        Some(Masks {
            attention: dropout.mask(self.site(0), positions * self.heads),
            after_attention: dropout.mask(self.site(1), positions),
            after_mlp: dropout.mask(self.site(2), positions),
        })
    }
}
