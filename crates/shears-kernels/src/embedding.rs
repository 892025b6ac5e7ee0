//! Embedding lookup and its gradient.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor, s};
use pulp::{Simd, WithSimd};

use crate::buffer::{Buffer, elements};
use crate::cpu::{Cpu, Shared};
use crate::operation::{Forward, Operation, call_with_one_output};
use crate::tensor::{contiguous, is_ours, sizes, tokens as to_tokens, values};
use crate::vector::{load, store};

#[cfg(test)]
mod tests;

/// Looks up the row of each token: `[batch, time, size]` for `tokens` `[batch, time]` and `weight`
/// `[vocabulary, size]`. With `positions`, a table `[context, size]` and the position of the first
/// token of each sequence, adds the row of each position.
///
/// # Panics
///
/// If a token is not in the vocabulary, or a position not in the context.
pub fn embedding(
    tokens: Tensor<2, Int>,
    weight: Tensor<2>,
    positions: Option<(Tensor<2>, usize)>,
) -> Tensor<3> {
    let [batch, time] = tokens.dims();
    let [vocabulary, size] = weight.dims();
    if let Some((positions, start)) = &positions {
        let [context, width] = positions.dims();
        assert_eq!(size, width, "width of the positions");
        assert!(start + time <= context, "a position outside the context");
    }
    if !is_ours(&weight) {
        return embedding_plain(tokens, weight, positions);
    }
    // Without positions the operation gets an empty table.
    let none = || (Tensor::zeros([0, size], &weight.device()), 0);
    let (positions, start) = positions.unwrap_or_else(none);
    let [context, _] = positions.dims();
    let lookup = Lookup {
        tokens: to_tokens(tokens, vocabulary),
        time,
        start,
        vocabulary,
        context,
    };
    let rows = call_with_one_output(lookup, [weight.into_dispatch(), positions.into_dispatch()]);
    Tensor::<2>::from_dispatch(rows).reshape([batch, time, size])
}

/// [`embedding()`] composed of Burn's operations, on any device and in any precision.
pub fn embedding_plain(
    tokens: Tensor<2, Int>,
    weight: Tensor<2>,
    positions: Option<(Tensor<2>, usize)>,
) -> Tensor<3> {
    let [batch, time] = tokens.dims();
    let [_, size] = weight.dims();
    let rows = weight
        .select(0, tokens.reshape([batch * time]))
        .reshape([batch, time, size]);
    match positions {
        Some((positions, start)) => rows + positions.slice(s![start..start + time, ..]).unsqueeze(),
        None => rows,
    }
}

/// The lookup of tokens and positions; its result is `[batch x time, size]`.
struct Lookup {
    tokens: Vec<u32>,
    time: usize,
    start: usize,
    vocabulary: usize,
    /// Rows of positions; 0 if there are none.
    context: usize,
}

impl Operation<2> for Lookup {
    type Saved = Lookup;

    fn forward(self, inputs: [FlexTensor; 2], _needs_backward: bool) -> Forward<Lookup> {
        let [weight, positions] = inputs.map(contiguous);
        let [_, size] = sizes(&weight);
        let cpu = Cpu::current();
        let mut rows = gather(cpu, values(&weight), size, &self.tokens);
        if self.context > 0 {
            let window = &values(&positions)[self.start * size..][..self.time * size];
            cpu.split_rows(&mut rows, window.len(), 1, |_, rows| {
                for rows in rows.chunks_exact_mut(window.len()) {
                    for (row, position) in rows.iter_mut().zip(window) {
                        *row += position;
                    }
                }
            });
        }
        Forward::of(rows.into_tensor([self.tokens.len(), size]), self)
    }

    fn backward(
        lookup: Lookup,
        gradient: FlexTensor,
        [weight_wanted, positions_wanted]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let [_, size] = sizes(&gradient);
        let rows = values(&gradient);
        let cpu = Cpu::current();
        let weight = weight_wanted.then(|| {
            let len = lookup.vocabulary * size;
            let weight = scatter(cpu, rows, size, &lookup.tokens, len);
            weight.into_tensor([lookup.vocabulary, size])
        });
        let positions = (positions_wanted && lookup.context > 0).then(|| {
            let places = (0..lookup.tokens.len()).map(|row| lookup.start + row % lookup.time);
            let places: Vec<u32> = places.map(|place| place as u32).collect();
            let positions = scatter(cpu, rows, size, &places, lookup.context * size);
            positions.into_tensor([lookup.context, size])
        });
        [weight, positions]
    }
}

/// The row of each token: `[tokens, size]` from `[vocabulary, size]`.
pub(crate) fn gather(cpu: Cpu, weight: &[f32], size: usize, tokens: &[u32]) -> Buffer {
    let mut rows = Buffer::uninitialised(elements(&[tokens.len(), size]));
    cpu.split_rows(&mut rows, size, 64, |first, rows| {
        for (&token, row) in tokens[first..].iter().zip(rows.chunks_exact_mut(size)) {
            row.copy_from_slice(&weight[token as usize * size..][..size]);
        }
    });
    rows
}

/// The gradient of an embedding of `len` elements: for each token, the sum of its rows, in order.
pub(crate) fn scatter(
    cpu: Cpu,
    gradients: &[f32],
    size: usize,
    tokens: &[u32],
    len: usize,
) -> Buffer {
    let mut weight = Buffer::zeros(len);
    add_by_token(cpu, (gradients, size), size, tokens, &mut weight);
    weight
}

/// Adds each row, the first `width` of every `stride` elements, to the row of its token in `table`
/// `[vocabulary, width]`.
///
/// Threads divide the columns, so that every sum is in row order.
pub(crate) fn add_by_token(
    cpu: Cpu,
    (rows, stride): (&[f32], usize),
    width: usize,
    tokens: &[u32],
    table: &mut [f32],
) {
    let shared = Shared::new(table);
    cpu.split(width, 64, |columns| {
        cpu.run(AddByToken {
            rows,
            stride,
            width,
            tokens,
            table: &shared,
            columns,
        });
    });
}

struct AddByToken<'a, 'b> {
    rows: &'a [f32],
    stride: usize,
    width: usize,
    tokens: &'a [u32],
    table: &'b Shared<'a, f32>,
    columns: std::ops::Range<usize>,
}

impl WithSimd for AddByToken<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.columns;
        for (&token, row) in self.tokens.iter().zip(self.rows.chunks(self.stride)) {
            let first = token as usize * self.width;
            // SAFETY: each thread has its own columns, and holds one row at a time.
            let sums = unsafe { self.table.part(first + columns.start..first + columns.end) };
            let row = &row[columns.clone()];
            for (sums, row) in sums.chunks_mut(S::F32_LANES).zip(row.chunks(S::F32_LANES)) {
                let sum = simd.add_f32s(load(simd, sums), load(simd, row));
                store(simd, sums, sum);
            }
        }
    }
}
