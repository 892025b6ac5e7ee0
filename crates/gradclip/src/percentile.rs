//! Percentiles of all norms of a run, in bounded memory.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::math::{exp, floor, ln};
use crate::state::{Lists, StateError, is_norm};

/// The number of norms kept exactly.
const EXACT: usize = 10_000;

/// The ratio of a bucket's bounds. Replacing a norm by the middle of its bucket is off by at most
/// the square root of this, which is 0.1 %.
const BUCKET_RATIO: f64 = 1.002;

/// All norms so far: exact up to 10,000 norms, then counts in geometrically growing buckets
/// (Masson, Rim and Lee, "DDSketch", 2019), which give every order statistic to one part in a
/// thousand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NormHistory {
    /// In ascending order.
    Exact(Vec<f64>),
    /// The number of norms in each bucket.
    Buckets(BTreeMap<i64, u64>),
}

/// Contains the buckets of the smallest and the largest `f64`.
const BUCKETS: core::ops::RangeInclusive<f64> = -400_000.0..=400_000.0;

fn bucket_of(norm: f64) -> i64 {
    floor(ln(norm) / ln(BUCKET_RATIO)) as i64
}

fn middle_of(bucket: i64) -> f64 {
    exp((bucket as f64 + 0.5) * ln(BUCKET_RATIO)).min(f64::MAX)
}

impl NormHistory {
    pub(crate) const EMPTY: NormHistory = NormHistory::Exact(Vec::new());

    /// The percentile of the history and `norm` together, interpolated as NumPy does by default.
    pub(crate) fn percentile_with(&self, norm: f64, percentile: f64) -> f64 {
        let last = match self {
            NormHistory::Exact(norms) => norms.len() as u64,
            NormHistory::Buckets(counts) => counts.values().sum(),
        };
        let position = percentile / 100.0 * last as f64;
        let below = (floor(position) as u64).min(last);
        let low = self.order_statistic_with(norm, below);
        let high = self.order_statistic_with(norm, (below + 1).min(last));
        let fraction = position - floor(position);
        // This form is exact if both ends are equal.
        low + (high - low) * fraction
    }

    /// Adds a norm, which must be greater than zero.
    pub(crate) fn insert(&mut self, norm: f64) {
        if let NormHistory::Exact(norms) = self {
            if norms.len() < EXACT {
                norms.insert(norms.partition_point(|other| *other < norm), norm);
                return;
            }
            let mut counts = BTreeMap::new();
            for norm in norms {
                *counts.entry(bucket_of(*norm)).or_default() += 1;
            }
            *self = NormHistory::Buckets(counts);
        }
        if let NormHistory::Buckets(counts) = self {
            *counts.entry(bucket_of(norm)).or_default() += 1;
        }
    }

    /// The value at index `rank` of the sorted history with `norm` inserted.
    fn order_statistic_with(&self, norm: f64, rank: u64) -> f64 {
        match self {
            NormHistory::Exact(norms) => {
                let place = norms.partition_point(|other| *other < norm);
                let rank = rank as usize;
                match rank.cmp(&place) {
                    core::cmp::Ordering::Less => norms[rank],
                    core::cmp::Ordering::Equal => norm,
                    core::cmp::Ordering::Greater => norms[rank - 1],
                }
            }
            NormHistory::Buckets(counts) => {
                // Zero sorts before every bucket; other norms sort after the rest of their bucket.
                let own = if norm > 0.0 {
                    bucket_of(norm)
                } else {
                    i64::MIN
                };
                let up_to_own: u64 = counts.range(..=own).map(|(_, count)| count).sum();
                if rank == up_to_own {
                    return norm;
                }
                let rank = rank - u64::from(rank > up_to_own);
                let mut seen = 0;
                let bucket = counts.iter().find(|(_, count)| {
                    seen += **count;
                    rank < seen
                });
                bucket.map_or(norm, |(bucket, _)| middle_of(*bucket))
            }
        }
    }

    /// The state for a checkpoint: the norms, or bucket, count, bucket, count, ...
    pub(crate) fn state(&self) -> (String, Vec<f64>) {
        match self {
            NormHistory::Exact(norms) => ("norms".into(), norms.clone()),
            NormHistory::Buckets(counts) => {
                let counts = counts.iter();
                let pairs = counts.flat_map(|(bucket, count)| [*bucket as f64, *count as f64]);
                ("buckets".into(), pairs.collect())
            }
        }
    }

