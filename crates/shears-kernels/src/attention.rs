//! Causal self-attention (Vaswani et al. 2017), one head at a time. Several heads of queries may
//! share one of keys and values (Ainslie et al. 2023, GQA).
//!
//! The scores of a block of queries are turned into their result while they are in the cache: there
//! is never a matrix of all scores. Backward computes the weights again, from two values for each
//! query (Dao et al. 2022, FlashAttention). Queries, keys and values are read where the product
//! that made them left them.

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::dropout::Mask;

mod backward;
mod forward;
mod single;

pub(crate) use backward::{Mixture, backward};
pub(crate) use forward::forward;
pub(crate) use single::single;

/// Queries that are computed together: whole tiles of a product with any instructions.
const QUERIES_AT_ONCE: usize = 24;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    /// Queries.
    pub(crate) time: usize,
    /// Keys that come before the first query's own.
    pub(crate) past: usize,
    /// Heads of the queries.
    pub(crate) heads: usize,
    /// Width of a head.
    pub(crate) width: usize,
    /// Dropout of the weights; its rows are numbered through batch, heads and queries.
    pub(crate) mask: Option<Mask>,
}

/// Queries, keys or values `[batch, .., heads x width]` in a larger slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// From the first element on.
    pub(crate) elements: &'a [f32],
    /// Distance between rows.
    pub(crate) row: usize,
    /// Distance between the elements of the batch.
    pub(crate) batch: usize,
    /// Heads of a row; they divide those of the queries.
    pub(crate) heads: usize,
}

impl<'a> Rows<'a> {
    /// The rows that a head of the queries reads, from their first element on, and the distance
    /// between them.
    fn head(self, attention: Attention, index: usize) -> (&'a [f32], usize) {
        let (batch, head) = (index / attention.heads, index % attention.heads);
        let head = head * self.heads / attention.heads;
        let first = batch * self.batch + head * attention.width;
        (&self.elements[first..], self.row)
    }
}

/// One head of one element of the batch; see [`Rows::head`].
#[derive(Clone, Copy)]
struct Head<'a> {
    index: usize,
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
}

/// Rows from one of them on.
#[inline(always)]
fn from_row((elements, stride): (&[f32], usize), row: usize) -> (&[f32], usize) {
    (&elements[row * stride..], stride)
}

impl Attention {
    fn keys(self) -> usize {
        self.past + self.time
    }

    /// The factor of the scores.
    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Distance between rows of scores: whole vectors with any instructions, and a cache line more,
    /// so that the rows of a column do not share a few lines of the cache.
    fn score_stride(self) -> usize {
        self.keys().next_multiple_of(16) + 16
    }

    /// What a head of the queries reads.
    fn head<'a>(self, index: usize, [queries, keys, values]: [Rows<'a>; 3]) -> Head<'a> {
        Head {
            index,
            queries: queries.head(self, index),
            keys: keys.head(self, index),
            values: values.head(self, index),
        }
    }
}

/// A buffer that is cut into the parts that a head needs.
struct Scratch<'a>(&'a mut [f32]);

impl<'a> Scratch<'a> {
    fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        part
    }
}

#[cfg(test)]
mod tests;
