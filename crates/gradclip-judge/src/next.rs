//! What to try next.

use std::fmt;

use crate::advice::{Advice, two_digits};
use crate::class::{Class, FEW_UP_TO_SHARE};
use crate::death::LOST_ABOVE_TIMES;
use crate::numbers::Numbers;
use crate::record::Run;
use crate::statistics::median;
use crate::update_pace::UpdatePace;

/// The same run again, with these settings changed. Its [`Display`](fmt::Display) is the flags of
/// `shears train`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Next {
    /// Another policy.
    pub clip: Option<String>,
    /// Another learning rate.
    pub lr: Option<f64>,
    /// Another number of steps.
    pub steps: Option<u64>,
}

/// The steps to take after a run that was too short.
const ENOUGH_STEPS: u64 = 200;
/// A loss has stopped falling if it is not below this many times what it was before.
const FALLS_BELOW_TIMES: f64 = 0.98;
/// A validation loss has turned if it ended above this many times the lowest.
const TURNED_ABOVE_TIMES: f64 = 1.05;
/// A run was far above its start if its loss was so in more than this share of the steps.
const FAR_ABOVE_SHARE: f64 = 0.05;
/// A threshold is far too low if it cut the median gradient to less than this.
const FAR_BELOW: f64 = 0.1;
/// A search for a lower learning rate starts no higher than this.
const HIGHEST_RATE: f64 = 10.0;

impl Next {
    pub(crate) fn of(
        run: &Run<'_>,
        class: Class,
        numbers: &Numbers,
        advice: Option<&Advice>,
    ) -> Option<Next> {
        let own = run.policy.to_string();
        // A safety net that would have cut nothing repeats the same run.
        let advised = advice.filter(|advice| advice.engages && advice.policy != own);
        let advised = advised.map(|advice| advice.policy.clone());
        let lost = matches!(class, Class::Exploded | Class::NotFinite);
        let at_best = turned_after(run).filter(|_| !lost);
        let at_other_rate = run.lr.filter(|_| !lost && !still_falls(run));
        let at_higher_rate = at_other_rate.filter(|_| has_room(run));
        let raised = ten_times(run, numbers);
        let next = match class {
            Class::TooShort => Next::steps(ENOUGH_STEPS),
            _ if advised.is_some() => Next {
                clip: advised,
                ..Next::default()
            },
            // At the same rate a run that was lost without clipping often goes well with it, and
            // then better than at a lower rate.
            Class::Off | Class::Exploded if advice.is_none() && is_cut_by_one(run, numbers) => {
                Next::clip("global-norm:1")
            }
            // So short are its steps that the loss has hardly moved.
            _ if at_higher_rate.is_some() => Next::rate(at_higher_rate?, 10.0),
            _ if !lost && (ended_above_its_start(run) || was_far_above_its_start(run)) => {
                Next::rate(run.lr?.min(HIGHEST_RATE), 0.1)
            }
            // After that step the model only memorised its text. At a rate that does not depend on
            // the number of steps, fewer repeat the run up to the best checkpoint, which it has.
            _ if at_best.is_some() && run.scheduled => Next::steps(at_best?),
            _ if at_best.is_some() && at_other_rate.is_none() => return None,
            // More or longer steps at this rate lead nowhere.
            _ if at_other_rate.is_some() => Next::rate(at_other_rate?.min(HIGHEST_RATE), 0.3),
            // Ordinary steps were skipped, and not just a few.
            Class::NearOrdinary
                if numbers.clipped == 0 && numbers.engaged_share() > FEW_UP_TO_SHARE =>
            {
                Next::clip("none")
            }
            // Ten times the threshold still cuts, where the median gradient was cut to less.
            Class::SecondLearningRate if raised.is_some() => Next::clip(&raised?),
            // For a run that was held back, twice the threshold at half the rate repeats the same
            // run, and nobody knows what it does at the same rate. What remains to find out is how
            // far the run goes.
            Class::Off
            | Class::Idle
            | Class::SeldomDecisive
            | Class::TrimsSpikes
            | Class::NearOrdinary
            | Class::SecondLearningRate => Next::steps(2 * run.steps.last()?.step),
            Class::Exploded | Class::NotFinite if numbers.engaged() == 0 && run.lr.is_none() => {
                Next::clip("global-norm:1")
            }
            Class::Exploded | Class::NotFinite => Next::rate(run.lr?.min(HIGHEST_RATE), 0.1),
        };
        Some(next)
    }

