//! Causal self-attention (Vaswani et al. 2017), one head at a time. Several heads of queries may
//! share one of keys and values (Ainslie et al. 2023, GQA).
//!
//! The scores of a block of queries are consumed while they are in the cache; the full score matrix
//! is never stored. The backward pass recomputes the weights from two values per query (Dao et al.
//! 2022, FlashAttention). Queries, keys and values are read in place, from the output of their
//! product.

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::dropout::Mask;

mod backward;
mod forward;
mod single;

pub(crate) use backward::{Mixture, backward};
pub(crate) use forward::forward;
pub(crate) use single::single;

/// Queries per block: whole tiles of a product for every instruction set.
const QUERY_BLOCK: usize = 24;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    /// Queries.
    pub(crate) time: usize,
    /// Keys before that of the first query.
    pub(crate) past: usize,
    /// Heads of the queries.
    pub(crate) heads: usize,
    /// Width of a head.
    pub(crate) width: usize,
    /// Dropout of the weights; its rows run over batch, heads and queries.
    pub(crate) mask: Option<Mask>,
}

/// Queries, keys or values `[batch, .., heads x width]` in a larger slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// Starting with the first row.
    pub(crate) elements: &'a [f32],
    /// The stride between rows.
    pub(crate) row: usize,
    /// The stride between sequences.
    pub(crate) batch: usize,
    /// Heads per row, a divisor of the query heads.
    pub(crate) heads: usize,
}

impl<'a> Rows<'a> {
    /// The rows that a query head reads, starting with their first element, and their stride.
    fn head(self, attention: Attention, index: usize) -> (&'a [f32], usize) {
        let (batch, head) = (index / attention.heads, index % attention.heads);
        let head = head * self.heads / attention.heads;
        let first = batch * self.batch + head * attention.width;
        (&self.elements[first..], self.row)
    }
}

/// One head of one sequence; see [`Rows::head`].
#[derive(Clone, Copy)]
struct Head<'a> {
    index: usize,
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
}

/// The rows starting with index `row`.
#[inline(always)]
fn from_row((elements, stride): (&[f32], usize), row: usize) -> (&[f32], usize) {
    (&elements[row * stride..], stride)
}

impl Attention {
    fn keys(self) -> usize {
        self.past + self.time
    }

    /// The scale of the scores.
    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The stride between rows of scores: whole vectors for every instruction set, plus a cache
    /// line, so that a column does not map to a few cache sets.
    fn score_stride(self) -> usize {
        self.keys().next_multiple_of(16) + 16
    }

    /// The inputs of a query head.
    fn head<'a>(self, index: usize, [queries, keys, values]: [Rows<'a>; 3]) -> Head<'a> {
        Head {
            index,
            queries: queries.head(self, index),
            keys: keys.head(self, index),
            values: values.head(self, index),
        }
    }
}

/// A buffer that is split into parts.
struct Arena<'a>(&'a mut [f32]);

impl<'a> Arena<'a> {
    fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        part
    }
}

#[cfg(test)]
mod tests;
