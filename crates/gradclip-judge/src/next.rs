//! What to try next.

use std::fmt;

use gradclip::{ClipPolicy, ClipRule};

use crate::advice::{Advice, threshold_text};
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
            // A threshold that is never reached leaves room for a higher rate.
            Class::Idle => Next::rate(run.lr?, 2.0),
            // What clipping was worth, its absence shows.
            Class::SeldomDecisive | Class::TrimsSpikes => Next::clip("none"),
            // Steps were left out that are ordinary.
            Class::NearOrdinary if numbers.clipped == 0 => Next::clip("none"),
            Class::NearOrdinary | Class::SecondLearningRate => match one_step_up(run.policy) {
                Some(policy) => Next::clip(&policy),
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
        let lr = format!("{:.1e}", lr * times).parse().unwrap_or(lr);
        Next {
            lr: Some(lr),
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
