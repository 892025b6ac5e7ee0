//! The parts of a text that a recurrent model reads in parallel, divided among ranks.

use std::ops::{ControlFlow, Range};

use burn::tensor::{Tensor, TensorData};
use shears_data::{Batch, EvaluationStreams};
use shears_model::{LanguageModel, State};

use super::{Reader, Sum, TOKENS_PER_CALL};
use crate::batches::rows_of;
use crate::carried::{gather_rows, joined, part_of};
use crate::exchange::Share;

/// Two losses of a window this close, in nats per token, count as equal: a few f32 roundings.
const SAME: f64 = 3e-6;

/// The number of windows in a row that must have equal losses: a difference that changes sign may
/// be small in one window.
const SAME_WINDOWS: usize = 2;

/// The most passes over the parts of a text; more would cost as much as a single stream.
const MAX_PASSES: usize = 8;

/// Groups of parts that are read in one batch.
struct Groups {
    /// The groups of this rank.
    own: Vec<Range<usize>>,
    /// The number of parts of each group of all ranks, in order.
    sizes: Vec<usize>,
}

impl<M: LanguageModel> Reader<'_, M> {
    /// Reads the parts after the head in parallel, each from the final state of the previous part.
    ///
    /// In the first pass these states are unknown, so all parts start from the final state of the
    /// head. In the next pass each part starts from the final state of the previous part, and is
    /// read until the losses of its windows no longer change: its final state is then already
    /// correct. A part that changes up to its end has a better final state for the next pass, and
    /// so on, until no part changes.
    pub(super) fn read_parts(
        &mut self,
        streams: EvaluationStreams<'_>,
        head: State,
        sum: &mut Sum,
    ) -> ControlFlow<()> {
        let parts = streams.parts();
        let groups = self.groups_of(parts);
        let batches = || streams.part_batches(TOKENS_PER_CALL / parts);
        let mut losses = Vec::new();
        let start = |rows: &Range<usize>| repeated(&head, rows.len());
        let mut states: Vec<State> = groups.own.iter().map(start).collect();
        for batch in batches() {
            losses.push(self.loss_of_parts(&batch, &groups, &mut states)?);
        }
        let mut same = 0;
        'passes: for _ in 1..MAX_PASSES {
            states = self.initial_states(&head, states, &groups);
            for (batch, loss) in batches().zip(&mut losses) {
                let found = self.loss_of_parts(&batch, &groups, &mut states)?;
                let change = (found - *loss).abs();
                *loss = found;
                same = if change <= SAME { same + 1 } else { 0 };
                // A non-finite loss will not converge.
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

    /// Divides the parts into `shards` groups, or one per rank if the ranks do not divide `shards`.
    /// With fewer parts than groups, empty groups are dropped.
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

    /// The mean loss over all ranks of a batch with one row per part. Updates `states`, the states
    /// of this rank's groups. Collective: if one rank stops, all do.
    fn loss_of_parts(
        &mut self,
        batch: &Batch,
        groups: &Groups,
        states: &mut [State],
    ) -> ControlFlow<(), f64> {
        // A flag whether the rank continues, then the losses of its groups.
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

    /// The initial states of this rank's groups, from the final states of all parts and of the
    /// head. Collective.
    fn initial_states(&self, head: &State, ends: Vec<State>, groups: &Groups) -> Vec<State> {
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
                    Tensor::from_data(gather_rows(self.ranks, own), self.device)
                }
            };
            let others = others.narrow(1, 0, parts - 1);
            *first = Tensor::cat(vec![first.clone(), others], 1);
        }
        let of_group = |rows: &Range<usize>| part_of(&starts, rows.start, rows.len(), parts);
        groups.own.iter().map(of_group).collect()
    }
}

/// Repeats the state of one row.
fn repeated(state: &State, rows: usize) -> State {
    let mut state = state.clone();
    for tensor in state.tensors.values_mut() {
        *tensor = tensor.clone().repeat_dim(1, rows);
    }
    state
}

/// The mean over all rows of groups of these sizes; a single group's mean is unchanged.
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
    fn the_mean_is_over_all_rows() {
        assert_eq!(mean_of([6.0, 10.0].into_iter(), &[3, 1]), 7.0);
        // Neither multiplied nor divided, to keep its bits.
        let loss = 0.1 + 0.2;
        assert_eq!(mean_of([loss].into_iter(), &[13]).to_bits(), loss.to_bits());
    }
}