    /// Restores a state returned by [`NormHistory::state`].
    pub(crate) fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        let (name, history) = match lists.has("buckets") {
            true => ("buckets", NormHistory::from_buckets(lists.take("buckets")?)),
            false => ("norms", NormHistory::from_norms(lists.take("norms")?)),
        };
        *self = history.map_err(|problem| lists.wrong(name, problem))?;
        Ok(())
    }

    /// Restores sorted norms, dropping zeros, which earlier versions kept.
    fn from_norms(norms: &[f64]) -> Result<NormHistory, &'static str> {
        if norms.len() > EXACT || !norms.iter().all(is_norm) || !norms.is_sorted() {
            return Err("must hold at most 10000 finite norms in ascending order");
        }
        let zeros = norms.partition_point(|norm| *norm == 0.0);
        Ok(NormHistory::Exact(norms[zeros..].to_vec()))
    }

    /// Restores buckets, dropping the count of zeros that earlier versions put before them.
    fn from_buckets(numbers: &[f64]) -> Result<NormHistory, &'static str> {
        let (zeros, pairs) = numbers.as_rchunks::<2>();
        let whole = |number: &f64| number.abs() < 1e15 && floor(*number) == *number;
        let valid = |[bucket, count]: &[f64; 2]| BUCKETS.contains(bucket) && *count >= 1.0;
        // A repeated bucket would overwrite its first count.
        let ascending = pairs.is_sorted_by(|[left, _], [right, _]| left < right);
        let sums_fit = pairs.iter().map(|[_, count]| count).sum::<f64>() < 1e18;
        let all_valid = pairs.iter().all(valid) && zeros.iter().all(|zeros| *zeros >= 0.0);
        if pairs.is_empty() || !numbers.iter().all(whole) || !all_valid || !ascending || !sums_fit {
            return Err("must hold pairs of bucket and count");
        }
        let counts = pairs.iter();
        let counts = counts.map(|[bucket, count]| (*bucket as i64, *count as u64));
        Ok(NormHistory::Buckets(counts.collect()))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{EXACT, NormHistory};

    fn history(norms: impl IntoIterator<Item = f64>) -> NormHistory {
        let mut history = NormHistory::EMPTY;
        norms.into_iter().for_each(|norm| history.insert(norm));
        history
    }

    #[test]
    fn percentiles_match_numpy() {
        // numpy.percentile([3, 1, 4, 1, 5], 10) and so on.
        let norms = history([3.0, 1.0, 4.0, 1.0]);
        for (percentile, expected) in [
            (0.0, 1.0),
            (10.0, 1.0),
            (30.0, 1.4),
            (50.0, 3.0),
            (90.0, 4.6),
            (100.0, 5.0),
        ] {
            let found = norms.percentile_with(5.0, percentile);
            assert!((found - expected).abs() < 1e-12, "{percentile}: {found}");
        }
        assert_eq!(NormHistory::EMPTY.percentile_with(7.0, 10.0), 7.0);
    }

    /// Norms over six decades, from a linear congruential generator.
    fn norms(count: usize) -> Vec<f64> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            10_f64.powf((state >> 11) as f64 / (1_u64 << 53) as f64 * 6.0 - 3.0)
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn exact_for_ten_thousand_steps_and_to_one_part_in_a_thousand_afterwards() {
        for (count, bound) in [(EXACT, 1e-12), (3 * EXACT, 1.001_f64 - 1.0)] {
            let all = norms(count + 1);
            let (last, past) = all.split_last().unwrap();
            let history = history(past.iter().copied());
            let mut sorted = all.clone();
            sorted.sort_by(f64::total_cmp);
            for percentile in [0.0, 1.0, 10.0, 50.0, 90.0, 99.9, 100.0] {
                let position = percentile / 100.0 * count as f64;
                let (low, high) = (sorted[position as usize], sorted[position.ceil() as usize]);
                let expected = low + (high - low) * position.fract();
                let found = history.percentile_with(*last, percentile);
                let error = (found / expected - 1.0).abs();
                assert!(error <= bound, "{count} norms, {percentile} %: {error}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_by_the_range() {
        let history = history(norms(10 * EXACT));
        let (name, numbers) = history.state();
        assert!(
            name == "buckets" && numbers.len() < 20_000,
            "{}",
            numbers.len()
        );
        assert_eq!(NormHistory::from_buckets(&numbers), Ok(history));
    }

    #[test]
    fn zeros_of_earlier_versions_are_dropped() {
        let history = history([3.0, 1.0]);
        assert_eq!(NormHistory::from_norms(&[0.0, 0.0, 1.0, 3.0]), Ok(history));
        let buckets = NormHistory::from_buckets(&[5.0, -3.0, 2.0, 7.0, 1.0]);
        assert_eq!(buckets, NormHistory::from_buckets(&[-3.0, 2.0, 7.0, 1.0]));
    }

    #[test]
    fn invalid_histories_are_refused() {
        assert!(NormHistory::from_norms(&[2.0, 1.0]).is_err());
        assert!(NormHistory::from_norms(&[f64::NAN]).is_err());
        assert!(NormHistory::from_norms(&[-1.0]).is_err());
        assert!(NormHistory::from_buckets(&[]).is_err());
        assert!(NormHistory::from_buckets(&[0.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.5, 1.0]).is_err());
        assert!(NormHistory::from_buckets(&[-1.0, 0.0, 1.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1e9, 1.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1.0, 0.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1.0, 2.0, 1.0, 2.0]).is_err());
    }
}
