//! What to try next.

use std::fmt;

use gradclip::{ClipPolicy, ClipRule};

use crate::advice::{Advice, threshold_text, two_digits};
use crate::class::Class;
use crate::numbers::Numbers;
use crate::record::Run;

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
        let next = match class {
            Class::TooShort => Next::steps(ENOUGH_STEPS),
            _ if advised.is_some() => Next {
                clip: advised,
                ..Next::default()
            },
            Class::Off => Next::clip("global-norm:1"),
            // The policy is kept; what is left to find out is how far training goes.
            Class::Idle | Class::SeldomDecisive | Class::TrimsSpikes => {
                Next::steps(2 * run.steps.last()?.step)
            }
            // Longer steps make a loss that has risen worse.
            Class::NearOrdinary | Class::SecondLearningRate if ended_above_its_start(run) => {
                Next::rate(run.lr?.min(HIGHEST_RATE), 0.1)
            }
            // Steps were left out that are ordinary.
            Class::NearOrdinary if numbers.clipped == 0 => Next::clip("none"),
            Class::NearOrdinary | Class::SecondLearningRate => match one_step_up(run.policy) {
                // Half of the rate at twice the threshold lengthens no step of plain gradient
                // descent, and lets more of the norms through. An adaptive optimizer makes
                // steps of much the same length from gradients of any.
                Some(policy) => Next {
                    lr: run
                        .lr
                        .filter(|_| !run.adaptive)
                        .map(|lr| two_digits(0.5 * lr)),
                    ..Next::clip(&policy)
                },
                None => Next::rate(run.lr?, 0.5),
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

fn ended_above_its_start(run: &Run<'_>) -> bool {
    let first = run.steps.iter().find_map(|step| step.loss);
    let last = run.steps.iter().rev().find_map(|step| step.loss);
    let last = run.val_loss.or(last);
    matches!((first, last), (Some(first), Some(last)) if last > first)
}

/// The policy with twice the threshold, if it is one rule with one number for all.
fn one_step_up(policy: &ClipPolicy) -> Option<String> {
    let [ClipRule::GlobalNorm { threshold, order }] = policy.rules() else {
        return None;
    };
    let threshold: f64 = threshold.to_string().parse().ok()?;
    Some(threshold_text(2.0 * threshold, *order)).filter(|text| text.parse::<ClipPolicy>().is_ok())
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
