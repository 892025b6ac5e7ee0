//! Percentiles of all norms of a run, in bounded memory.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::math::{exp, floor, ln};

/// How many norms are kept as they are.
const EXACT: usize = 10_000;

/// The ratio of the ends of a bucket. A number taken for the middle of its bucket is off by at
/// most the root of this, which is 0.1 %.
const BUCKET_RATIO: f64 = 1.002;

/// All norms seen so far: each of them while there are at most 10,000, and afterwards their count
/// in buckets that grow geometrically (Masson, Rim and Lee, "DDSketch", 2019), so that every order
/// statistic is known to one part in a thousand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NormHistory {
    /// In ascending order.
    Exact(Vec<f64>),
    Buckets(Buckets),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets {
    /// Norms that are zero, which no bucket holds.
    zeros: u64,
    counts: BTreeMap<i64, u64>,
}

impl NormHistory {
    pub(crate) const EMPTY: NormHistory = NormHistory::Exact(Vec::new());

    /// The percentile of the history and `norm` together, interpolated as NumPy does by default.
    pub(crate) fn percentile_with(&self, norm: f64, percentile: f64) -> f64 {
        let last = match self {
            NormHistory::Exact(norms) => norms.len() as u64,
            NormHistory::Buckets(buckets) => buckets.count(),
        };
        let position = percentile / 100.0 * last as f64;
        let below = (floor(position) as u64).min(last);
        let low = self.order_statistic_with(norm, below);
        let high = self.order_statistic_with(norm, (below + 1).min(last));
        let fraction = position - floor(position);
        // Written so that equal ends give exactly themselves.
        low + (high - low) * fraction
    }

    pub(crate) fn insert(&mut self, norm: f64) {
        match self {
            NormHistory::Exact(norms) if norms.len() < EXACT => {
                norms.insert(norms.partition_point(|other| *other < norm), norm);
            }
            NormHistory::Exact(norms) => {
                let mut buckets = Buckets::default();
                norms.iter().for_each(|norm| buckets.insert(*norm));
                buckets.insert(norm);
                *self = NormHistory::Buckets(buckets);
            }
            NormHistory::Buckets(buckets) => buckets.insert(norm),
        }
    }

    /// The number at place `rank`, from 0, in the sorted list of the history and `norm`.
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
            NormHistory::Buckets(buckets) => buckets.order_statistic_with(norm, rank),
        }
    }

    /// Plain numbers, for a checkpoint: the norms, or zeros, bucket, count, bucket, count, ...
    pub(crate) fn numbers(&self) -> (&'static str, Vec<f64>) {
        match self {
            NormHistory::Exact(norms) => ("norms", norms.clone()),
            NormHistory::Buckets(buckets) => {
                let counts = buckets.counts.iter();
                let pairs = counts.flat_map(|(bucket, count)| [*bucket as f64, *count as f64]);
                let numbers = core::iter::once(buckets.zeros as f64).chain(pairs);
                ("buckets", numbers.collect())
            }
        }
    }

    /// Takes back sorted norms.
    pub(crate) fn from_norms(norms: &[f64]) -> Result<NormHistory, &'static str> {
        let valid = |norm: &f64| norm.is_finite() && *norm >= 0.0;
        if norms.len() > EXACT || !norms.iter().all(valid) || !norms.is_sorted() {
            return Err("must hold at most 10000 finite norms in ascending order");
        }
        Ok(NormHistory::Exact(norms.to_vec()))
    }

    /// Takes back buckets.
    pub(crate) fn from_buckets(numbers: &[f64]) -> Result<NormHistory, &'static str> {
        const PROBLEM: &str = "must hold a count of zeros and pairs of bucket and count";
        let whole = |number: &f64| number.abs() < 1e15 && floor(*number) == *number;
        let Some((zeros, pairs)) = numbers.split_first() else {
            return Err(PROBLEM);
        };
        let (pairs, rest) = pairs.as_chunks::<2>();
        let valid = |pair: &[f64; 2]| {
            (Buckets::LOWEST..=Buckets::HIGHEST).contains(&pair[0]) && pair[1] >= 1.0
        };
        let sums_fit = pairs.iter().map(|[_, count]| count).sum::<f64>() < 1e18;
        if !rest.is_empty() || *zeros < 0.0 || !numbers.iter().all(whole) || !sums_fit {
            return Err(PROBLEM);
        }
        // A bucket that is told twice would lose the norms of its first count.
        let ascending = pairs.is_sorted_by(|[left, _], [right, _]| left < right);
        if !pairs.iter().all(valid) || !ascending {
            return Err(PROBLEM);
        }
        Ok(NormHistory::Buckets(Buckets {
            zeros: *zeros as u64,
            counts: pairs
                .iter()
                .map(|[bucket, count]| (*bucket as i64, *count as u64))
                .collect(),
        }))
    }
}

