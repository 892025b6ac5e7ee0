//! Advice: which policy fits the norms of a run, with the reasons.

use std::fmt;

use gradclip::significant;

use crate::statistics::{median, quantile, sorted};
use crate::verdict::StepRecord;

/// A longest norm of less than this many medians is no spike.
const SPIKING_ABOVE_RATIO: f64 = 3.0;
/// An ordinary norm that changes by more than this asks for a threshold that follows it.
const DRIFTING_ABOVE_RATIO: f64 = 3.0;
/// Share of steps that a fixed threshold should leave alone.
const ORDINARY_SHARE: f64 = 0.95;
/// A cosine below this has lost direction that is worth speaking of.
const TURNED_BELOW_COSINE: f64 = 0.99;
/// Fewer steps say little.
const FEW_STEPS: usize = 100;

/// What to clip with next time, and why.
///
/// ```
/// use gradclip_judge::{Advice, StepRecord};
///
/// let step = |norm_before: f64| StepRecord {
///     norm_before,
///     threshold: None,
///     coefficient: 1.0,
///     clipped: false,
///     skipped: false,
///     outlier: false,
/// };
/// let norms = (0..300).map(|i| if i % 60 == 59 { 40.0 } else { 1.0 + f64::from(i % 7) * 0.1 });
/// let advice = Advice::of(norms.map(step), None).expect("there are steps");
/// assert_eq!(advice.policy, "global-norm:1.6");
/// println!("{advice}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Advice {
    /// A policy as [`ClipPolicy`](gradclip::ClipPolicy) reads it.
    pub policy: String,
    /// Whole sentences, the weightiest first, each with the numbers that it rests on.
    pub reasons: Vec<String>,
}

impl Advice {
    /// Advice from the steps of a run, `None` when there is none. `cosine` is the mean cosine
    /// between gradients before and after clipping, over the steps that were clipped, where it is
    /// known.
    #[must_use]
    pub fn of(steps: impl IntoIterator<Item = StepRecord>, cosine: Option<f64>) -> Option<Advice> {
        let steps: Vec<StepRecord> = steps.into_iter().collect();
        if steps.is_empty() {
            return None;
        }
        let mut reasons = Vec::new();
        let policy = match Norms::of(&steps) {
            Some(norms) => norms.advise(&mut reasons),
            None => {
                reasons.push("No step had a gradient that was finite and not zero.".to_owned());
                "global-norm:1".to_owned()
            }
        };
        let broken = steps
            .iter()
            .filter(|step| step.skipped && !step.outlier)
            .count();
        if broken > 0 {
            reasons.push(format!(
                "{broken} of {} steps had gradients that were not finite. Clipping cannot repair them; \
                 a lower learning rate or a longer warm-up prevents them.",
                steps.len()
            ));
        }
        if let Some(cosine) = cosine.filter(|cosine| *cosine < TURNED_BELOW_COSINE) {
            reasons.push(format!(
                "Clipping turned the gradients: the mean cosine between before and after is {}. \
                 A policy that scales all elements together keeps the direction.",
                significant(cosine)
            ));
        }
        if steps.len() < FEW_STEPS {
            reasons.push(format!(
                "{} steps are few to judge by: look again when the run is longer.",
                steps.len()
            ));
        }
        Some(Advice { policy, reasons })
    }
}

/// What the norms of a run are like.
struct Norms {
    sorted: Vec<f64>,
    median: f64,
    max: f64,
    /// The medians of the first and of the last third.
    ends: (f64, f64),
}

impl Norms {
    /// Of the steps whose norm is finite and not zero.
    fn of(steps: &[StepRecord]) -> Option<Norms> {
        let usual = |step: &&StepRecord| step.norm_before.is_finite() && step.norm_before > 0.0;
        let norms: Vec<f64> = steps
            .iter()
            .filter(usual)
            .map(|step| step.norm_before)
            .collect();
        let third = norms.len().div_ceil(3);
        let median = |part: &[f64]| median(part.iter().copied());
        let ends = (
            median(norms.get(..third)?)?,
            median(norms.get(norms.len() - third..)?)?,
        );
        let sorted = sorted(norms);
        Some(Norms {
            median: quantile(&sorted, 0.5)?,
            max: *sorted.last()?,
            ends,
            sorted,
        })
    }

