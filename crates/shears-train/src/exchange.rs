//! Data-parallel training: which rows of a batch each rank computes, and what the ranks exchange in
//! a step.

use std::ops::Range;
use std::time::Duration;

use gradclip::ClipperState;
use shears_parallel::{Ranks, Tree};

use crate::TrainError;
use crate::tensors::NamedTensor;

/// The rows of each micro-batch that one rank computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Groups of consecutive rows; the gradients of each group are computed in one batch.
    pub(crate) groups: Vec<Range<usize>>,
    /// Whether all groups of all ranks have the same number of rows, so that their mean losses have
    /// equal weight.
    pub(crate) is_even: bool,
}

impl Share {
    /// Divides `batch` rows into `shards` groups over the ranks. If the ranks do not divide the
    /// groups, each rank has one group, without bitwise reproducibility.
    ///
    /// # Errors
    ///
    /// A message, if there are fewer rows than groups.
    pub(crate) fn of(
        batch: usize,
        shards: usize,
        rank: usize,
        ranks: usize,
    ) -> Result<Share, String> {
        let all = Share::groups_of_all(shards, ranks);
        if batch < all {
            return Err(format!(
                "batch is {batch}; with {ranks} ranks and shards {shards} it must be at least \
                 {all}, one row per group"
            ));
        }
        Ok(Share::of_groups(batch, all, rank, ranks))
    }

    /// Divides the parts of a text in the same way. With fewer parts than groups, some groups are
    /// empty.
    pub(crate) fn of_parts(parts: usize, shards: usize, rank: usize, ranks: usize) -> Share {
        Share::of_groups(parts, Share::groups_of_all(shards, ranks), rank, ranks)
    }

    /// All rows of a batch for a single rank, in `shards` groups, at most one per row.
    pub(crate) fn alone(batch: usize, shards: usize) -> Share {
        Share::of_groups(batch, shards, 0, 1)
    }

    /// The number of groups of all ranks.
    pub(crate) fn groups_of_all(shards: usize, ranks: usize) -> usize {
        match shards.is_multiple_of(ranks) {
            true => shards,
            false => ranks,
        }
    }

    fn of_groups(batch: usize, all: usize, rank: usize, ranks: usize) -> Share {
        let each = all / ranks;
        let rows = |group| group * batch / all..(group + 1) * batch / all;
        Share {
            groups: (rank * each..(rank + 1) * each).map(rows).collect(),
            is_even: batch.is_multiple_of(all),
        }
    }

    /// All rows of this rank.
    pub(crate) fn rows(&self) -> Range<usize> {
        let first = self.groups.first().map_or(0, |group| group.start);
        first..self.groups.last().map_or(0, |group| group.end)
    }
}

/// The ranks compare their parameters and clippers every this many steps.
const COMPARED_EVERY: u64 = 64;

/// What a rank sends to all others in every step, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// Steps taken before this one.
    pub(crate) step: u64,
    /// The divisor of its sums of losses and gradients, to be added over all ranks.
    pub(crate) terms: u64,
    /// The sum of its losses.
    pub(crate) loss: f64,
    /// The duration of its forward and backward passes.
    pub(crate) computed: Duration,
    /// Whether it was asked to save and stop.
    pub(crate) stop: bool,
    /// A hash of parameters and clipper, at steps at which they are compared; otherwise 0.
    pub(crate) learned: u64,
}

impl Record {
    const WORDS: usize = 6;

    fn to_bytes(self) -> Vec<u8> {
        let words: [u64; Record::WORDS] = [
            self.step,
            self.terms,
            self.loss.to_bits(),
            self.computed.as_nanos() as u64,
            u64::from(self.stop),
            self.learned,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let (words, []) = bytes.as_chunks() else {
            return None;
        };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let &[step, terms, loss, computed, stop, learned] = &words[..] else {
            return None;
        };
        Some(Record {
            step,
            terms,
            loss: f64::from_bits(loss),
            computed: Duration::from_nanos(computed),
            stop: stop != 0,
            learned,
        })
    }
}

/// The records of all ranks.
#[derive(Clone, Debug)]
pub(crate) struct Records(Vec<Record>);

impl Records {
    /// Gathers the records of all ranks.
    ///
    /// # Errors
    ///
    /// On all ranks, if they are at different steps or their parameters or clippers differ.
    pub(crate) fn gather(ranks: &dyn Ranks, own: Record) -> Result<Records, TrainError> {
        let all = ranks.gather(&own.to_bytes());
        let records = all.iter().map(|bytes| Record::from_bytes(bytes));
        let records: Option<Vec<Record>> = records.collect();
        let records = records.filter(|records| !records.is_empty());
        let differ = |problem: String| TrainError::Ranks { problem };
        let Some(records) = records else {
            return Err(differ("the ranks run different programs".into()));
        };
        let first = records[0];
        for (rank, record) in records.iter().enumerate() {
            let (step, other) = (first.step + 1, record.step + 1);
            if step != other {
                return Err(differ(format!(
                    "rank {rank} is at step {other}, rank 0 at {step}"
                )));
            }
            if record.learned != first.learned {
                return Err(differ(format!(
                    "before step {step} the parameters or the clipper of rank {rank} differ from \
                     those of rank 0; its machine computes other bits, or its memory is faulty"
                )));
            }
        }
        Ok(Records(records))
    }

