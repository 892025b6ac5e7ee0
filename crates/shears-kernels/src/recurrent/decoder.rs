//! A recurrent model that reads one text token by token, as generation does.
//!
//! The kernels are those of [`super::recurrent`], without creating Burn's tensors and passing them
//! on, which takes much of the time of a small model. If the vocabulary is small, the first layer's
//! product with a token's embedding is kept for the next time that the token comes.

use burn::backend::DispatchTensor;
use burn::tensor::DType;

use super::forward::{Inputs, Shape, input_bias, window};
use super::{Cell, RecurrentWeights, WeightSlices};
use crate::buffer::Buffer;
use crate::cpu::{Cpu, Precision};
use crate::embedding::gather;
use crate::linear::last_row_product;
use crate::matmul::{FEW_ROWS, Initial, product_of_few_rows};
use crate::operation::plain;
use crate::tensor::{Whole, check_tokens};
use crate::transformer::WithBias;

/// A recurrent model in the middle of one text, whose states it keeps.
#[derive(Debug)]
pub struct RecurrentDecoder {
    cell: Cell,
    precision: Precision,
    embedding: Whole,
    layers: Vec<Layer>,
    output: WithBias<Whole>,
    products: Option<Products>,
}

#[derive(Debug)]
struct Layer {
    weight_ih: Whole,
    weight_hh: Whole,
    bias_ih: Whole,
    bias_hh: Whole,
    /// `[hidden]`
    hidden: Buffer,
    /// LSTM: `[hidden]`, else empty.
    cell_state: Buffer,
}

impl Layer {
    /// Its parameters, with these matrices.
    fn slices<'a>(&'a self, [weight_ih, weight_hh]: [&'a Whole; 2]) -> WeightSlices<'a> {
        WeightSlices {
            input: weight_ih.weight(),
            recurrent: weight_hh.weight(),
            input_bias: self.bias_ih.values(),
            recurrent_bias: self.bias_hh.values(),
        }
    }
}

/// `W_ih x + b` of the first layer for the tokens read so far.
#[derive(Debug)]
struct Products {
    /// `[vocabulary, gates x hidden]`
    rows: Buffer,
    /// Which rows are known.
    known: Vec<bool>,
}

impl RecurrentDecoder {
    /// A decoder at the start of a text, for an embedding `[vocabulary, inputs]`, layers of one
    /// kind, and an output layer `[vocabulary, hidden]`. `None` unless all tensors are on the CPU
    /// device, outside automatic differentiation, and the embedding is `f32`; the matrices of
    /// products may be bf16 (see [`crate::narrowed`]).
    ///
    /// # Panics
    ///
    /// If a matrix has not the rows of the cell's gates.
    pub fn new(
        (cell, precision): (Cell, Precision),
        embedding: DispatchTensor,
        layers: Vec<RecurrentWeights>,
        output: WithBias<DispatchTensor>,
    ) -> Option<Self> {
        let embedding = plain(embedding).filter(|table| table.dtype() == DType::F32)?;
        let layers = layers.into_iter().map(|weights| {
            let layer = Layer {
                weight_ih: plain(weights.weight_ih.into_dispatch())?,
                weight_hh: plain(weights.weight_hh.into_dispatch())?,
                bias_ih: plain(weights.bias_ih.into_dispatch())?,
                bias_hh: plain(weights.bias_hh.into_dispatch())?,
                hidden: Buffer::zeros(0),
                cell_state: Buffer::zeros(0),
            };
            let ([rows, hidden], [inputs, _]) = (layer.weight_hh.sizes(), layer.weight_ih.sizes());
            assert_eq!(rows, cell.gates() * hidden, "rows of the recurrent weights");
            assert_eq!(rows, inputs, "rows of the input weights");
            Some(layer)
        });
        let layers: Vec<Layer> = layers.collect::<Option<_>>()?;
        let [vocabulary, inputs] = embedding.sizes();
        let [width, _] = layers.first().map(|layer| layer.weight_ih.sizes())?;
        let kept = Self::kept_products(vocabulary, inputs, width);
        let mut decoder = RecurrentDecoder {
            cell,
            precision,
            embedding,
            layers,
            output: output.try_map(plain)?,
            products: (kept > 0).then(|| Products {
                rows: Buffer::uninitialised(kept),
                known: vec![false; vocabulary],
            }),
        };
        decoder.restart();
        Some(decoder)
    }

