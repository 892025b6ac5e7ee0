//! The results of the runs of a comparison, from their logs alone.

use std::path::Path;

use gradclip::ClipAction;
use gradclip_judge::statistics::mean;
use shears_run::{Columns, EndReason, Judgement, Subject};

use super::smooth::smoothed;

/// A loss this many mean deviations above its running mean counts as a jump.
const JUMP_DEVIATIONS: f64 = 6.0;
/// The weight of the newest step in the running mean.
const JUMP_WEIGHT: f64 = 0.02;
/// Steps before the running mean is reliable.
pub(super) const JUMP_WARMUP: usize = 50;

/// The log of a run, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) columns: Columns,
    pub(crate) end: Option<EndReason>,
    /// The judgement of the whole run.
    pub(super) judgement: Option<Judgement>,
}

impl Outcome {
    /// The results in the log of a run.
    pub(crate) fn of(columns: Columns, folder: &Path) -> Outcome {
        Outcome {
            end: columns.end.as_ref().map(|end| end.how),
            judgement: Some(columns.judge(&Subject::of(folder))),
            columns,
        }
    }

    /// Keeps the steps up to `step`, and the evaluations up to step `evaluation`.
    pub(crate) fn cut(&mut self, step: u64, evaluation: u64) {
        let columns = &mut self.columns;
        let beyond = columns.step.partition_point(|known| *known <= step);
        if let Some(beyond) = columns.step.get(beyond).copied() {
            // The run got farther than this, whatever happened later.
            self.end = None;
            columns.truncate(beyond);
        }
        columns.evaluations.retain(|found| found.step <= evaluation);
    }

    /// The training loss of each step.
    pub(super) fn loss(&self) -> Vec<f64> {
        self.columns.loss.iter().copied().map(f64::from).collect()
    }

    /// The rows of steps with this action.
    pub(super) fn steps_with(&self, action: ClipAction) -> impl Iterator<Item = usize> {
        let actions = self.columns.action.iter().enumerate();
        let wanted = actions.filter(move |(_, taken)| **taken == action);
        wanted.map(|(row, _)| row)
    }

    pub(super) fn broke_off(&self) -> bool {
        matches!(self.end, Some(EndReason::Diverged | EndReason::Failed))
    }

    /// Whether training did not break off, and the last validation loss is below the first training
    /// loss.
    pub(super) fn converged(&self) -> bool {
        let first = self.columns.loss.first().copied().unwrap_or(f32::NAN);
        let is_lower = |loss| loss < f64::from(first);
        !self.broke_off() && self.last_loss().is_some_and(is_lower)
    }

    /// The last validation loss, if it is finite.
    pub(super) fn last_loss(&self) -> Option<f64> {
        let last = self.columns.evaluations.last().map(|last| last.val_loss);
        last.filter(|loss| loss.is_finite())
    }

    /// The class of the verdict, as JSON has it and in words.
    pub(super) fn class(&self) -> Option<(&'static str, &'static str)> {
        let class = self.judgement.as_ref()?.verdict.class;
        Some((class.name(), class.words()))
    }

    /// How often the loss jumped out of its running band.
    pub(super) fn loss_jumps(&self) -> usize {
        let (mut level, mut deviation) = (f64::NAN, 0.0);
        let (mut jumps, mut outside) = (0, false);
        for (step, loss) in self.loss().into_iter().enumerate() {
            if level.is_nan() {
                level = loss;
                continue;
            }
            let high = !loss.is_finite() || loss > level + JUMP_DEVIATIONS * deviation;
            let jump = step >= JUMP_WARMUP && high;
            jumps += usize::from(jump && !outside);
            outside = jump;
            // A jump must not widen the band for the next one.
            if loss.is_finite() && !jump {
                deviation += JUMP_WEIGHT * ((loss - level).abs() - deviation);
                level += JUMP_WEIGHT * (loss - level);
            }
        }
        jumps
    }

    /// The first step whose smoothed training loss is at most `target`.
    pub(super) fn steps_to(&self, target: f64) -> Option<usize> {
        let mut smooth = smoothed(&self.loss()).into_iter();
        smooth.position(|loss| loss <= target).map(|at| at + 1)
    }
}

/// Mean and half the width of its 95 % confidence interval, by Student's distribution. Fewer than
/// three values have no interval: for two it would be 12.7 standard errors wide, which is useless.
pub(super) fn mean_and_interval(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let mean = mean(values.iter().copied())?;
    let degrees = values.len() - 1;
    if degrees < 2 {
        return Some((mean, None));
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / degrees as f64).sqrt();
    let half = student_95(degrees) * deviation / (values.len() as f64).sqrt();
    Some((mean, Some(half)))
}

/// The 97.5 % quantile of Student's distribution with this many degrees of freedom.
fn student_95(degrees: usize) -> f64 {
    const QUANTILES: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    // Fisher's expansion in 1 / degrees, from the normal distribution's quantile.
    let of_many = || {
        let (z, n) = (1.959_964_f64, degrees as f64);
        let (first, second) = (z.powi(3) + z, 5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z);
        z + first / (4.0 * n) + second / (96.0 * n * n)
    };
    QUANTILES.get(degrees - 1).copied().unwrap_or_else(of_many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_three_values() {
        let (mean, half) = mean_and_interval(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(mean, 2.0);
        // 4.303 x 1 / sqrt(3)
        assert!((half.unwrap() - 2.4843).abs() < 1e-3);
        assert_eq!(mean_and_interval(&[5.0]), Some((5.0, None)));
        assert_eq!(mean_and_interval(&[5.0, 7.0]), Some((6.0, None)));
        assert_eq!(mean_and_interval(&[]), None);
        // Beyond the table it continues smoothly: 2.0395 is that of 31 degrees, 1.9840 of 100.
        assert!((student_95(31) - 2.0395).abs() < 1e-4);
        assert!((student_95(100) - 1.9840).abs() < 1e-4);
    }

    #[test]
    fn a_long_jump_is_counted_once() {
        let mut loss: Vec<f32> = (0..200_u8).map(|i| 2.0 + 0.1 * f32::from(i % 3)).collect();
        let count = |loss: &[f32]| {
            let mut outcome = Outcome::default();
            outcome.columns.loss = loss.to_vec();
            outcome.loss_jumps()
        };
        assert_eq!(count(&loss), 0);
        loss[120..125].fill(9.0);
        loss[160] = f32::NAN;
        assert_eq!(count(&loss), 2);
    }
}
