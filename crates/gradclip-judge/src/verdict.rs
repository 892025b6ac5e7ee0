//! The verdict: what clipping did over a whole run, in words that a user reads at its end.

use std::fmt;
use std::ops::RangeInclusive;

use gradclip::{ClipAction, ClipReport, SkipReason, significant};

use crate::statistics::{quantile, sorted};

/// Below this share of clipped steps a threshold seldom takes part in training.
const RARE_BELOW_SHARE: f64 = 0.01;
/// A rare clip that shortens a gradient by no more than this has not changed the run. One that
/// shortens it by more may have saved the run, however rare it is.
const DECISIVE_ABOVE_RATIO: f64 = 2.0;
/// Above this share of clipped steps the ordinary step is a clipped one.
const FREQUENT_ABOVE_SHARE: f64 = 0.5;
/// A median step that is cut to less than half has its length set by the threshold.
const THROTTLING_ABOVE_RATIO: f64 = 2.0;

/// What a run remembers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The norm of all gradients before clipping.
    pub norm_before: f64,
    /// The threshold, `None` when clipping was off.
    pub threshold: Option<f64>,
    /// The norm after clipping over the norm before.
    pub coefficient: f64,
    /// Whether the gradients were clipped.
    pub clipped: bool,
    /// Whether the step was left out.
    pub skipped: bool,
    /// Whether it was left out as an outlier, and not for non-finite gradients.
    pub outlier: bool,
}

impl From<&ClipReport> for StepRecord {
    fn from(report: &ClipReport) -> StepRecord {
        StepRecord {
            norm_before: report.norm_before,
            threshold: report.threshold,
            coefficient: report.coefficient,
            clipped: report.action == ClipAction::Clip,
            skipped: report.action == ClipAction::Skip,
            outlier: report
                .skip_reason
                .is_some_and(|reason| reason != SkipReason::NonFinite),
        }
    }
}

/// How the threshold fits the gradients of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Assessment {
    /// No step had a threshold.
    Off,
    /// Fewer than 1 % of the steps were clipped, and none of them to less than half: training
    /// would have gone the same way without.
    Inactive,
    /// Steps were clipped where it mattered, and the run is not throttled.
    Healthy,
    /// More than half of the steps were clipped, and the median step to less than half.
    ///
    /// Both conditions are needed. Many clipped steps alone may each lose only a few percent. Where
    /// the typical step is cut to less than half, gradients are normalised rather than clipped, and
    /// the threshold acts as a second learning rate.
    Throttling,
}

/// How the norms before clipping were distributed over the steps that were not skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct NormDistribution {
    /// A tenth of the norms are below this.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// Nine tenths of the norms are below this.
    pub p90: f64,
    /// The largest norm.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

/// What clipping did over a run. Its [`Display`](fmt::Display) is a few plain lines.
///
/// ```
/// use gradclip_judge::{Assessment, StepRecord, Verdict};
///
/// let step = |norm_before: f64| StepRecord {
///     norm_before,
///     threshold: Some(5.0),
///     coefficient: (5.0 / norm_before).min(1.0),
///     clipped: norm_before > 5.0,
///     skipped: false,
///     outlier: false,
/// };
/// let verdict = Verdict::of([0.5, 0.6, 0.7, 12.0].map(step)).expect("there are steps");
/// assert_eq!(verdict.assessment, Assessment::Healthy);
/// println!("{verdict}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// All steps, skipped ones included.
    pub steps: usize,
    /// Steps whose gradients were clipped.
    pub clipped: usize,
    /// `clipped / steps`.
    pub clipped_share: f64,
    /// Steps that were left out.
    pub skipped: usize,
    /// Those of them that were left out as outliers, the others having non-finite gradients.
    pub outliers: usize,
    /// The threshold of the last step that had one.
    pub threshold: Option<f64>,
    /// Whether every step had that threshold.
    pub fixed: bool,
    /// The norms, `None` when every step was skipped. Skipped steps and non-finite norms are left
    /// out, so that one bad step cannot spoil the statistics of a run.
    pub norms: Option<NormDistribution>,
    /// The largest norm before clipping in multiples of the norm after; 1 if nothing was clipped.
    pub largest_ratio: f64,
    /// How the threshold fits.
    pub assessment: Assessment,
    /// Thresholds to try: half to ten times the mean norm. Pascanu, Mikolov and Bengio (2013, "On
    /// the difficulty of training recurrent neural networks", section 3.2) advise to look at the
    /// average norm over many updates, and found that training still converges with values in
    /// that range. `None` when there is no norm greater than zero.
    pub suggested: Option<RangeInclusive<f64>>,
}

