//! One block of a Transformer as one operation: GPT-2's (Radford et al. 2019), Llama's (Touvron et
//! al. 2023), and what lies between them.
//!
//! ```text
//! middle = x + dropout(projection(attention(qkv(norm_1(x)))))
//! output = middle + dropout(project(activation(expand(norm_2(middle)))))
//! ```
//!
//! Only the attention mixes rows. So there are three passes over the rows: before the attention,
//! the attention, and after it. In the first and the last, a block of rows goes through all
//! operations while it is in the cache. Backward runs the passes in reverse, and computes again
//! what is cheaper to compute than to keep: normalised rows, attention weights, activations and
//! masks. The gradients of the weights are large products at the end.

use burn::tensor::Tensor;

use crate::cpu::Precision;
use crate::dropout::{Dropout, Mask};
use crate::norm::Norm;
use crate::tensor::is_ours;

mod activation;
mod backward;
mod block_of;
mod cached;
mod forward;
mod operation;
mod plain;
mod rope;

#[cfg(test)]
mod tests;

pub use block_of::{BlockOf, WithBias};
pub use plain::transformer_block_plain;

/// The parameters of a block.
pub type BlockWeights = BlockOf<Tensor<2>, Tensor<1>>;

/// What is between the two products of a block's perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// GELU by the normal distribution (Hendrycks & Gimpel 2016), exact to rounding.
    Gelu,
    /// GELU by their approximation with tanh, as in GPT-2's own weights.
    GeluTanh,
    /// SwiGLU (Shazeer 2020): the first product gives a gate and what goes through it.
    Swiglu,
}

impl Mlp {
    /// How many elements of the first product one of the second product's inputs is made of.
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
    /// Heads of the attention; they divide `hidden`.
    pub heads: usize,
    /// Heads of keys and values, each of which serves several neighbouring heads of queries
    /// (Ainslie et al. 2023, GQA); they divide `heads`.
    pub kv_heads: usize,
    /// The index of the block in the model, on which its masks depend.
    pub index: usize,
    /// Both norms.
    pub norm: Norm,
    /// The base of the rotary position embedding of queries and keys; none where positions are a
    /// part of `x`. With it, heads have an even width.
    pub rope_theta: Option<f64>,
    /// The perceptron.
    pub mlp: Mlp,
    /// Of the attention's weights and of both residual branches.
    pub dropout: Option<Dropout>,
    /// Of the products with weights. The attention itself is computed in `f32`, and so is one
    /// position of up to 16 texts after earlier ones, as in generation, and everything on other
    /// devices.
    pub precision: Precision,
}

/// The keys and values of an attention, each `[batch, time, keys]` for the width of all heads of
/// keys together.
#[derive(Clone, Debug)]
pub struct KeysAndValues {
    /// `[batch, time, keys]`, turned by their positions if the block does so.
    pub keys: Tensor<3>,
    /// `[batch, time, keys]`
    pub values: Tensor<3>,
}

/// Computes a block: `x` `[batch, time, hidden]` to the same shape.
///
/// `earlier` are the keys and values of the positions before `x`; those of these positions and of
/// `x` are returned. They carry no gradient: a loss does not flow into earlier calls.
///
/// # Panics
///
/// If the shapes do not fit together.
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
        // A loss over a text that was cut into calls: no training loop does that.
        Some(earlier) => transformer_block_plain(x, weights, settings, Some(earlier)),
    }
}

/// The masks of a block.
#[derive(Clone, Copy, Debug)]
struct Masks {
    attention: Mask,
    after_attention: Mask,
    after_perceptron: Mask,
}

/// The number of the mask after the embedding; those of the blocks follow.
pub const EMBEDDING_SITE: u32 = 0;

impl BlockSettings {
    /// The site of each of the block's three masks.
    fn site(&self, which: u32) -> u32 {
        EMBEDDING_SITE + 1 + 3 * self.index as u32 + which
    }

    /// Those for that many positions, of all texts together.
    fn masks(&self, positions: usize) -> Option<Masks> {
        let dropout = self.dropout?;
        Some(Masks {
            attention: dropout.mask(self.site(0), positions * self.heads),
            after_attention: dropout.mask(self.site(1), positions),
            after_perceptron: dropout.mask(self.site(2), positions),
        })
    }
}
