//! The smoothing of losses, for the curves of reports, for the steps to a target loss, and for the
//! screen.

use std::collections::VecDeque;

use gradclip_judge::statistics::{mean, median};

/// Steps on each side in a median. It takes this many spikes to bend it, or half as many at an end.
const MEDIAN_SIDE: usize = 7;
/// Steps on each side in the mean of medians; fewer at an end, so that a curve begins and ends at
/// its own height.
const MEAN_SIDE: usize = 7;

/// Smooths a series without lag: a centred median, in which a spike leaves no trace, then a centred
/// mean. Values that are not finite stay so.
pub(crate) fn smoothed(values: &[f64]) -> Vec<f64> {
    let medians: Vec<f64> = (0..values.len())
        .map(|step| {
            let end = values.len().min(step + MEDIAN_SIDE + 1);
            let around = &values[step.saturating_sub(MEDIAN_SIDE)..end];
            let finite = around.iter().copied().filter(|value| value.is_finite());
            median(finite).unwrap_or(f64::NAN)
        })
        .collect();
    let smooth = |step: usize| {
        let side = MEAN_SIDE.min(step).min(values.len() - 1 - step);
        let around = &medians[step - side..=step + side];
        let finite = around.iter().copied().filter(|value| value.is_finite());
        let mean = mean(finite).filter(|_| values[step].is_finite());
        mean.unwrap_or(f64::NAN)
    };
    (0..values.len()).map(smooth).collect()
}

/// The newest value of a growing series, smoothed as the end of a curve is.
#[derive(Debug, Default)]
pub(crate) struct Newest(VecDeque<f64>);

impl Newest {
    pub(crate) fn push(&mut self, value: f64) {
        // No earlier value bends the end of a curve.
        if self.0.len() > MEDIAN_SIDE {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// None before the first value; not finite where the newest is not.
    pub(crate) fn get(&self) -> Option<f64> {
        let (front, back) = self.0.as_slices();
        smoothed(&[front, back].concat()).last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_leaves_no_trace() {
        let mut loss = vec![2.0; 100];
        loss[50] = 1e6;
        loss[70] = f64::NAN;
        let smooth = smoothed(&loss);
        assert!(smooth[70].is_nan());
        let others = smooth.iter().enumerate().filter(|(step, _)| *step != 70);
        assert!(others.clone().all(|(_, level)| *level == 2.0));
        assert_eq!(others.count(), 99);
    }

    #[test]
    fn spikes_at_the_first_steps_do_not_raise_the_curve() {
        let falling = |step: u32| 2.0 + 2.0 * (-f64::from(step) / 30.0).exp();
        let usual: Vec<f64> = (0..200).map(falling).collect();
        let mut wild = usual.clone();
        wild[2] = 87_338.0;
        wild[3] = 2_213.0;
        for (step, (usual, wild)) in smoothed(&usual).iter().zip(smoothed(&wild)).enumerate() {
            let apart = (wild - usual).abs();
            assert!(apart < 0.1, "step {step}: {wild} instead of {usual}");
            assert!(step < 20 || apart == 0.0, "step {step} remembers a spike");
        }
    }

    #[test]
    fn the_newest_value_is_the_end_of_the_curve() {
        let mut loss: Vec<f64> = (0..60).map(|step| 4.0 - 0.03 * f64::from(step)).collect();
        (loss[2], loss[3]) = (4e6, 8e4);
        loss[30] = f64::NAN;
        let mut newest = Newest::default();
        assert_eq!(newest.get(), None);
        for (step, value) in loss.iter().enumerate() {
            newest.push(*value);
            let (shown, end) = (newest.get(), smoothed(&loss[..=step]).pop());
            let both_nan = shown.is_some_and(f64::is_nan) && end.is_some_and(f64::is_nan);
            assert!(both_nan || shown == end, "step {step}");
            // Two steps of an explosion are forgotten once they are a minority.
            assert!(
                step < 7 || !shown.is_some_and(|loss| loss > 4.0),
                "step {step}"
            );
        }
    }

    #[test]
    fn a_straight_line_is_its_own_smoothing() {
        let line: Vec<f64> = (0..50).map(f64::from).collect();
        let inner = 7..43;
        assert_eq!(smoothed(&line)[14..36], line[14..36]);
        assert!(
            inner
                .clone()
                .all(|step| (smoothed(&line)[step] - line[step]).abs() < 2.0)
        );
        assert!(smoothed(&[]).is_empty());
        assert_eq!(smoothed(&[3.0]), [3.0]);
        assert!(smoothed(&[f64::NAN])[0].is_nan());
    }
}
