//! Spikes in the norms of a run, independent of any policy.

use std::collections::VecDeque;

use crate::statistics::quantile;

/// A step, or consecutive steps, with a norm far above the usual one. Steps with a non-finite norm
/// neither start nor end a spike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// The index of its first step.
    pub first: usize,
    /// The index of its last step.
    pub last: usize,
    /// The index of the step with the largest ratio of norm to usual norm.
    pub peak: usize,
    /// That ratio.
    pub times: f64,
}

/// The spikes of a run, and the bound for each step.
///
/// ```
/// use gradclip_judge::Spikes;
///
/// let mut norms = vec![1.0; 40];
/// norms[30] = 8.0;
/// let spikes = Spikes::find(norms);
/// assert_eq!((spikes.list[0].peak, spikes.list[0].times), (30, 8.0));
/// ```
#[derive(Clone, Debug)]
pub struct Spikes {
    /// All spikes, in order.
    pub list: Vec<Spike>,
    /// For each step, the norm above which it is a spike; `None` while there is no usual norm.
    pub bounds: Vec<Option<f64>>,
}

impl Spikes {
    /// A norm above this many times the usual one is a spike.
    pub const TIMES_USUAL: f64 = 3.0;

    /// Finds the spikes among the norms of consecutive steps.
    #[must_use]
    pub fn find(norms: impl IntoIterator<Item = f64>) -> Spikes {
        let mut usual = UsualNorm::default();
        let (mut list, mut bounds): (Vec<Spike>, Vec<Option<f64>>) = (Vec::new(), Vec::new());
        let mut going_on = false;
        for (index, norm) in norms.into_iter().enumerate() {
            let expected = usual.get();
            bounds.push(expected.map(|expected| Self::TIMES_USUAL * expected));
            usual.push(norm);
            if !norm.is_finite() {
                continue;
            }
            let times = expected.map_or(0.0, |expected| norm / expected);
            if times <= Self::TIMES_USUAL {
                going_on = false;
                continue;
            }
            match list.last_mut().filter(|_| going_on) {
                Some(spike) => {
                    spike.last = index;
                    if times > spike.times {
                        (spike.peak, spike.times) = (index, times);
                    }
                }
                None => list.push(Spike {
                    first: index,
                    last: index,
                    peak: index,
                    times,
                }),
            }
            going_on = true;
        }
        Spikes { list, bounds }
    }
}

/// The usual norm: the median of the last finite norms.
#[derive(Clone, Debug, Default)]
pub struct UsualNorm {
    last: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl UsualNorm {
    /// The number of finite norms it is the median of.
    pub const WINDOW: usize = 50;
    /// With fewer finite norms than this, there is no usual norm.
    pub const FEWEST: usize = 10;

    /// Adds the norm of the next step.
    pub fn push(&mut self, norm: f64) {
        if !norm.is_finite() {
            return;
        }
        if self.last.len() == Self::WINDOW
            && let Some(oldest) = self.last.pop_front()
        {
            let place = self.sorted.partition_point(|known| *known < oldest);
            self.sorted.remove(place);
        }
        self.last.push_back(norm);
        let place = self.sorted.partition_point(|known| *known < norm);
        self.sorted.insert(place, norm);
    }

    /// The usual norm, if there are enough norms and it is not zero.
    #[must_use]
    pub fn get(&self) -> Option<f64> {
        let median = quantile(&self.sorted, 0.5).filter(|_| self.sorted.len() >= Self::FEWEST);
        median.filter(|median| *median > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(usize, f64)]) -> Vec<f64> {
        let mut norms = vec![1.0; 100];
        for &(index, norm) in changes {
            norms[index] = norm;
        }
        norms
    }

    fn extents(norms: &[f64]) -> Vec<(usize, usize, usize)> {
        let spikes = Spikes::find(norms.iter().copied()).list;
        spikes.iter().map(|s| (s.first, s.last, s.peak)).collect()
    }

    #[test]
    fn more_than_three_times_the_median_is_a_spike() {
        assert_eq!(extents(&with(&[])), []);
        assert_eq!(extents(&with(&[(40, 3.0)])), []);
        assert_eq!(extents(&with(&[(40, 3.0_f64.next_up())])), [(40, 40, 40)]);
        let spikes = Spikes::find(with(&[(40, 8.0)])).list;
        assert_eq!(spikes[0].times, 8.0);
    }

    #[test]
    fn steps_in_a_row_are_one_spike_that_starts_at_the_first() {
        let norms = with(&[(40, 4.0), (41, 9.0), (42, 5.0), (44, 6.0)]);
        assert_eq!(extents(&norms), [(40, 42, 41), (44, 44, 44)]);
    }

    #[test]
    fn no_spike_is_found_in_the_first_ten_norms() {
        let norms = with(&[(0, 1e3), (9, 50.0), (10, 50.0)]);
        assert_eq!(extents(&norms), [(10, 10, 10)]);
        // A norm that is not finite does not count among the ten.
        assert_eq!(extents(&with(&[(3, f64::NAN), (10, 50.0)])), []);
        assert_eq!(extents(&[5.0; 7]), []);
        assert_eq!(extents(&[]), []);
    }

    #[test]
    fn non_finite_steps_neither_start_nor_end_a_spike() {
        let norms = with(&[(40, 4.0), (41, f64::NAN), (42, 5.0), (60, f64::INFINITY)]);
        assert_eq!(extents(&norms), [(40, 42, 42)]);
    }

    #[test]
    fn a_lasting_new_level_stops_being_a_spike() {
        let mut norms = vec![1.0; 60];
        norms.extend([10.0; 100]);
        // After 25 steps half of the window is of the new level.
        assert_eq!(extents(&norms), [(60, 84, 60)]);
    }

    #[test]
    fn without_a_usual_norm_nothing_is_a_spike() {
        let mut norms = vec![0.0; 30];
        norms.push(1.0);
        assert_eq!(extents(&norms), []);
    }

    /// By sorting, as the definition says it.
    #[test]
    fn the_usual_norm_is_the_median_of_the_last_fifty() {
        let norms: Vec<f64> = (0..300).map(|i: u32| f64::from(i * 37 % 101)).collect();
        let mut usual = UsualNorm::default();
        for (step, norm) in norms.iter().enumerate() {
            let window = &norms[step.saturating_sub(UsualNorm::WINDOW)..step];
            let expected = crate::statistics::median(window.iter().copied());
            assert_eq!(usual.get(), expected.filter(|_| step >= UsualNorm::FEWEST));
            usual.push(*norm);
        }
    }
}