    /// The divisor of the sums over all ranks.
    pub(crate) fn terms(&self) -> u64 {
        self.0.iter().map(|record| record.terms).sum()
    }

    /// The mean loss, summed in the order of [`Tree`].
    pub(crate) fn loss(&self) -> f64 {
        let mut tree = Tree::default();
        for record in &self.0 {
            tree.push(record.loss, |left, right| left + right);
        }
        let sum = tree.finish(|left, right| left + right);
        sum.unwrap_or(f64::NAN) / self.terms() as f64
    }

    /// Whether any rank was asked to save and stop.
    pub(crate) fn stop(&self) -> bool {
        self.0.iter().any(|record| record.stop)
    }

    /// The rank that computed longest, its time, and how much longer that is than the fastest
    /// rank's.
    pub(crate) fn slowest(&self) -> (usize, Duration, Duration) {
        let computed = || self.0.iter().map(|record| record.computed);
        let quickest = computed().min().unwrap_or_default();
        // The first of several with equal times.
        let from_last = computed().enumerate().rev();
        let slowest = from_last.max_by_key(|(_, computed)| *computed);
        let (rank, longest) = slowest.unwrap_or_default();
        (rank, longest, longest - quickest)
    }
}

/// Whether the ranks compare parameters and clippers before a step.
pub(crate) fn compares_at(step: u64) -> bool {
    step.is_multiple_of(COMPARED_EVERY)
}

/// A hash of the parameters and the clipper, never 0: four lanes of FNV-1a over the bits (Fowler,
/// Noll & Vo), which is fast and detects every single difference.
pub(crate) fn hash_of(parameters: &[NamedTensor], clipper: &ClipperState) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut lanes = [0xcbf2_9ce4_8422_2325_u64; 4];
    for tensor in parameters {
        match tensor.data.as_slice::<f32>() {
            Ok(values) => {
                for (index, value) in values.iter().enumerate() {
                    let lane = &mut lanes[index % 4];
                    *lane = (*lane ^ u64::from(value.to_bits())).wrapping_mul(PRIME);
                }
            }
            // The models of this program have no parameters of other types.
            Err(_) => lanes[0] ^= tensor.data.num_elements() as u64,
        }
    }
    for value in clipper.values().flatten() {
        lanes[0] = (lanes[0] ^ value.to_bits()).wrapping_mul(PRIME);
    }
    let hash = lanes.into_iter().fold(PRIME, |hash, lane| {
        (hash.rotate_left(17) ^ lane).wrapping_mul(PRIME)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the groups of each rank begin and end.
    fn rows(batch: usize, shards: usize, ranks: usize) -> Vec<Vec<[usize; 2]>> {
        let share = |rank| Share::of(batch, shards, rank, ranks).unwrap().groups;
        let ends = |groups: Vec<Range<usize>>| groups.iter().map(|g| [g.start, g.end]).collect();
        (0..ranks).map(|rank| ends(share(rank))).collect()
    }

    #[test]
    fn rows_are_divided_in_order() {
        assert_eq!(rows(4, 1, 1), [[[0, 4]]]);
        assert_eq!(rows(5, 1, 2), [[[0, 2]], [[2, 5]]]);
        assert_eq!(rows(8, 4, 2), [[[0, 2], [2, 4]], [[4, 6], [6, 8]]]);
        // The same groups for any number of ranks.
        assert_eq!(rows(8, 4, 4).concat(), rows(8, 4, 1).concat());
        // Ranks that do not divide the groups.
        assert_eq!(rows(8, 4, 3), [[[0, 2]], [[2, 5]], [[5, 8]]]);
        for (batch, shards, ranks) in [(13, 8, 4), (7, 2, 5), (100, 1, 7)] {
            let all = rows(batch, shards, ranks).concat();
            let flat: Vec<usize> = all
                .into_iter()
                .flat_map(|[start, end]| start..end)
                .collect();
            assert_eq!(flat, (0..batch).collect::<Vec<_>>());
        }
        let refused = Share::of(3, 1, 0, 4).unwrap_err();
        assert!(refused.starts_with("batch is 3; with 4 ranks"), "{refused}");
        assert!(Share::of(6, 8, 0, 2).is_err());
    }

    #[test]
    fn the_loss_is_the_mean_over_all_tokens() {
        // Three tokens with a sum of 6, and one of 10: not the mean of the means, which is 6.
        let record = |loss, terms| Record {
            loss,
            terms,
            ..Record::default()
        };
        let records = Records(vec![record(6.0, 3), record(10.0, 1)]);
        assert_eq!((records.loss(), records.terms()), (4.0, 4));
        assert!(
            Records(vec![record(6.0, 3), record(f64::NAN, 1)])
                .loss()
                .is_nan()
        );
    }

    #[test]
    fn records_round_trip() {
        let record = Record {
            step: 7,
            terms: 3,
            loss: -0.25,
            computed: Duration::from_micros(12),
            stop: true,
            learned: u64::MAX,
        };
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        assert_eq!(Record::from_bytes(&[0; 40]), None);
        let other = Record {
            computed: Duration::from_micros(5),
            ..record
        };
        let slowest = Records(vec![other, record, other]).slowest();
        let [longest, waited] = [12, 7].map(Duration::from_micros);
        assert_eq!(slowest, (1, longest, waited));
        assert_eq!(Records(vec![record; 2]).slowest().0, 0);
    }
}
