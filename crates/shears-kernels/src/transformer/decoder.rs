//! A Transformer that reads one text token by token, as generation does.
//!
//! The kernels are those of [`super::transformer_block`]. What is saved is the way to them: creating
//! Burn's tensors and passing two dozen of them to each block takes a quarter of the time of a small
//! model.

use std::sync::Arc;

use burn::backend::DispatchTensor;
use burn::backend::flex::FlexTensor;
use burn::tensor::DType;

use super::cached::forward_cached;
use super::forward::{Block, Rotation, Sizes};
use super::operation::check;
use super::rope::RotaryTable;
use super::{BlockOf, BlockSettings, BlockWeights, WithBias};
use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::embedding::gather;
use crate::linear::last_row_product;
use crate::norm::{NormSlices, Normalize};
use crate::operation::plain;
use crate::tensor::{Whole, check_tokens};

/// The parameters of a Transformer.
#[derive(Clone, Debug)]
pub struct TransformerWeights {
    /// `[vocabulary, hidden]`
    pub embedding: DispatchTensor,
    /// `[context, hidden]`, unless positions are rotary.
    pub positions: Option<DispatchTensor>,
    /// Those of each block.
    pub blocks: Vec<BlockWeights>,
    /// The norm after the last block, of the kind of theirs.
    pub norm: WithBias<DispatchTensor>,
    /// `[vocabulary, hidden]`
    pub output: WithBias<DispatchTensor>,
}

/// A Transformer in the middle of one text, whose keys and values it keeps.
#[derive(Debug)]
pub struct TransformerDecoder {
    embedding: Whole,
    positions: Option<Whole>,
    blocks: Vec<BlockOf<Whole>>,
    norm: WithBias<Whole>,
    output: WithBias<Whole>,
    settings: BlockSettings,
    /// The keys and values of each block, `[1, tokens, keys]`; `None` at the start of a text.
    earlier: Vec<Option<[FlexTensor; 2]>>,
    /// The tokens read.
    position: usize,
}

impl TransformerDecoder {
    /// A decoder at the start of a text. Dropout does not apply. `None` unless all tensors are on
    /// the CPU device, outside automatic differentiation, and the embedding is `f32`; the matrices
    /// of products may be bf16 (see [`crate::narrowed`]).
    ///
    /// # Panics
    ///
    /// If the shapes do not match.
    pub fn new(weights: TransformerWeights, settings: BlockSettings) -> Option<Self> {
        let embedding = plain(weights.embedding).filter(|table| table.dtype() == DType::F32)?;
        let [_, hidden] = embedding.sizes();
        let blocks = weights.blocks.into_iter().map(|block| {
            check(hidden, &block, settings);
            block.try_map(plain)
        });
        let mut decoder = TransformerDecoder {
            embedding,
            positions: match weights.positions {
                Some(positions) => Some(plain(positions)?),
                None => None,
            },
            blocks: blocks.collect::<Option<_>>()?,
            norm: weights.norm.try_map(plain)?,
            output: weights.output.try_map(plain)?,
            settings: BlockSettings {
                dropout: None,
                ..settings
            },
            earlier: Vec::new(),
            position: 0,
        };
        decoder.restart();
        Some(decoder)
    }

    /// Forgets the text.
    pub fn restart(&mut self) {
        self.earlier = self.blocks.iter().map(|_| None).collect();
        self.position = 0;
    }

    /// Reads the next tokens of the text, and returns the logits of the token after them.
    ///
    /// # Panics
    ///
    /// If there is no token, one is not in the vocabulary, or the text is longer than the table of
    /// positions.
    pub fn read(&mut self, tokens: &[u32]) -> Vec<f32> {
        let [vocabulary, hidden] = self.embedding.sizes();
        check_tokens(tokens, vocabulary);
        let (start, end) = (self.position, self.position + tokens.len());
        let settings = self.settings;
        let cpu = Cpu::current().with(settings.precision);
        let mut x = gather(cpu, self.embedding.values(), hidden, tokens);
        if let Some(positions) = &self.positions {
            let rows = &positions.values()[start * hidden..end * hidden];
            for (x, position) in x.iter_mut().zip(rows) {
                *x += position;
            }
        }
        let head = hidden / settings.heads;
        let table = |theta| RotaryTable::of(head, theta, end);
        let table: Option<Arc<RotaryTable>> = settings.rope_theta.map(table);
        let rotation = table.as_deref().map(|table| Rotation {
            table,
            start,
            time: tokens.len(),
        });
        for (parameters, kept) in self.blocks.iter().zip(&mut self.earlier) {
            let [_, inner] = parameters.project.weight.sizes();
            let sizes = Sizes::new([1, tokens.len()], [hidden, inner], settings);
            let wide = (!sizes.is_one_position()).then(|| parameters.clone().map(Whole::widened));
            let block = Block {
                cpu,
                sizes,
                x: &x,
                weights: wide
                    .as_ref()
                    .unwrap_or(parameters)
                    .as_ref()
                    .map(Whole::weight),
                masks: None,
                rotation,
            };
            // Nobody else owns the keys and values, so they grow in place.
            let earlier = kept.take().unwrap_or_else(|| {
                [(); 2].map(|()| Buffer::zeros(0).into_tensor([1, 0, sizes.keys()]))
            });
            let (output, all) = forward_cached(block, earlier);
            (x, *kept) = (output, Some(all));
        }
        self.position = end;
        let mut last = Buffer::uninitialised(hidden);
        cpu.run(Normalize {
            input: &x[(tokens.len() - 1) * hidden..],
            norm: NormSlices {
                norm: settings.norm,
                weight: self.norm.weight.values(),
                bias: self.norm.bias.as_ref().map(Whole::values),
            },
            output: &mut last,
        });
        last_row_product(cpu, &self.output, &last)
    }
}
