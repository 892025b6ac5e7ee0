//! Running numbers: the last ones of a series, and means that stay in range.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::math::sqrt;
use crate::state::{Lists, StateError};

/// The last numbers of a series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    length: u32,
    numbers: VecDeque<f64>,
}

impl Window {
    /// The median of fewer numbers than this is no estimate of anything.
    const FEWEST_FOR_MEDIAN: usize = 10;

    pub(super) fn new(length: u32) -> Window {
        Window {
            length,
            numbers: VecDeque::new(),
        }
    }

    /// The median, once there are enough numbers.
    pub(super) fn median(&self) -> Option<f64> {
        let count = self.numbers.len();
        if count < Window::FEWEST_FOR_MEDIAN.min(self.length as usize) {
            return None;
        }
        let mut sorted = self.numbers();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = count / 2;
        match count % 2 {
            1 => Some(sorted[middle]),
            // Halving first keeps norms near the end of the range in it.
            _ => Some(sorted[middle - 1] / 2.0 + sorted[middle] / 2.0),
        }
    }

    /// The number above which a new one is an outlier, once the window is half full.
    pub(super) fn limit(&self, sigma: f64) -> Option<f64> {
        /// Numbers that hardly vary would make an outlier of every rounding error.
        const LEAST_RELATIVE_DEVIATION: f64 = 1e-6;
        let count = self.numbers.len();
        if count < (self.length as usize / 2).max(2) {
            return None;
        }
        let mean = mean_of(self.numbers.iter(), count as f64);
        let squares = self
            .numbers
            .iter()
            .map(|number| (number - mean) * (number - mean));
        let variance = squares.fold(0.0, |sum, square| sum + square / (count - 1) as f64);
        let deviation = sqrt(variance).max(LEAST_RELATIVE_DEVIATION * mean.abs());
        if sigma == f64::INFINITY {
            // Infinity times a deviation of zero would be no number.
            return Some(f64::INFINITY);
        }
        Some(mean + sigma * deviation)
    }

    pub(super) fn push(&mut self, number: f64) {
        while self.numbers.len() >= self.length as usize {
            self.numbers.pop_front();
        }
        self.numbers.push_back(number);
    }

    pub(super) fn clear(&mut self) {
        self.numbers.clear();
    }

    pub(super) fn numbers(&self) -> Vec<f64> {
        self.numbers.iter().copied().collect()
    }

    /// Takes back the numbers of this list, all of which must be valid.
    pub(super) fn restore(
        &mut self,
        lists: &mut Lists<'_>,
        name: &str,
        valid: fn(&f64) -> bool,
    ) -> Result<(), StateError> {
        let numbers = lists.take(name)?;
        if numbers.len() > self.length as usize || !numbers.iter().all(valid) {
            return Err(lists.wrong(name, "must hold finite norms, no more than its window"));
        }
        self.numbers = numbers.iter().copied().collect();
        Ok(())
    }
}

/// Dividing first keeps the sum of large norms finite.
pub(super) fn mean_of<'a>(numbers: impl Iterator<Item = &'a f64>, count: f64) -> f64 {
    let mean = numbers.fold(0.0, |sum, number| sum + number / count);
    mean.clamp(f64::MIN, f64::MAX)
}

/// Rounding can lead a mean of the largest numbers out of the range.
pub(super) fn running_mean(running: f64, decay: f64, new: f64) -> f64 {
    (decay * running + (1.0 - decay) * new).min(f64::MAX)
}