    /// The elements of the first layer's products that a decoder keeps, for a first layer of
    /// `width` gates in total: none if they would be more than the weights.
    #[must_use]
    pub fn kept_products(vocabulary: usize, inputs: usize, width: usize) -> usize {
        match vocabulary <= inputs {
            true => vocabulary.saturating_mul(width),
            false => 0,
        }
    }

    /// Forgets the text.
    pub fn restart(&mut self) {
        let is_lstm = self.cell == Cell::Lstm;
        for layer in &mut self.layers {
            let [_, size] = layer.weight_hh.sizes();
            layer.hidden = Buffer::zeros(size);
            layer.cell_state = Buffer::zeros(if is_lstm { size } else { 0 });
        }
    }

    /// Reads the next tokens of the text, and returns the logits of the token after them.
    ///
    /// # Panics
    ///
    /// If there is no token, or one is not in the vocabulary.
    pub fn read(&mut self, tokens: &[u32]) -> Vec<f32> {
        let [vocabulary, mut inputs] = self.embedding.sizes();
        check_tokens(tokens, vocabulary);
        let cpu = Cpu::current().with(self.precision);
        let cell = self.cell;
        self.learn(cpu, tokens);
        let is_many = tokens.len() > FEW_ROWS;
        let mut x = match &self.products {
            Some(_) => Buffer::zeros(0),
            None => gather(cpu, self.embedding.values(), inputs, tokens),
        };
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let [_, hidden] = layer.weight_hh.sizes();
            let shape = Shape {
                time: tokens.len(),
                batch: 1,
                inputs,
                hidden,
            };
            let source = match &self.products {
                Some(products) if index == 0 => Inputs::Products {
                    products: &products.rows,
                    tokens,
                },
                _ => Inputs::Rows(&x),
            };
            // Products of many rows pack `f32` weights.
            let wide =
                is_many.then(|| [&layer.weight_ih, &layer.weight_hh].map(|w| w.clone().widened()));
            let [weight_ih, weight_hh] = match &wide {
                Some([weight_ih, weight_hh]) => [weight_ih, weight_hh],
                None => [&layer.weight_ih, &layer.weight_hh],
            };
            let weights = layer.slices([weight_ih, weight_hh]);
            let before = (&layer.hidden[..], &layer.cell_state[..]);
            let found = window(cpu, cell, shape, source, weights, before);
            layer
                .hidden
                .copy_from_slice(&found.outputs[(tokens.len() - 1) * hidden..]);
            if cell == Cell::Lstm {
                layer
                    .cell_state
                    .copy_from_slice(&found.cells[(tokens.len() - 1) * hidden..]);
            }
            (x, inputs) = (found.outputs, hidden);
        }
        let last = &x[x.len() - inputs..];
        last_row_product(cpu, &self.output, last)
    }

    /// Computes the products of tokens that come for the first time.
    fn learn(&mut self, cpu: Cpu, tokens: &[u32]) {
        let (Some(products), Some(layer)) = (&mut self.products, self.layers.first()) else {
            return;
        };
        let [_, inputs] = self.embedding.sizes();
        let [width, _] = layer.weight_ih.sizes();
        let [_, size] = layer.weight_hh.sizes();
        for &token in tokens {
            let token = token as usize;
            if std::mem::replace(&mut products.known[token], true) {
                continue;
            }
            let weights = layer.slices([&layer.weight_ih, &layer.weight_hh]);
            let bias = input_bias(self.cell, size, weights);
            let x = &self.embedding.values()[token * inputs..][..inputs];
            let row = &mut products.rows[token * width..][..width];
            let initial = Initial::Bias(&bias);
            product_of_few_rows(cpu, (weights.input, width), (x, 1), (row, width), initial);
        }
    }
}
