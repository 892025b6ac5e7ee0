//! The classes of verdicts and their rules. `CLIPPING.md` of `gradclip` describes them.

use std::fmt;

use crate::death::Death;
use crate::numbers::{HARD_ABOVE_CHANGE, Numbers};
use crate::record::Run;

/// Fewer steps without trouble allow no verdict.
pub(crate) const FEWEST_STEPS: usize = 20;
/// Above this share of non-finite steps, a run is not finite however it ended.
const BROKEN_ABOVE_SHARE: f64 = 0.01;
/// Below this share of engaged steps, a policy seldom matters.
const SELDOM_BELOW_SHARE: f64 = 0.01;
/// Up to this share it does not matter how hard spikes are cut: the threshold lies above the 90th
/// percentile of the norms.
pub(crate) const FEW_UP_TO_SHARE: f64 = 0.1;
/// Above this share of steps cut hard, the threshold sets the length of many steps.
const MANY_ABOVE_SHARE: f64 = 0.25;
/// Above this share nearly every step is cut.
pub(crate) const NEARLY_EVERY_ABOVE_SHARE: f64 = 0.9;
/// A step whose length changes by less than this factor is hardly changed.
const CHANGED_ABOVE: f64 = 1.1;

/// What clipping did to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No rule of the policy changes gradients or skips steps.
    Off,
    /// No step was changed or skipped.
    Idle,
    /// Fewer than 1 % of the steps were cut, all spikes: their median norm is more than twice that
    /// of the others. At least one was cut hard: to less than half, or skipped.
    SeldomDecisive,
    /// Spikes were cut: at most 10 % of the steps, or more if most of them were cut hard.
    TrimsSpikes,
    /// Steps were cut that do not stand out from the others.
    NearOrdinary,
    /// The median step was cut to less than half, or more than a quarter of the steps were, or more
    /// than 90 % were cut and the median one by a tenth or more: the threshold sets the length of
    /// steps.
    SecondLearningRate,
    /// A gradient of more than 100 times the usual norm (the median of those before it; the least,
    /// of fewer than ten; 1 for the first) reached the optimizer in the 100 steps before the run
    /// was no longer finite; or the loss of a run of at least ten steps ended above 1.5 times its
    /// start.
    Exploded,
    /// The run ended with non-finite gradients, loss or validation loss, or more than 1 % of its
    /// steps had such gradients, and no exploding gradient led to it.
    NotFinite,
    /// Fewer than 20 steps, and neither of the two above.
    TooShort,
}

/// How to colour a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Nothing to do.
    Plain,
    /// Clipping does its job.
    Good,
    /// It does something else.
    Warning,
    /// The run is lost.
    Bad,
}

impl Tone {
    /// `plain`, `good`, `warning` or `bad`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tone::Plain => "plain",
            Tone::Good => "good",
            Tone::Warning => "warning",
            Tone::Bad => "bad",
        }
    }
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 9] = [
        Class::Off,
        Class::Idle,
        Class::SeldomDecisive,
        Class::TrimsSpikes,
        Class::NearOrdinary,
        Class::SecondLearningRate,
        Class::Exploded,
        Class::NotFinite,
        Class::TooShort,
    ];

    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Off => "off",
            Class::Idle => "idle",
            Class::SeldomDecisive => "seldom-decisive",
            Class::TrimsSpikes => "trims-spikes",
            Class::NearOrdinary => "near-ordinary",
            Class::SecondLearningRate => "second-learning-rate",
            Class::Exploded => "exploded",
            Class::NotFinite => "not-finite",
            Class::TooShort => "too-short",
        }
    }

    /// Its name in prose.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Class::Off => "off",
            Class::Idle => "idle",
            Class::SeldomDecisive => "seldom, decisive",
            Class::TrimsSpikes => "trims spikes",
            Class::NearOrdinary => "near ordinary",
            Class::SecondLearningRate => "second learning rate",
            Class::Exploded => "exploded",
            Class::NotFinite => "not finite",
            Class::TooShort => "too short to say",
        }
    }

    /// How to colour it.
    #[must_use]
    pub fn tone(self) -> Tone {
        match self {
            Class::Off | Class::Idle | Class::TooShort => Tone::Plain,
            Class::SeldomDecisive | Class::TrimsSpikes => Tone::Good,
            Class::NearOrdinary | Class::SecondLearningRate => Tone::Warning,
            Class::Exploded | Class::NotFinite => Tone::Bad,
        }
    }

    /// The class of a run.
    pub(crate) fn of(run: &Run<'_>, numbers: &Numbers, death: Option<&Death>) -> Class {
        let share = numbers.engaged_share();
        let median = numbers.median_change.unwrap_or(1.0);
        let nearly_every = share > NEARLY_EVERY_ABOVE_SHARE && median > CHANGED_ABOVE;
        let many = numbers.share(numbers.cut_hard()) > MANY_ABOVE_SHARE;
        let mostly_hard = 2 * numbers.hard > numbers.engaged();
        if death.is_some_and(Death::is_explosion) {
            Class::Exploded
        } else if death.is_some() || numbers.non_finite_share() > BROKEN_ABOVE_SHARE {
            Class::NotFinite
        } else if numbers.steps < FEWEST_STEPS {
            Class::TooShort
        } else if run.policy.rules().len() == run.policy.rules_inside_adam().count() {
            Class::Off
        } else if numbers.engaged() == 0 {
            Class::Idle
        } else if median > HARD_ABOVE_CHANGE || nearly_every || many {
            Class::SecondLearningRate
        } else if !numbers.cuts_spikes() || (share > FEW_UP_TO_SHARE && !mostly_hard) {
            Class::NearOrdinary
        } else if share < SELDOM_BELOW_SHARE && numbers.hard > 0 {
            Class::SeldomDecisive
        } else {
            Class::TrimsSpikes
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
