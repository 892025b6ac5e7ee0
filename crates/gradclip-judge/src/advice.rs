//! Advice: which policy to use next time, with the reasons.

use std::fmt;

use gradclip::{NormOrder, significant};

use crate::class::Class;
use crate::death::Death;
use crate::numbers::{Numbers, of_order};
use crate::record::{Run, StepRecord};
use crate::spikes::Spikes;
use crate::statistics::quantile;

/// Fewer steps get no advice.
const FEWEST_STEPS: usize = 100;
/// From this many steps on, advice has high confidence.
const MANY_STEPS: usize = 300;
/// The finite norms before an explosion that are needed to know what is ordinary.
const FEWEST_ORDINARY: usize = 20;
/// Spikes below this many times the largest ordinary norm are not worth cutting: a run that
/// survived them would take another path without them, not a better one.
const WORTH_CUTTING_TIMES: f64 = 10.0;
/// Ordinary norms for which the usual threshold, 1, is right.
const USUAL_NORMS: std::ops::RangeInclusive<f64> = 0.1..=1.0;

/// The confidence of an advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Confidence {
    /// What usually helps.
    Medium,
    /// What the figures of the run show.
    High,
}

impl Confidence {
    /// `medium` or `high`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Confidence::Medium => "medium",
            Confidence::High => "high",
        }
    }
}

/// What to clip with next time, and why. A run whose norms cannot decide that gets no advice: one
/// that was held back or too short, or lost in spite of clipping.
///
/// A run without clipping, or whose policy never acted, is advised the largest norm that is not a
/// spike, so that only spikes are cut, if a spike was more than ten times that. Without such spikes
/// it is advised twice its largest norm, or the policy it has, but nothing if that norm is more
/// than ten times the median. A run whose policy cut spikes keeps that policy. One in which a
/// gradient exploded before anything was clipped is advised the usual threshold, 1, or twice the
/// median norm before the explosion if that is outside of 0.1 to 1.
///
/// ```
/// use gradclip::{ClipAction, ClipPolicy};
/// use gradclip_judge::{Run, StepRecord, judge};
///
/// let policy = ClipPolicy::none();
/// let step = |step: u64| StepRecord {
///     step,
///     loss: None,
///     norm_before: if step % 60 == 0 { 40.0 } else { 1.0 + (step % 7) as f64 * 0.1 },
///     threshold: None,
///     coefficient: 1.0,
///     action: ClipAction::Keep,
///     non_finite: false,
/// };
/// let advice = judge(&Run::new(&policy, (1..=300).map(step))).advice.expect("it spikes");
/// assert_eq!(advice.policy, "global-norm:1.6");
/// println!("{advice}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Advice {
    /// A policy as [`ClipPolicy`](gradclip::ClipPolicy) reads it.
    pub policy: String,
    /// Whole sentences, the most important first, each with the figures that it rests on.
    pub reasons: Vec<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// Whether it would have changed a step of this run.
    pub(crate) engages: bool,
}

impl Advice {
    pub(crate) fn of(
        run: &Run<'_>,
        class: Class,
        numbers: &Numbers,
        death: Option<&Death>,
    ) -> Option<Advice> {
        if class == Class::Exploded {
            return after_explosion(run, numbers, death);
        }
        if numbers.steps < FEWEST_STEPS {
            return None;
        }
        match class {
            Class::Off if run.policy.is_none() => from_free_norms(run, numbers),
            Class::Idle => from_free_norms(run, numbers),
            Class::SeldomDecisive | Class::TrimsSpikes => Some(Advice {
                policy: run.policy.to_string(),
                reasons: vec![format!(
                    "It changed {} of {} steps, and no ordinary one: keep it.",
                    numbers.engaged(),
                    numbers.steps
                )],
                confidence: confidence(numbers),
                engages: true,
            }),
            _ => None,
        }
    }
}

fn confidence(numbers: &Numbers) -> Confidence {
    match numbers.steps < MANY_STEPS {
        true => Confidence::Medium,
        false => Confidence::High,
    }
}

