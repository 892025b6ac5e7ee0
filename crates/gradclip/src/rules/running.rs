//! Sliding windows and running means that do not overflow.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::math::sqrt;
use crate::state::{Lists, StateError};

/// The last `length` values of a series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    length: u32,
    /// The fewest values that say something about others.
    needed: u32,
    values: VecDeque<f64>,
}

impl Window {
    pub(super) fn new(length: u32, needed: u32) -> Window {
        Window {
            length,
            needed,
            values: VecDeque::new(),
        }
    }

    /// The median, once there are enough values.
    pub(super) fn median(&self) -> Option<f64> {
        let count = self.values.len();
        if count < self.needed as usize {
            return None;
        }
        let mut sorted = self.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = count / 2;
        match count % 2 {
            1 => Some(sorted[middle]),
            // Halving first avoids overflow near the largest `f64`.
            _ => Some(sorted[middle - 1] / 2.0 + sorted[middle] / 2.0),
        }
    }

    /// The limit above which a new value is an outlier, once there are enough values.
    pub(super) fn limit(&self, sigma: f64) -> Option<f64> {
        /// If values hardly varied, every rounding error would be an outlier.
        const LEAST_RELATIVE_DEVIATION: f64 = 1e-6;
        let count = self.values.len();
        if count < self.needed as usize {
            return None;
        }
        let mean = mean_of(self.values.iter(), count as f64);
        let squares = self
            .values
            .iter()
            .map(|value| (value - mean) * (value - mean));
        let variance = squares.fold(0.0, |sum, square| sum + square / (count - 1) as f64);
        let deviation = sqrt(variance).max(LEAST_RELATIVE_DEVIATION * mean.abs());
        if sigma == f64::INFINITY {
            // Infinity times a zero deviation would be NaN.
            return Some(f64::INFINITY);
        }
        Some(mean + sigma * deviation)
    }

    pub(super) fn push(&mut self, value: f64) {
        while self.values.len() >= self.length as usize {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }

    pub(super) fn to_vec(&self) -> Vec<f64> {
        self.values.iter().copied().collect()
    }

    /// Restores the values of a list, all of which must be valid.
    pub(super) fn restore(
        &mut self,
        lists: &mut Lists<'_>,
        name: &str,
        valid: fn(&f64) -> bool,
    ) -> Result<(), StateError> {
        let values = lists.take(name)?;
        if values.len() > self.length as usize || !values.iter().all(valid) {
            return Err(lists.wrong(name, "must hold finite norms, no more than its window"));
        }
        self.values = values.iter().copied().collect();
        Ok(())
    }
}

/// Divides before summing, so that sums of large norms stay finite.
pub(super) fn mean_of<'a>(values: impl Iterator<Item = &'a f64>, count: f64) -> f64 {
    let mean = values.fold(0.0, |sum, value| sum + value / count);
    mean.clamp(f64::MIN, f64::MAX)
}

/// Saturates, because rounding can overflow a mean of the largest values.
pub(super) fn running_mean(running: f64, decay: f64, new: f64) -> f64 {
    (decay * running + (1.0 - decay) * new).min(f64::MAX)
}