    fn advise(&self, reasons: &mut Vec<String>) -> String {
        let spiking = self.max / self.median;
        let (first, last) = self.ends;
        let drift = (first / last).max(last / first);
        let [median, max] = [self.median, self.max].map(significant);
        if spiking < SPIKING_ABOVE_RATIO {
            reasons.push(format!(
                "No gradient spiked: the longest, {max}, is {} times the median, {median}. Clipping \
                 is not needed here; a threshold of twice the longest is a safety net that changes \
                 nothing.",
                significant(spiking)
            ));
            return format!("global-norm:{}", two_digits(2.0 * self.max));
        }
        reasons.push(format!(
            "Gradients spike: the longest, {max}, is {} times the median, {median}.",
            significant(spiking)
        ));
        if drift > DRIFTING_ABOVE_RATIO {
            reasons.push(format!(
                "The ordinary norm changes over the run: its median is {} in the first third and {} \
                 in the last. One fixed threshold fits only a part of the run; zclip follows the \
                 norms.",
                significant(first),
                significant(last)
            ));
            return "zclip".to_owned();
        }
        let threshold = two_digits(quantile(&self.sorted, ORDINARY_SHARE).unwrap_or(self.max));
        let above = self.sorted.iter().filter(|norm| **norm > threshold).count();
        let share = 100.0 * above as f64 / self.sorted.len() as f64;
        reasons.push(format!(
            "The threshold {threshold} would have shortened {above} of {} gradients ({} %), the longest \
             by a factor of {}, and left the others as they are.",
            self.sorted.len(),
            significant(share),
            significant(self.max / threshold)
        ));
        format!("global-norm:{threshold}")
    }
}

/// A threshold that a person would choose.
fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "advice: --clip {}", self.policy)?;
        for reason in &self.reasons {
            write!(formatter, "\n- {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gradclip::ClipPolicy;

    use super::{Advice, StepRecord};

    fn advice(norms: impl IntoIterator<Item = f64>, cosine: Option<f64>) -> Advice {
        let step = |norm_before: f64| StepRecord {
            norm_before,
            threshold: None,
            coefficient: 1.0,
            clipped: false,
            skipped: !norm_before.is_finite(),
            outlier: false,
        };
        let advice = Advice::of(norms.into_iter().map(step), cosine).expect("there are steps");
        let parsed = advice.policy.parse::<ClipPolicy>();
        assert!(parsed.is_ok(), "{advice}");
        advice
    }

    #[test]
    fn calm_gradients_need_no_clipping() {
        let advice = advice((0..200).map(|i| 1.0 + 0.01 * f64::from(i % 10)), None);
        assert_eq!(advice.policy, "global-norm:2.2");
        assert!(advice.reasons[0].contains("not needed"), "{advice}");
        assert_eq!(advice.reasons.len(), 1, "{advice}");
    }

    #[test]
    fn spikes_get_a_threshold_above_what_is_ordinary() {
        let norm = |i: u32| {
            if i.is_multiple_of(50) {
                30.0
            } else {
                1.0 + 0.01 * f64::from(i % 10)
            }
        };
        let advice = advice((0..500).map(norm), None);
        assert_eq!(advice.policy, "global-norm:1.1");
        assert!(advice.reasons[1].contains("10 of 500"), "{advice}");
    }

    #[test]
    fn norms_that_drift_get_a_threshold_that_follows() {
        let norm =
            |i: u32| f64::from(i).mul_add(0.05, 1.0) * if i.is_multiple_of(40) { 9.0 } else { 1.0 };
        assert_eq!(advice((0..400).map(norm), None).policy, "zclip");
    }

    #[test]
    fn broken_steps_lost_direction_and_short_runs_are_said() {
        let advice = advice([1.0, 1.1, f64::NAN, 1.0], Some(0.7));
        let words = advice.to_string();
        for part in ["1 of 4 steps had", "cosine", "4 steps are few"] {
            assert!(words.contains(part), "{words}");
        }
        let nothing = self::advice([f64::NAN; 3], None);
        assert_eq!(nothing.policy, "global-norm:1");
    }
}
