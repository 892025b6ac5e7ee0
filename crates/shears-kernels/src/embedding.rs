//! Rows of an embedding, and the gradient of one.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, s};
use pulp::{Simd, WithSimd};

use crate::buffer::{Buffer, elements};
use crate::cpu::{Cpu, Shared};
use crate::tensor::{contiguous, is_ours, sizes, tokens as to_tokens, values};
use crate::vector::{load, store};

#[cfg(test)]
mod tests;

/// The row of each token plus the row of its position: `[batch, time, size]` for `tokens` `[batch, time]`,
/// `weight` `[vocabulary, size]` and `positions` `[context, size]`. The first token of each row stands
/// at position `start`.
///
/// # Panics
///
/// If a token is not in the vocabulary, or a position not in the context.
pub fn embedding_with_positions(
    tokens: Tensor<2, Int>,
    weight: Tensor<2>,
    positions: Tensor<2>,
    start: usize,
) -> Tensor<3> {
    let [batch, time] = tokens.dims();
    let ([_, size], [context, width]) = (weight.dims(), positions.dims());
    assert_eq!(size, width, "width of the positions");
    assert!(start + time <= context, "a position outside the context");
    if !is_ours(&weight) {
        return embedding_with_positions_plain(tokens, weight, positions, start);
    }
    let rows = <Dispatch as EmbeddingBackend>::embed(
        weight.into_dispatch(),
        positions.into_dispatch(),
        tokens.into_dispatch(),
        start,
    );
    Tensor::<2>::from_dispatch(rows).reshape([batch, time, size])
}

/// [`embedding_with_positions`] in Burn's own operations, on any device and in any precision.
pub fn embedding_with_positions_plain(
    tokens: Tensor<2, Int>,
    weight: Tensor<2>,
    positions: Tensor<2>,
    start: usize,
) -> Tensor<3> {
    let [batch, time] = tokens.dims();
    let [_, size] = weight.dims();
    let rows = weight
        .select(0, tokens.reshape([batch * time]))
        .reshape([batch, time, size]);
    rows + positions.slice(s![start..start + time, ..]).unsqueeze()
}

#[backend_extension(Autodiff, Flex)]
trait EmbeddingBackend: Backend {
    /// `[batch x time, size]`
    fn embed(
        weight: FloatTensor<Self>,
        positions: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        start: usize,
    ) -> FloatTensor<Self>;
}

/// What the backward pass needs to know.
#[derive(Clone, Debug)]
struct Looked {
    tokens: Vec<u32>,
    time: usize,
    start: usize,
    vocabulary: usize,
    context: usize,
}

fn embed(
    weight: FlexTensor,
    positions: FlexTensor,
    tokens: FlexTensor,
    start: usize,
) -> (FlexTensor, Looked) {
    let (weight, positions) = (contiguous(weight), contiguous(positions));
    let ([vocabulary, size], [context, _]) = (sizes(&weight), sizes(&positions));
    let [_, time] = sizes(&tokens);
    let tokens = to_tokens(tokens, vocabulary);
    let cpu = Cpu::current();
    let mut rows = gather(cpu, values(&weight), size, &tokens);
    let window = &values(&positions)[start * size..][..time * size];
    cpu.split_rows(&mut rows, window.len(), 1, |_, rows| {
        for rows in rows.chunks_exact_mut(window.len()) {
            for (row, position) in rows.iter_mut().zip(window) {
                *row += position;
            }
        }
    });
    let rows = rows.into_tensor([tokens.len(), size]);
    let looked = Looked {
        tokens,
        time,
        start,
        vocabulary,
        context,
    };
    (rows, looked)
}

impl EmbeddingBackend for Flex {
    fn embed(
        weight: FlexTensor,
        positions: FlexTensor,
        tokens: FlexTensor,
        start: usize,
    ) -> FlexTensor {
        embed(weight, positions, tokens, start).0
    }
}

impl<C: CheckpointStrategy> EmbeddingBackend for Autodiff<Flex, C> {
    fn embed(
        weight: FloatTensor<Self>,
        positions: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        start: usize,
    ) -> FloatTensor<Self> {
        let (weight, weight_node) = weight.into_parts();
        let (positions, positions_node) = positions.into_parts();
        let (rows, looked) = embed(weight, positions, tokens, start);
        let parents = [weight_node, positions_node];
        match Embedding.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(looked, rows),
            OpsKind::UnTracked(prep) => prep.finish(rows),
        }
    }
}

#[derive(Debug)]
struct Embedding;

impl Backward<Flex, 2> for Embedding {
    type State = Looked;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let looked = ops.state;
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let [_, size] = sizes(&gradient);
        let rows = values(&gradient);
        let cpu = Cpu::current();
        let [weight, positions] = ops.parents;
        if let Some(parent) = weight {
            let len = looked.vocabulary * size;
            let weight = scatter(cpu, rows, size, &looked.tokens, len);
            let shape = [looked.vocabulary, size];
            gradients.register::<Flex>(parent.id, weight.into_tensor(shape));
        }
        if let Some(parent) = positions {
            let places = (0..looked.tokens.len()).map(|row| looked.start + row % looked.time);
            let places: Vec<u32> = places.map(|place| place as u32).collect();
            let positions = scatter(cpu, rows, size, &places, looked.context * size);
            let shape = [looked.context, size];
            gradients.register::<Flex>(parent.id, positions.into_tensor(shape));
        }
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

/// The gradient of an embedding of `len` elements: the sum, for each token, of its rows, one after the other.
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

/// Adds each row, the first `width` of every `stride` elements, to the row of its token in a table `[vocabulary, width]`.
///
/// Threads share the columns, so that every sum is in the order of the rows.
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
            // SAFETY: these columns are this thread's, and one row is alive at a time.
            let sums = unsafe { self.table.part(first + columns.start..first + columns.end) };
            let row = &row[columns.clone()];
            for (sums, row) in sums.chunks_mut(S::F32_LANES).zip(row.chunks(S::F32_LANES)) {
                let sum = simd.add_f32s(load(simd, sums), load(simd, row));
                store(simd, sums, sum);
            }
        }
    }
}