    fn clip(policy: &str) -> Next {
        Next {
            clip: Some(policy.to_owned()),
            ..Next::default()
        }
    }

    fn rate(lr: f64, times: f64) -> Next {
        Next {
            lr: Some(two_digits(lr * times)),
            ..Next::default()
        }
    }

    fn steps(steps: u64) -> Next {
        Next {
            steps: Some(steps),
            ..Next::default()
        }
    }
}

/// Whether the loss kept falling: its median over the second half of the steps is below that over
/// the quarter before. True if losses are unknown.
fn still_falls(run: &Run<'_>) -> bool {
    let losses: Vec<f64> = run.steps.iter().filter_map(|step| step.loss).collect();
    let (quarter, half) = (losses.len() / 4, losses.len() / 2);
    let medians =
        median(losses[quarter..half].iter().copied()).zip(median(losses[half..].iter().copied()));
    medians.is_none_or(|(before, after)| after < FALLS_BELOW_TIMES * before)
}

/// Whether the usual policy would cut a step of a run without clipping, and matter: an adaptive
/// optimizer hardly notices.
fn is_cut_by_one(run: &Run<'_>, numbers: &Numbers) -> bool {
    let is_above = numbers.norms.is_some_and(|norms| norms.max > 1.0);
    is_above && run.policy.is_none() && !run.adaptive
}

fn has_room(run: &Run<'_>) -> bool {
    run.pace.as_ref().is_some_and(UpdatePace::has_room)
}

fn ended_above_its_start(run: &Run<'_>) -> bool {
    let first = run.steps.iter().find_map(|step| step.loss);
    let first = run.first_loss.or(first);
    let last = run.steps.iter().rev().find_map(|step| step.loss);
    let last = run.val_loss.or(last);
    matches!((first, last), (Some(first), Some(last)) if last > first)
}

/// Whether the loss was far above its start for a while, although it came back.
fn was_far_above_its_start(run: &Run<'_>) -> bool {
    let losses = run.steps.iter().filter_map(|step| step.loss);
    let first = run.first_loss.or(losses.clone().next());
    let far = losses.filter(|loss| first.is_some_and(|first| *loss > LOST_ABOVE_TIMES * first));
    far.count() as f64 > FAR_ABOVE_SHARE * run.steps.len() as f64
}

/// The policy with ten times the threshold, if it cut the median gradient to less than a tenth,
/// steps are as long as their gradients, and these are so short that weights hardly change.
fn ten_times(run: &Run<'_>, numbers: &Numbers) -> Option<String> {
    let is_short = numbers.left.is_some_and(|(median, _)| median < FAR_BELOW);
    let own = run.policy.to_string();
    let threshold: f64 = own.strip_prefix("global-norm:")?.parse().ok()?;
    let policy = format!("global-norm:{}", two_digits(10.0 * threshold));
    (is_short && !run.adaptive && has_room(run)).then_some(policy)
}

/// The step after which the validation loss only rose, if it did.
fn turned_after(run: &Run<'_>) -> Option<u64> {
    let ((step, best), last) = run.best_val_loss.zip(run.val_loss)?;
    (step > 0 && last > TURNED_ABOVE_TIMES * best).then_some(step)
}

impl fmt::Display for Next {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clip = self.clip.as_ref().map(|clip| format!("--clip {clip}"));
        let lr = self.lr.map(|lr| format!("--lr {lr:?}"));
        let steps = self.steps.map(|steps| format!("--steps {steps}"));
        let flags: Vec<String> = [clip, lr, steps].into_iter().flatten().collect();
        formatter.write_str(&flags.join(" "))
    }
}