impl Verdict {
    /// Judges a run by its steps, `None` when there is none.
    #[must_use]
    pub fn of(steps: impl IntoIterator<Item = StepRecord>) -> Option<Verdict> {
        let steps: Vec<StepRecord> = steps.into_iter().collect();
        if steps.is_empty() {
            return None;
        }
        let clipped = steps
            .iter()
            .filter(|step| step.clipped && !step.skipped)
            .count();
        let clipped_share = clipped as f64 / steps.len() as f64;
        let counted = || {
            steps
                .iter()
                .filter(|step| !step.skipped && step.norm_before.is_finite())
        };
        let norms = sorted(counted().map(|step| step.norm_before));
        // What was lost is judged by the norms before and after, because not every threshold bounds
        // the norm of all, and because thresholds change.
        let ratios = sorted(counted().map(|step| step.coefficient.recip()));
        let norms = NormDistribution::of(&norms);
        let largest_ratio = ratios.last().copied().unwrap_or(1.0).max(1.0);
        let decisive = largest_ratio > DECISIVE_ABOVE_RATIO;
        let threshold = steps.iter().rev().find_map(|step| step.threshold);
        let applied = steps.iter().filter(|step| !step.skipped);
        let fixed = applied.clone().all(|step| step.threshold == threshold);
        let assessment = if threshold.is_none() && clipped == 0 {
            Assessment::Off
        } else if clipped == 0 || clipped_share < RARE_BELOW_SHARE && !decisive {
            Assessment::Inactive
        } else if clipped_share > FREQUENT_ABOVE_SHARE
            && quantile(&ratios, 0.5).is_some_and(|ratio| ratio > THROTTLING_ABOVE_RATIO)
        {
            Assessment::Throttling
        } else {
            Assessment::Healthy
        };
        Some(Verdict {
            steps: steps.len(),
            clipped,
            clipped_share,
            skipped: steps.iter().filter(|step| step.skipped).count(),
            outliers: steps.iter().filter(|step| step.outlier).count(),
            threshold,
            fixed,
            norms,
            largest_ratio,
            assessment,
            suggested: norms
                .filter(|norms| norms.mean > 0.0)
                .map(|norms| 0.5 * norms.mean..=(10.0 * norms.mean).min(f64::MAX)),
        })
    }

    fn write_assessment(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threshold = match self.threshold.filter(|_| self.fixed) {
            Some(threshold) => format!("the threshold {}", significant(threshold)),
            None => "the changing threshold".to_owned(),
        };
        match self.assessment {
            Assessment::Off => write!(formatter, "no gradient was shortened"),
            Assessment::Inactive => write!(
                formatter,
                "{threshold} was practically inactive: training would have gone the \
                 same way without it"
            ),
            Assessment::Healthy if self.clipped_share > FREQUENT_ABOVE_SHARE => write!(
                formatter,
                "{threshold} is close to what is ordinary: it shortens most steps, \
                 but the typical one by less than half"
            ),
            Assessment::Healthy if self.clipped_share < RARE_BELOW_SHARE => write!(
                formatter,
                "{threshold} is seldom needed, but it mattered: the longest gradient \
                 was {} times as long",
                significant(self.largest_ratio)
            ),
            Assessment::Healthy => write!(
                formatter,
                "{threshold} looks healthy: it cuts the spikes and leaves ordinary \
                 steps alone"
            ),
            Assessment::Throttling => write!(
                formatter,
                "{threshold} throttles training: most steps are clipped, so it acts \
                 as a second learning rate; raise it, or tune both together"
            ),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps;
        let of_steps = if steps == 1 {
            "1 step".to_owned()
        } else {
            format!("{steps} steps")
        };
        if self.assessment == Assessment::Off {
            writeln!(formatter, "clipping was off for {of_steps}")?;
        } else {
            let percent = significant(100.0 * self.clipped_share);
            let clipped = self.clipped;
            writeln!(
                formatter,
                "clipping engaged at {clipped} of {of_steps} ({percent} %)"
            )?;
        }
        let causes = [
            (
                self.skipped.saturating_sub(self.outliers),
                "for non-finite gradients",
            ),
            (self.outliers, "as outliers"),
        ];
        for (skipped, cause) in causes.into_iter().filter(|(skipped, _)| *skipped > 0) {
            writeln!(formatter, "{skipped} of {of_steps} skipped {cause}")?;
        }
        if let Some(norms) = self.norms {
            let [p10, p50, p90, max] =
                [norms.p10, norms.p50, norms.p90, norms.max].map(significant);
            writeln!(
                formatter,
                "gradient norm before clipping: p10 {p10}, median {p50}, p90 {p90}, max {max}"
            )?;
        }
        self.write_assessment(formatter)?;
        if let Some(suggested) = &self.suggested {
            let [low, high] = [*suggested.start(), *suggested.end()].map(significant);
            write!(
                formatter,
                "\nfor global-norm this run suggests thresholds from {low} to {high} (half to ten \
                 times the mean norm, Pascanu et al. 2013)"
            )?;
        }
        Ok(())
    }
}

impl NormDistribution {
    fn of(sorted_norms: &[f64]) -> Option<NormDistribution> {
        let count = sorted_norms.len() as f64;
        Some(NormDistribution {
            p10: quantile(sorted_norms, 0.1)?,
            p50: quantile(sorted_norms, 0.5)?,
            p90: quantile(sorted_norms, 0.9)?,
            max: *sorted_norms.last()?,
            // Dividing first keeps the sum of saturated norms finite.
            mean: sorted_norms
                .iter()
                .map(|norm| norm / count)
                .sum::<f64>()
                .min(f64::MAX),
        })
    }
}
