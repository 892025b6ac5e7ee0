//! What to try next.

use std::fmt;

use gradclip::{ClipPolicy, ClipRole, ClipRule, Percentile, Threshold};

use crate::advice::{Advice, two_digits};
use crate::class::{CHANGED_ABOVE, Class, FEW_UP_TO_SHARE};
use crate::numbers::Numbers;
use crate::record::Run;
use crate::statistics::median;

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

/// Steps that a run which was too short should take.
const ENOUGH_STEPS: u64 = 200;
/// A loss that is no lower than so many times what it was before no longer falls.
const FALLS_BELOW_TIMES: f64 = 0.98;
/// A validation loss that ended above so many times the lowest has turned.
const TURNED_ABOVE_TIMES: f64 = 1.05;
/// A learning rate above this is no rate to start a search from.
const HIGHEST_RATE: f64 = 10.0;

impl Next {
    pub(crate) fn of(
        run: &Run<'_>,
        class: Class,
        numbers: &Numbers,
        advice: Option<&Advice>,
    ) -> Option<Next> {
        let own = run.policy.to_string();
        let advised = advice.map(|advice| advice.policy.clone());
        let advised = advised.filter(|policy| *policy != own);
        let lost = matches!(class, Class::Exploded | Class::NotFinite);
        let at_best = turned_after(run).filter(|_| !lost);
        let at_lower_rate = run.lr.filter(|_| !lost && !still_falls(run));
        let next = match class {
            Class::TooShort => Next::steps(ENOUGH_STEPS),
            _ if advised.is_some() => Next {
                clip: advised,
                ..Next::default()
            },
            Class::Off => Next::clip("global-norm:1"),
            _ if ended_above_its_start(run) && !lost => Next::rate(run.lr?.min(HIGHEST_RATE), 0.1),
            // What it learned after that is its own text by heart.
            _ if at_best.is_some() => Next::steps(at_best?),
            // More or longer steps at this rate lead nowhere.
            _ if at_lower_rate.is_some() => Next::rate(at_lower_rate?.min(HIGHEST_RATE), 0.3),
            // The policy is kept; what is left to find out is how far training goes.
            Class::Idle | Class::SeldomDecisive | Class::TrimsSpikes => {
                Next::steps(2 * run.steps.last()?.step)
            }
            // Steps were left out that are ordinary.
            Class::NearOrdinary if numbers.clipped == 0 => Next::clip("none"),
            // Hardly anything was cut, and that hardly.
            Class::NearOrdinary if numbers.engaged_share() <= FEW_UP_TO_SHARE => {
                Next::steps(2 * run.steps.last()?.step)
            }
            Class::NearOrdinary | Class::SecondLearningRate => match one_step_up(run.policy) {
                Some(policy) => Next {
                    lr: rate_for_one_step_up(run, numbers),
                    ..Next::clip(&policy)
                },
                None => Next::steps(2 * run.steps.last()?.step),
            },
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

/// Whether the loss went on falling: its median over the second half of the steps is below that over
/// the quarter before. So it is taken to be where losses are not known.
fn still_falls(run: &Run<'_>) -> bool {
    let losses: Vec<f64> = run.steps.iter().filter_map(|step| step.loss).collect();
    let (quarter, half) = (losses.len() / 4, losses.len() / 2);
    let medians =
        median(losses[quarter..half].iter().copied()).zip(median(losses[half..].iter().copied()));
    medians.is_none_or(|(before, after)| after < FALLS_BELOW_TIMES * before)
}

fn ended_above_its_start(run: &Run<'_>) -> bool {
    let first = run.steps.iter().find_map(|step| step.loss);
    let first = run.first_loss.or(first);
    let last = run.steps.iter().rev().find_map(|step| step.loss);
    let last = run.val_loss.or(last);
    matches!((first, last), (Some(first), Some(last)) if last > first)
}

/// The step after which the validation loss only rose, if it did.
fn turned_after(run: &Run<'_>) -> Option<u64> {
    let ((step, best), last) = run.best_val_loss.zip(run.val_loss)?;
    (step > 0 && last > TURNED_ABOVE_TIMES * best).then_some(step)
}

/// The learning rate at which twice the threshold makes the median step of plain gradient descent no
/// longer; none where it need not change. An adaptive optimizer makes steps of much the same length
/// from gradients of any.
fn rate_for_one_step_up(run: &Run<'_>, numbers: &Numbers) -> Option<f64> {
    let longer = numbers.median_change?.min(2.0);
    let is_noticed = longer > CHANGED_ABOVE && !run.adaptive;
    run.lr
        .filter(|_| is_noticed)
        .map(|lr| two_digits(lr / longer))
}

/// The policy with twice the threshold, if one rule of it changes gradients, and that has a
/// threshold which does not change.
fn one_step_up(policy: &ClipPolicy) -> Option<String> {
    let changing = |rule: &&ClipRule| rule.role() == ClipRole::Gradients;
    if policy.rules().iter().filter(changing).count() != 1 {
        return None;
    }
    let mut raised = ClipPolicy::none();
    for rule in policy.rules() {
        raised = raised.then(match rule.role() {
            ClipRole::Gradients => raise(*rule)?,
            _ => *rule,
        });
    }
    Some(raised.to_string())
}

/// The rule with twice its threshold. `normalize` has none above which it leaves steps alone.
fn raise(mut rule: ClipRule) -> Option<ClipRule> {
    let threshold = match &mut rule {
        ClipRule::Value { threshold }
        | ClipRule::Norm { threshold, .. }
        | ClipRule::GlobalNorm { threshold, .. }
        | ClipRule::GroupNorm { threshold }
        | ClipRule::BlockRms { threshold }
        | ClipRule::Agc {
            lambda: threshold, ..
        }
        | ClipRule::ZClip { max: threshold, .. }
        | ClipRule::AdaGc {
            relative: threshold,
            ..
        }
        | ClipRule::Median {
            factor: threshold, ..
        } => threshold,
        // One step up is the median, and above the 90th percentile are spikes alone.
        ClipRule::AutoClip { percentile } if percentile.get() < 90.0 => {
            let raised = if percentile.get() < 50.0 { 50.0 } else { 90.0 };
            *percentile = Percentile::new(raised).ok()?;
            return Some(rule);
        }
        _ => return None,
    };
    let number: f64 = threshold.to_string().parse().ok()?;
    *threshold = Threshold::new(2.0 * number).ok()?;
    Some(rule)
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
