//! The parts of a text that a recurrent model reads at the same time, and how ranks share them.

use std::ops::{ControlFlow, Range};

use burn::tensor::{Tensor, TensorData};
use shears_data::{Batch, EvaluationStreams};
use shears_model::{LanguageModel, State};

use super::{Reader, Sum, TOKENS_AT_ONCE};
use crate::batches::rows_of;
use crate::carried::{joined, part_of, rows_of_all};
use crate::exchange::Share;

/// Within how many nats a token two losses of a window count as equal: a few roundings of an f32.
const SAME: f64 = 3e-6;

/// How many windows in a row must have equal losses: a difference that changes its sign is small in
/// one of them.
const SAME_WINDOWS: usize = 2;

/// The most passes over the parts of a text, which cost nearly as much as a single stream.
const MOST_PASSES: usize = 8;

/// Parts that are read together, and those of all ranks.
struct Groups {
    /// Of this rank.
    own: Vec<Range<usize>>,
    /// How many parts each group of all ranks has, in their order.
    sizes: Vec<usize>,
}

impl<M: LanguageModel> Reader<'_, M> {
    /// Reads the parts after the head in parallel, each from the state in which the one before it
    /// ends.
    ///
    /// In the first pass these states are unknown, and all parts start from that of the head. In
    /// the next one each part starts from the state in which the one before it ended, and is read
    /// until the losses of its windows no longer change: its old final state is then right. A part
    /// that changes to its end has a better final state for the next pass, and so on, until no part
    /// changes.
    pub(super) fn read_parts(
        &mut self,
        streams: EvaluationStreams<'_>,
        head: State,
        sum: &mut Sum,
    ) -> ControlFlow<()> {
        let parts = streams.parts();
        let groups = self.groups_of(parts);
        let batches = || streams.part_batches(TOKENS_AT_ONCE / parts);
        let mut losses = Vec::new();
        let start = |rows: &Range<usize>| repeated(&head, rows.len());
        let mut states: Vec<State> = groups.own.iter().map(start).collect();
        for batch in batches() {
            losses.push(self.loss_of_parts(&batch, &groups, &mut states)?);
        }
        let mut same = 0;
        'passes: for _ in 1..MOST_PASSES {
            states = self.one_part_later(&head, states, &groups);
            for (batch, loss) in batches().zip(&mut losses) {
                let found = self.loss_of_parts(&batch, &groups, &mut states)?;
                let change = (found - *loss).abs();
                *loss = found;
                same = if change <= SAME { same + 1 } else { 0 };
                // A loss that is not finite will not converge.
                if same == SAME_WINDOWS || !change.is_finite() {
                    break 'passes;
                }
            }
        }
        for (batch, loss) in batches().zip(losses) {
            sum.add(loss, batch.targets.len());
        }
        ControlFlow::Continue(())
    }

    /// The parts in as many groups as `shards` says, or as there are ranks that do not divide them.
    /// Where there are fewer parts than groups, some of these have none and are left out.
    fn groups_of(&self, parts: usize) -> Groups {
        let size = self.ranks.size();
        let of = |rank| {
            let groups = Share::of_parts(parts, self.shards, rank, size).groups;
            groups.into_iter().filter(|rows| !rows.is_empty())
        };
        Groups {
            own: of(self.ranks.rank()).collect(),
            sizes: (0..size).flat_map(of).map(|rows| rows.len()).collect(),
        }
    }

    /// The mean loss of a batch that has a row for each part, over all ranks, and in `states` those
    /// of this rank's groups afterwards. An exchange: if one of the ranks stops, all do.
    fn loss_of_parts(
        &mut self,
        batch: &Batch,
        groups: &Groups,
        states: &mut [State],
    ) -> ControlFlow<(), f64> {
        // Whether the rank goes on, and the losses of its groups.
        let mut own = vec![1];
        let readers = self.ranks.size();
        for (rows, state) in groups.own.iter().zip(states) {
            let before = std::mem::take(state);
            match self.mean_loss(&rows_of(batch.clone(), rows), before, readers) {
                ControlFlow::Continue((loss, after)) => {
                    own.extend(loss.to_le_bytes());
                    *state = after;
                }
                ControlFlow::Break(()) => {
                    own = vec![0];
                    break;
                }
            }
        }
        let mut losses = Vec::new();
        for all in self.ranks.gather(&own) {
            match all.split_first() {
                Some((1, own)) => losses.extend_from_slice(own),
                _ => return ControlFlow::Break(()),
            }
        }
        let (losses, _) = losses.as_chunks();
        let losses = losses.iter().map(|loss| f64::from_le_bytes(*loss));
        ControlFlow::Continue(mean_of(losses, &groups.sizes))
    }

    /// The states of this rank's groups at the starts of their parts, from those of all parts at
    /// their ends and that of the head. An exchange.
    fn one_part_later(&self, head: &State, ends: Vec<State>, groups: &Groups) -> Vec<State> {
        let ends = joined(ends).tensors;
        let parts: usize = groups.sizes.iter().sum();
        let mut starts = head.clone();
        for (name, first) in &mut starts.tensors {
            let others = match (ends.get(name), self.ranks.size()) {
                (Some(ends), 1) => ends.clone(),
                (ends, _) => {
                    let [_, _, width] = first.dims();
                    let nothing = || TensorData::new(Vec::<f32>::new(), [1, 0, width]);
                    let own = ends.map_or_else(nothing, |ends| ends.clone().into_data());
                    Tensor::from_data(rows_of_all(self.ranks, own), self.device)
                }
            };
            let others = others.narrow(1, 0, parts - 1);
            *first = Tensor::cat(vec![first.clone(), others], 1);
        }
        let of_group = |rows: &Range<usize>| part_of(&starts, rows.start, rows.len(), parts);
        groups.own.iter().map(of_group).collect()
    }
}

/// The state of one row for each of several.
fn repeated(state: &State, rows: usize) -> State {
    let mut state = state.clone();
    for tensor in state.tensors.values_mut() {
        *tensor = tensor.clone().repeat_dim(1, rows);
    }
    state
}

/// The mean over all rows of groups of these sizes; a single group's mean is as it is.
fn mean_of(mut means: impl Iterator<Item = f64>, sizes: &[usize]) -> f64 {
    if sizes.len() == 1 {
        return means.next().unwrap_or(f64::NAN);
    }
    let weighted = means.zip(sizes).map(|(mean, rows)| mean * *rows as f64);
    weighted.sum::<f64>() / sizes.iter().sum::<usize>() as f64
}

#[cfg(test)]
mod tests {
    use super::mean_of;

    #[test]
    fn a_mean_is_that_of_all_rows() {
        assert_eq!(mean_of([6.0, 10.0].into_iter(), &[3, 1]), 7.0);
        // Neither multiplied nor divided, so that it keeps its bits.
        let loss = 0.1 + 0.2;
        assert_eq!(mean_of([loss].into_iter(), &[13]).to_bits(), loss.to_bits());
    }
}