/// For a run that exploded before anything was clipped.
fn after_explosion(run: &Run<'_>, numbers: &Numbers, death: Option<&Death>) -> Option<Advice> {
    let (at, _) = death?.explosion()?.first;
    let before = || run.steps.iter().filter(move |step| step.step < at);
    if run.policy.order() != NormOrder::TWO || numbers.engaged() > 0 {
        return None;
    }
    let mut norms: Vec<f64> = before().map(|step| step.norm_before).collect();
    norms.sort_by(f64::total_cmp);
    let ordinary = quantile(&norms, 0.5).filter(|_| norms.len() >= FEWEST_ORDINARY);
    let known = ordinary.filter(|ordinary| !USUAL_NORMS.contains(ordinary) && *ordinary > 0.0);
    let (threshold, why) = match known {
        Some(ordinary) => (
            two_digits(2.0 * ordinary),
            format!(
                "The median norm before was {}: twice that cuts only what is not ordinary.",
                significant(ordinary)
            ),
        ),
        None => (1.0, "The threshold 1 is the usual one.".to_owned()),
    };
    Some(Advice {
        policy: threshold_text(threshold, NormOrder::TWO),
        reasons: vec![
            format!("The run was lost at step {at}, and nothing was clipped until then."),
            why,
        ],
        confidence: Confidence::Medium,
        engages: true,
    })
}

/// For a run whose norms were not changed by clipping.
fn from_free_norms(run: &Run<'_>, numbers: &Numbers) -> Option<Advice> {
    let sound: Vec<&StepRecord> = run.steps.iter().filter(|step| !step.broken()).collect();
    let norms: Vec<f64> = sound.iter().map(|step| step.norm_before).collect();
    let all = numbers.norms.filter(|norms| norms.max > 0.0)?;
    let spikes = Spikes::find(norms.iter().copied());
    let mut spiking = vec![false; norms.len()];
    for spike in &spikes.list {
        spiking[spike.first..=spike.last].fill(true);
    }
    let ordinary = norms.iter().zip(&spiking).filter(|(_, spiking)| !**spiking);
    let largest = ordinary.map(|(norm, _)| *norm).fold(0.0, f64::max);
    let threshold = rounded_up(largest);
    let above = norms.iter().filter(|norm| **norm > threshold).count();
    let own = run.policy;
    let order = of_order(own.order());
    let [median, max] = [all.p50, all.max].map(significant);
    let worth_cutting = largest > 0.0 && all.max > WORTH_CUTTING_TIMES * largest;
    let (policy, reason) = if worth_cutting {
        let reason = format!(
            "Gradients spike: the largest norm, {max} at step {}, is {} times the median, \
             {median}{order}. The threshold {} would have cut {above} of {} steps, and no ordinary \
             one.",
            all.max_at,
            significant(all.max / all.p50),
            significant(threshold),
            norms.len(),
        );
        (threshold_text(threshold, own.order()), reason)
    } else if all.max > WORTH_CUTTING_TIMES * all.p50 {
        // Far above the ordinary, but not a spike among those before it: the norms do not show
        // whether cutting it is worth it.
        return None;
    } else if own.is_none() {
        let safety = threshold_text(two_digits(2.0 * all.max), own.order());
        let reason = format!(
            "No gradient was far too long: the largest norm, {max}, is {} times the median, \
             {median}{order}. Twice that norm is a safety net that would have changed nothing \
             here.",
            significant(all.max / all.p50)
        );
        (safety, reason)
    } else {
        let reason = "It is a safety net that changed nothing: keep it.".to_owned();
        (own.to_string(), reason)
    };
    Some(Advice {
        policy,
        reasons: vec![reason],
        confidence: confidence(numbers),
        engages: worth_cutting,
    })
}

/// Rounds to two significant digits, as a person would choose a threshold.
pub(crate) fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// Rounds to two significant digits, but not below the value.
fn rounded_up(value: f64) -> f64 {
    let rounded = two_digits(value);
    match rounded < value {
        // Half a unit of the second digit, rounded, gives the next number of two digits.
        true => two_digits(value + 0.5 * 10_f64.powf(value.log10().floor() - 1.0)),
        false => rounded,
    }
}

/// `global-norm` with this threshold.
fn threshold_text(threshold: f64, order: NormOrder) -> String {
    let threshold = match threshold {
        plain if (1e-4..1e6).contains(&plain) => plain.to_string(),
        other => format!("{other:e}"),
    };
    match order {
        NormOrder::TWO => format!("global-norm:{threshold}"),
        order => format!("global-norm:{threshold},p={order}"),
    }
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
