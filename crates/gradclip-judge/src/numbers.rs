//! The figures behind a verdict.

use std::fmt;

use gradclip::{NormOrder, significant};

use crate::record::{Run, StepRecord};
use crate::statistics::{median, quantile, sorted};

/// A step that is cut to less than half is cut hard.
pub(crate) const HARD_ABOVE_CHANGE: f64 = 2.0;
/// Steps are ordinary if their median norm is at most this many times that of the others.
pub(crate) const OUTLIER_ABOVE_TIMES: f64 = 2.0;
/// Percentiles of fewer norms are not worth printing.
const FEWEST_NORMS: usize = 10;

/// How norms were distributed over the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct NormDistribution {
    /// The number of norms.
    pub count: usize,
    /// A tenth of the norms are below this.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// Nine tenths of the norms are below this.
    pub p90: f64,
    /// The largest norm.
    pub max: f64,
    /// The first step with the largest norm.
    pub max_at: u64,
}

/// The figures that a verdict rests on. Their [`Display`](fmt::Display) is one line.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Numbers {
    /// All steps, skipped ones included.
    pub steps: usize,
    /// The number of the first step.
    pub first_step: u64,
    /// Steps whose gradients were clipped.
    pub clipped: usize,
    /// Steps that were skipped.
    pub skipped: usize,
    /// Steps that were skipped as outliers.
    pub outliers: usize,
    /// Steps with non-finite gradients or loss.
    pub non_finite: usize,
    /// Steps that were cut to less than half of their length, or skipped as outliers.
    pub hard: usize,
    /// The final threshold; `None` if there was none, or each tensor had its own.
    pub threshold: Option<f64>,
    /// If there is no final threshold: the last one that there was, and its step.
    pub earlier_threshold: Option<(f64, u64)>,
    /// Whether every step had the final threshold.
    pub fixed: bool,
    /// The norms before clipping of all finite steps; `None` if there are none.
    pub norms: Option<NormDistribution>,
    /// The order of the norms.
    pub order: NormOrder,
    /// The median and the smallest coefficient of the clipped steps.
    pub left: Option<(f64, f64)>,
    /// The median, over all applied steps, of how much their length changed, as a factor of at
    /// least 1; `None` if unknown.
    pub median_change: Option<f64>,
    /// The median norm of the steps skipped as outliers, and that of the applied steps.
    pub outlier_norms: Option<(f64, f64)>,
    /// The median norm of the steps that were cut or skipped as outliers, and that of the others.
    pub cut_norms: Option<(f64, f64)>,
    /// The first and the last step at which clipping did anything.
    pub engaged_from_to: Option<(u64, u64)>,
}

impl Numbers {
    pub(crate) fn of(run: &Run<'_>) -> Numbers {
        let steps = run.steps.as_slice();
        let count = |wanted: fn(&StepRecord) -> bool| {
            let wanted = steps.iter().filter(|step| wanted(step));
            wanted.count()
        };
        let with_threshold = steps.iter().rev().find(|step| step.threshold.is_some());
        let with_threshold = with_threshold.and_then(|step| Some((step.threshold?, step.step)));
        // Non-finite gradients are skipped before a threshold is computed.
        let judged = |step: &&StepRecord| !(step.skipped() && step.non_finite);
        let threshold = steps.iter().rev().find(judged);
        let threshold = threshold.and_then(|step| step.threshold);
        let mut applied = steps.iter().filter(|step| !step.skipped());
        let changes = steps.iter().filter_map(StepRecord::change);
        let clipped = steps.iter().filter(|step| step.clipped());
        let coefficients = sorted(
            clipped
                .map(|step| step.coefficient)
                .filter(|left| !left.is_nan()),
        );
        let norms_of = |wanted: &dyn Fn(&StepRecord) -> bool| {
            let sound = steps.iter().filter(|step| !step.broken());
            median(sound.filter(|step| wanted(step)).map(|s| s.norm_before))
        };
        let norms_by = |some: fn(&StepRecord) -> bool| {
            norms_of(&some).zip(norms_of(&|step: &StepRecord| !some(step)))
        };
        let mut engaged = steps.iter().filter(|step| step.engaged());
        let first = engaged.clone().next();
        Numbers {
            steps: steps.len(),
            first_step: steps.first().map_or(1, |step| step.step),
            clipped: count(StepRecord::clipped),
            skipped: count(StepRecord::skipped),
            outliers: count(StepRecord::outlier),
            non_finite: count(StepRecord::broken),
            hard: count(|step| {
                let cut = step.clipped() && step.coefficient.recip() > HARD_ABOVE_CHANGE;
                cut || step.outlier()
            }),
            fixed: applied.all(|step| step.threshold == threshold),
            threshold,
            earlier_threshold: with_threshold.filter(|_| threshold.is_none()),
            norms: NormDistribution::of(steps),
            order: run.policy.order(),
            left: quantile(&coefficients, 0.5).zip(coefficients.first().copied()),
            median_change: median(changes),
            outlier_norms: norms_by(StepRecord::outlier),
            cut_norms: norms_by(StepRecord::engaged),
            engaged_from_to: first.map(|first| {
                let last = engaged.next_back().unwrap_or(first);
                (first.step, last.step)
            }),
        }
    }

