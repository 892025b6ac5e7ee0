//! The classes of verdicts, and the rule of each. `CLIPPING.md` of `gradclip` has them in words.

use std::fmt;

use crate::death::Death;
use crate::numbers::{HARD_ABOVE_CHANGE, Numbers};
use crate::record::Run;

/// Fewer steps without trouble say nothing.
pub(crate) const FEWEST_STEPS: usize = 20;
/// Above this share of steps that are not finite, a run is not finite whatever became of it.
const BROKEN_ABOVE_SHARE: f64 = 0.01;
/// Below this share of steps a policy seldom takes part in training.
const SELDOM_BELOW_SHARE: f64 = 0.01;
/// Up to this share it does not matter how hard spikes are cut: the threshold lies above the 90th
/// percentile of the norms.
pub(crate) const FEW_UP_TO_SHARE: f64 = 0.1;
/// Above this share of steps that are cut hard, the threshold sets the length of many steps.
const MANY_ABOVE_SHARE: f64 = 0.25;
/// Above this share nearly every step is cut.
const NEARLY_EVERY_ABOVE_SHARE: f64 = 0.9;
/// A step whose length changes by less than this is hardly changed.
const CHANGED_ABOVE: f64 = 1.1;

/// What clipping was to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No rule of the policy changes gradients or leaves out steps.
    Off,
    /// No step was changed or left out.
    Idle,
    /// Spikes were: the median norm of these steps is more than twice that of the others. They are
    /// fewer than 1 % of the steps, and one of them was hard: cut to less than half, or left out.
    SeldomDecisive,
    /// Spikes were: at most 10 % of the steps, or more of which most were cut hard.
    TrimsSpikes,
    /// Steps were that do not stand out from the others.
    NearOrdinary,
    /// The median step was cut to less than half, or more than a quarter of the steps were, or more
    /// than 90 % were cut and the median one by a tenth or more: the threshold sets the length of
    /// steps.
    SecondLearningRate,
    /// A gradient of more than 100 times the usual one (the median of those before it; of fewer
    /// than ten, the least; 1 for the first) reached the optimizer in the 100 steps before the run
    /// was no longer finite; or the loss of a run of ten steps or more ended at more than 1.5 times
    /// where it began.
    Exploded,
    /// The run ended with gradients, loss or validation loss that were not finite, or more than 1 %
    /// of its steps had such gradients, and no gradient that exploded led to it.
    NotFinite,
    /// Fewer than 20 steps, and none of the two above.
    TooShort,
}

/// How a class is to be coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Nothing to do.
    Plain,
    /// Clipping does what it is for.
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
    /// All of them.
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

    /// As it is written in JSON.
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

    /// For people.
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

    /// How it is to be coloured.
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
