//! What the runs of a comparison came to, from their event logs alone.

use std::path::Path;

use gradclip::ClipAction;
use gradclip_judge::TimeFlow;
use gradclip_judge::statistics::{mean, share};
use shears_run::{Columns, EndReason, Judgement, Subject};

use super::smooth::smoothed;

/// A loss this many mean deviations above its running mean has jumped.
const JUMP_DEVIATIONS: f64 = 6.0;
/// The weight of the newest step in that mean.
const JUMP_WEIGHT: f64 = 0.02;
/// Steps before the mean is worth comparing with.
const JUMP_WARMUP: usize = 50;

/// The columns of a run that are compared; a number that is not finite is NaN.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) loss: Vec<f64>,
    pub(super) norm: Vec<f64>,
    pub(super) threshold: Vec<Option<f64>>,
    pub(super) coefficient: Vec<f64>,
    pub(super) cosine: Vec<f64>,
    pub(super) clipped: Vec<bool>,
    pub(super) skipped: Vec<bool>,
    /// The norm of each layer's gradient, from input to output; none if the log does not say what
    /// they are.
    pub(super) layers: Vec<(String, Vec<f64>)>,
    /// Step and loss.
    pub(crate) evaluations: Vec<(u64, f64)>,
    /// How gradients flowed back in time, from the first to the last time that it was measured.
    pub(super) time_flows: Vec<TimeFlow>,
    pub(crate) end: Option<EndReason>,
    /// Of the whole run, by the one judge.
    pub(super) judgement: Option<Judgement>,
}

impl Outcome {
    /// What the log in the folder of a run says.
    pub(crate) fn of(columns: &Columns, folder: &Path) -> Outcome {
        let is = |action| columns.action.iter().map(move |taken| *taken == action);
        let thresholds = columns.threshold.iter().copied();
        let evaluations = columns.evaluations.iter();
        Outcome {
            loss: columns.loss.iter().copied().map(f64::from).collect(),
            norm: columns.norm_before.clone(),
            threshold: thresholds
                .map(|threshold| Some(threshold).filter(|t| t.is_finite()))
                .collect(),
            coefficient: columns.coefficient.clone(),
            cosine: columns.cosine.iter().copied().map(f64::from).collect(),
            clipped: is(ClipAction::Clip).collect(),
            skipped: is(ClipAction::Skip).collect(),
            layers: columns.layer_norms().unwrap_or_default(),
            evaluations: evaluations.map(|one| (one.step, one.val_loss)).collect(),
            time_flows: columns.time_flows.clone(),
            end: columns.end.as_ref().map(|end| end.how),
            judgement: Some(columns.judge(&Subject::of(folder))),
        }
    }

    /// Leaves the first steps, and of the evaluations those up to the step of one.
    pub(crate) fn cut(&mut self, steps: usize, evaluation: u64) {
        if self.loss.len() > steps {
            // It came farther than this, whatever happened later.
            self.end = None;
        }
        for column in [
            &mut self.loss,
            &mut self.norm,
            &mut self.coefficient,
            &mut self.cosine,
        ] {
            column.truncate(steps);
        }
        self.threshold.truncate(steps);
        self.clipped.truncate(steps);
        self.skipped.truncate(steps);
        for (_, norms) in &mut self.layers {
            norms.truncate(steps);
        }
        self.evaluations.retain(|(step, _)| *step <= evaluation);
        self.time_flows.retain(|flow| flow.step <= steps as u64);
    }

    pub(super) fn broke_off(&self) -> bool {
        matches!(self.end, Some(EndReason::Diverged | EndReason::Failed))
    }

    /// Whether training did not break off, and has a loss below the one that it began with.
    pub(super) fn converged(&self) -> bool {
        let first = self.loss.first().copied().unwrap_or(f64::NAN);
        !self.broke_off() && self.last_loss().is_some_and(|loss| loss < first)
    }

    /// The last validation loss, if it is finite.
    pub(super) fn last_loss(&self) -> Option<f64> {
        let last = self.evaluations.last().map(|(_, loss)| *loss);
        last.filter(|loss| loss.is_finite())
    }

    pub(super) fn clipped_share(&self) -> f64 {
        share(self.clipped.iter().copied())
    }

    /// The class of the verdict, as JSON has it and in words.
    pub(super) fn class(&self) -> Option<(&'static str, &'static str)> {
        let class = self.judgement.as_ref()?.verdict.class;
        Some((class.name(), class.words()))
    }

    pub(super) fn skips(&self) -> usize {
        self.skipped.iter().filter(|skipped| **skipped).count()
    }

    /// The mean cosine between a gradient before and after, over the steps that were clipped.
    pub(super) fn cosine_when_clipped(&self) -> Option<f64> {
        let cosines = self.cosine.iter().zip(&self.clipped);
        let clipped = cosines.filter(|(_, clipped)| **clipped);
        let cosines = clipped.map(|(cosine, _)| *cosine);
        mean(cosines.filter(|cosine| cosine.is_finite()))
    }

    /// How often the loss jumped out of the band that it ran in.
    pub(super) fn loss_jumps(&self) -> usize {
        let (mut level, mut deviation) = (f64::NAN, 0.0);
        let (mut jumps, mut outside) = (0, false);
        for (step, &loss) in self.loss.iter().enumerate() {
            if level.is_nan() {
                level = loss;
                continue;
            }
            let high = !loss.is_finite() || loss > level + JUMP_DEVIATIONS * deviation;
            let jump = step >= JUMP_WARMUP && high;
            jumps += usize::from(jump && !outside);
            outside = jump;
            // A jump does not widen the band that the next one is judged by.
            if loss.is_finite() && !jump {
                deviation += JUMP_WEIGHT * ((loss - level).abs() - deviation);
                level += JUMP_WEIGHT * (loss - level);
            }
        }
        jumps
    }

    /// The first step whose smoothed training loss is at most that.
    pub(super) fn steps_to(&self, target: f64) -> Option<usize> {
        let smooth = smoothed(&self.loss);
        smooth
            .iter()
            .position(|loss| *loss <= target)
            .map(|at| at + 1)
    }
}

/// Mean and half the width of its 95 % confidence interval, by Student's distribution. Fewer than
/// three values carry no interval: of two it is 12.7 times their standard error, which says
/// nothing.
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

/// The 97.5 % quantile of Student's distribution with so many degrees of freedom.
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
        // Beyond the table it goes on without a step: 2.0395 is that of 31 degrees, 1.9840 of 100.
        assert!((student_95(31) - 2.0395).abs() < 1e-4);
        assert!((student_95(100) - 1.9840).abs() < 1e-4);
    }

    #[test]
    fn a_jump_is_counted_once_however_long_it_lasts() {
        let mut loss: Vec<f64> = (0..200).map(|i| 2.0 + 0.1 * f64::from(i % 3)).collect();
        let count = |loss: &[f64]| {
            let loss = loss.to_vec();
            let outcome = Outcome {
                loss,
                ..Outcome::default()
            };
            outcome.loss_jumps()
        };
        assert_eq!(count(&loss), 0);
        loss[120..125].fill(9.0);
        loss[160] = f64::NAN;
        assert_eq!(count(&loss), 2);
    }
}
