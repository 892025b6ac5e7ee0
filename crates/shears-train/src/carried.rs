//! Splitting and joining the carried state of a recurrent model by rows of the batch.
//!
//! Each tensor is `[1, rows, size]`. Rows are independent, so they can be split, computed
//! elsewhere, and joined again.

use burn::tensor::{Tensor, TensorData};
use shears_model::State;
use shears_parallel::Ranks;

/// `count` of the `of` rows of a state, starting with row `first`.
pub(crate) fn part_of(state: &State, first: usize, count: usize, of: usize) -> State {
    if count == of {
        return state.clone();
    }
    let tensors = state.tensors.iter();
    let tensors = tensors.map(|(name, tensor)| {
        let part = tensor.clone().narrow(1, first, count);
        (name.clone(), part)
    });
    State {
        tensors: tensors.collect(),
        ..state.clone()
    }
}

/// Joins the states of consecutive rows.
pub(crate) fn joined(mut parts: Vec<State>) -> State {
    let Some(mut whole) = parts.pop() else {
        return State::default();
    };
    if parts.is_empty() {
        return whole;
    }
    for (name, last) in &mut whole.tensors {
        let first = parts.iter().filter_map(|part| part.tensors.get(name));
        let all: Vec<Tensor<3>> = first.chain([&*last]).cloned().collect();
        *last = Tensor::cat(all, 1);
    }
    // It selects the dropout masks of a part.
    whole.dropout = None;
    whole
}

/// Gathers a tensor `[1, rows, size]` of the rows of all ranks, in rank order. Collective.
pub(crate) fn gather_rows(ranks: &dyn Ranks, own: TensorData) -> TensorData {
    if ranks.size() == 1 {
        return own;
    }
    let width = own.shape().last().copied().unwrap_or(1);
    let bytes: Vec<u8> = own.iter::<f32>().flat_map(f32::to_le_bytes).collect();
    let all = ranks.gather(&bytes).concat();
    let (words, _) = all.as_chunks();
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let rows = values.len() / width.max(1);
    TensorData::new(values, [1, rows, width])
}