impl Buckets {
    /// The buckets of the smallest and the largest `f64` lie between these.
    const LOWEST: f64 = -400_000.0;
    const HIGHEST: f64 = 400_000.0;

    fn bucket_of(norm: f64) -> i64 {
        floor(ln(norm) / ln(BUCKET_RATIO)) as i64
    }

    fn middle_of(bucket: i64) -> f64 {
        exp((bucket as f64 + 0.5) * ln(BUCKET_RATIO)).min(f64::MAX)
    }

    fn insert(&mut self, norm: f64) {
        if norm > 0.0 {
            *self.counts.entry(Buckets::bucket_of(norm)).or_default() += 1;
        } else {
            self.zeros += 1;
        }
    }

    fn count(&self) -> u64 {
        self.counts
            .values()
            .fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    fn order_statistic_with(&self, norm: f64, rank: u64) -> f64 {
        let own = (norm > 0.0).then(|| Buckets::bucket_of(norm));
        let mut seen = self.zeros + u64::from(own.is_none());
        if rank < seen {
            return 0.0;
        }
        let mut own_is_ahead = own;
        for (&bucket, &count) in &self.counts {
            if own_is_ahead.is_some_and(|own| own < bucket) {
                own_is_ahead = None;
                seen += 1;
                if rank < seen {
                    return norm;
                }
            }
            seen = seen.saturating_add(count);
            if own_is_ahead == Some(bucket) {
                own_is_ahead = None;
                seen += 1;
            }
            if rank < seen {
                return Buckets::middle_of(bucket);
            }
        }
        norm
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{EXACT, NormHistory};

    fn history(norms: impl IntoIterator<Item = f64>) -> NormHistory {
        let mut history = NormHistory::EMPTY;
        norms.into_iter().for_each(|norm| history.insert(norm));
        history
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
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
    fn memory_is_bounded_by_the_range_and_zero_has_its_place() {
        let history = history(norms(10 * EXACT).into_iter().chain(vec![0.0; 3 * EXACT]));
        let (name, numbers) = history.numbers();
        assert!(
            name == "buckets" && numbers.len() < 20_000,
            "{}",
            numbers.len()
        );
        assert_eq!(history.percentile_with(0.0, 20.0), 0.0);
        assert!(history.percentile_with(0.0, 30.0) > 0.0);
        assert_eq!(NormHistory::from_buckets(&numbers), Ok(history));
    }

    #[test]
    fn numbers_that_are_no_history_are_refused() {
        assert!(NormHistory::from_norms(&[2.0, 1.0]).is_err());
        assert!(NormHistory::from_norms(&[f64::NAN]).is_err());
        assert!(NormHistory::from_norms(&[-1.0]).is_err());
        assert!(NormHistory::from_buckets(&[]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.5]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1e9, 1.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1.0, 0.0]).is_err());
        assert!(NormHistory::from_buckets(&[0.0, 1.0, 2.0, 1.0, 2.0]).is_err());
    }
}