    /// Steps at which clipping did anything.
    #[must_use]
    pub fn engaged(&self) -> usize {
        self.clipped + self.outliers
    }

    /// The share of steps at which clipping did anything, from 0 to 1.
    #[must_use]
    pub fn engaged_share(&self) -> f64 {
        self.share(self.engaged())
    }

    /// The share of clipped steps, from 0 to 1.
    #[must_use]
    pub fn clipped_share(&self) -> f64 {
        self.share(self.clipped)
    }

    /// The share of non-finite steps, from 0 to 1.
    #[must_use]
    pub fn non_finite_share(&self) -> f64 {
        self.share(self.non_finite)
    }

    /// Steps that were cut to less than half of their length.
    pub(crate) fn cut_hard(&self) -> usize {
        self.hard - self.outliers
    }

    /// Whether the steps that were cut or skipped stand out from the others.
    pub(crate) fn cuts_spikes(&self) -> bool {
        self.cut_norms.is_some_and(stands_out)
    }

    pub(crate) fn share(&self, some: usize) -> f64 {
        some as f64 / self.steps.max(1) as f64
    }
}

impl NormDistribution {
    fn of(steps: &[StepRecord]) -> Option<NormDistribution> {
        let sound = || steps.iter().filter(|step| !step.broken());
        // `max_by` returns the last of equal elements; from the end, that is the first step.
        let from_last = sound().rev();
        let largest = from_last.max_by(|a, b| a.norm_before.total_cmp(&b.norm_before))?;
        let norms = sorted(sound().map(|step| step.norm_before));
        Some(NormDistribution {
            count: norms.len(),
            p10: quantile(&norms, 0.1)?,
            p50: quantile(&norms, 0.5)?,
            p90: quantile(&norms, 0.9)?,
            max: largest.norm_before,
            max_at: largest.step,
        })
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = [
            (self.outliers, "skipped as outliers"),
            (self.non_finite, "not finite"),
        ];
        let of = of_steps(self.steps);
        let percent = |some: usize| percent(some, self.steps);
        write!(
            formatter,
            "{} of {of} clipped ({})",
            self.clipped,
            percent(self.clipped)
        )?;
        for (some, what) in others.into_iter().filter(|(some, _)| *some > 0) {
            write!(formatter, ", {some} {what} ({})", percent(some))?;
        }
        if let Some(norms) = self.norms {
            let [p10, p50, p90, max] =
                [norms.p10, norms.p50, norms.p90, norms.max].map(significant);
            write!(formatter, "; norm{} ", of_order(self.order))?;
            if norms.count >= FEWEST_NORMS {
                write!(formatter, "p10 {p10}, median {p50}, p90 {p90}, ")?;
            }
            write!(formatter, "max {max} at step {}", norms.max_at)?;
        }
        match self.threshold {
            Some(threshold) if self.fixed => {
                write!(formatter, "; threshold {}", significant(threshold))
            }
            Some(threshold) => write!(formatter, "; final threshold {}", significant(threshold)),
            None => match self.earlier_threshold {
                Some((threshold, step)) => {
                    let threshold = significant(threshold);
                    write!(formatter, "; threshold {threshold} until step {step}")
                }
                None => Ok(()),
            },
        }
    }
}

/// Whether the first of two median norms is far above the second.
pub(crate) fn stands_out((some, others): (f64, f64)) -> bool {
    some > OUTLIER_ABOVE_TIMES * others
}

/// `1 step`, `2 steps`.
pub(crate) fn of_steps(steps: usize) -> String {
    match steps {
        1 => "1 step".to_owned(),
        _ => format!("{steps} steps"),
    }
}

/// A share in percent, which is printed as 100 only if it is exact.
pub(crate) fn percent(some: usize, all: usize) -> String {
    match significant(100.0 * some as f64 / all.max(1) as f64).as_str() {
        "100" if some < all => "more than 99.9 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

/// The order of a norm in parentheses; empty for Euclidean norms.
pub(crate) fn of_order(order: NormOrder) -> String {
    match order {
        NormOrder::TWO => String::new(),
        order => format!(" (p={order})"),
    }
}
