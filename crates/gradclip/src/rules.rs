//! Rules with their memories: each decides from measures alone, learns from steps that were
//! applied, and gives its memory as numbers.

mod adaptive;
mod fixed;
mod guard;
mod running;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::change::Change;
use crate::clip_rule::ClipRule;
use crate::measure::Measure;
use crate::norm::Norm;
use crate::state::{Lists, StateError};
use crate::threshold::{NormOrder, UnitAxis};

use adaptive::{AdaGc, AutoClip, Median, ZClip};
use fixed::{Agc, Fixed};

pub use guard::SkipReason;
pub(crate) use guard::{Guard, Judgement};

/// What changes gradients.
pub(crate) trait Rule: fmt::Debug + Send + Sync + CloneRule {
    /// The order of the norms that it goes by.
    fn order(&self) -> NormOrder {
        NormOrder::TWO
    }

    /// Whether it can change the direction of the gradient.
    fn can_turn(&self) -> bool {
        false
    }

    /// Whether it asks for the norms of output units, and on which axis of all tensors if it
    /// overrides theirs.
    fn units(&self) -> Option<Option<UnitAxis>> {
        None
    }

    /// Whether it can clamp elements, after which nothing is known of a tensor but its elements.
    fn clamps(&self) -> bool {
        false
    }

    /// The threshold after `step` steps were applied, if it does not depend on the gradients.
    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        let _ = step;
        None
    }

    /// Chooses a change for each tensor, after `step` steps were applied. What equals its
    /// threshold is kept as it is.
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided;

    /// Learns from a step that was applied. Nothing that is not finite reaches it.
    fn learn(&mut self, lesson: &Lesson) {
        let _ = lesson;
    }

    /// What it has learned, as named lists of numbers.
    fn state(&self) -> Vec<(String, Vec<f64>)> {
        Vec::new()
    }

    /// Takes back what [`Rule::state`] gave.
    fn restore(&mut self, lists: &mut Lists<'_, '_>) -> Result<(), StateError> {
        let _ = lists;
        Ok(())
    }
}

/// A rule of a policy with its memory.
#[derive(Clone, Debug)]
pub(crate) struct Link<R> {
    pub(crate) name: &'static str,
    /// What the names of its memory in a state begin with.
    pub(crate) prefix: String,
    pub(crate) rule: R,
}

/// A copy of a rule whose type is not known.
pub(crate) trait CloneRule {
    fn boxed(&self) -> Box<dyn Rule>;
}

impl<R: Rule + Clone + 'static> CloneRule for R {
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Rule> {
    fn clone(&self) -> Box<dyn Rule> {
        (**self).boxed()
    }
}

/// What is to be done in one step by one rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decided {
    /// One for each tensor.
    pub(crate) changes: Vec<Change>,
    /// The threshold in force, if one number says it all.
    pub(crate) threshold: Option<f64>,
    /// The threshold of each tensor.
    pub(crate) tensor_thresholds: Vec<Option<f64>>,
    /// The norm of all afterwards, where that is known without rounding.
    pub(crate) norm_after: Option<f64>,
    /// What the rule learns if the step is applied.
    pub(crate) lesson: Lesson,
}

/// What a step that was applied teaches a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lesson {
    /// The norm of all tensors, or what the rule counts it as. Zero teaches nothing: it says
    /// nothing of how large ordinary gradients are.
    pub(crate) norm: f64,
    /// The norm of each tensor after clipping, for a rule that goes tensor by tensor.
    pub(crate) tensors: Vec<(String, f64)>,
}

impl Decided {
    /// Nothing changes.
    fn keep(tensors: usize) -> Decided {
        Decided {
            changes: vec![Change::Keep; tensors],
            threshold: None,
            tensor_thresholds: vec![None; tensors],
            norm_after: None,
            lesson: Lesson::default(),
        }
    }

    /// Each tensor by itself, with one threshold for all.
    fn per_tensor<'a>(
        threshold: f64,
        measures: &'a [Measure],
        change: impl Fn(&'a Measure) -> Change,
    ) -> Decided {
        Decided {
            changes: measures.iter().map(change).collect(),
            threshold: Some(threshold),
            tensor_thresholds: vec![Some(threshold); measures.len()],
            ..Decided::keep(measures.len())
        }
    }

    /// All tensors by one coefficient.
    fn together(threshold: Option<f64>, norm: Norm, tensors: usize) -> Decided {
        let change = threshold.map_or(Change::Keep, |threshold| shorten(norm, threshold));
        let clipped = change != Change::Keep;
        Decided {
            changes: vec![change; tensors],
            threshold,
            norm_after: threshold.filter(|_| clipped),
            ..Decided::keep(tensors)
        }
    }

    fn teaching(mut self, norm: f64) -> Decided {
        self.lesson.norm = norm;
        self
    }

    pub(crate) fn changes_anything(&self) -> bool {
        self.changes.iter().any(|change| *change != Change::Keep)
    }
}

/// Scales what has this norm to the threshold if it exceeds it.
fn shorten(norm: Norm, threshold: f64) -> Change {
    match norm.exceeds(threshold) {
        true => Change::Scale {
            by: norm.coefficient_to(threshold),
            lands_on: None,
        },
        false => Change::Keep,
    }
}

/// The same for a tensor by itself, whose norm is then the threshold.
fn shorten_alone(measure: &Measure, threshold: f64) -> Change {
    match shorten(measure.norm, threshold) {
        Change::Scale { by, .. } => Change::Scale {
            by,
            lands_on: Some(threshold),
        },
        change => change,
    }
}

/// The rule before its first step; `None` for one that does not change gradients.
pub(crate) fn rule_of(rule: &ClipRule) -> Option<Box<dyn Rule>> {
    type Decide = fn(f64, NormOrder, &[Measure]) -> Decided;
    let of_tensors = |threshold, order, decide: Decide| Fixed {
        threshold,
        order,
        turns: true,
        clamps: false,
        decide,
    };
    let of_all = |threshold, order, decide: Decide| Fixed {
        turns: false,
        ..of_tensors(threshold, order, decide)
    };
    let two = NormOrder::TWO;
    Some(match *rule {
        ClipRule::Value { threshold } => Box::new(Fixed {
            clamps: true,
            ..of_tensors(threshold, two, fixed::value)
        }),
        ClipRule::Norm { threshold, order } => Box::new(of_tensors(threshold, order, fixed::norm)),
        ClipRule::GroupNorm { threshold } => {
            Box::new(of_tensors(threshold, two, fixed::group_norm))
        }
        ClipRule::BlockRms { threshold } => Box::new(of_tensors(threshold, two, fixed::block_rms)),
        ClipRule::GlobalNorm { threshold, order } => {
            Box::new(of_all(threshold, order, fixed::global_norm))
        }
        ClipRule::Normalize { threshold } => {
            Box::new(of_all(threshold.get(), two, fixed::normalize))
        }
        ClipRule::Agc {
            lambda,
            epsilon,
            unit,
        } => Box::new(Agc {
            lambda,
            epsilon,
            unit,
        }),
        ClipRule::AutoClip { percentile } => Box::new(AutoClip::new(percentile)),
        ClipRule::ZClip {
            z,
            alpha,
            warmup,
            max,
        } => Box::new(ZClip::new(z, alpha, warmup, max)),
        ClipRule::AdaGc {
            absolute,
            relative,
            beta,
            warmup,
        } => Box::new(AdaGc::new(absolute, relative, beta, warmup)),
        ClipRule::Median { factor, window } => Box::new(Median::new(factor, window)),
        ClipRule::Skip { .. } | ClipRule::UpdateRms { .. } | ClipRule::Spam { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::shorten;
    use crate::change::Change;
    use crate::norm::Norm;

    #[test]
    fn equality_is_kept_and_the_next_number_is_not() {
        let five = Norm::of(5.0);
        assert_eq!(shorten(five, 5.0), Change::Keep);
        let change = shorten(Norm::of(5.0_f64.next_up()), 5.0);
        assert!(matches!(change, Change::Scale { by, .. } if by.value() < 1.0));
        assert_eq!(shorten(Norm::of(f64::MAX), f64::INFINITY), Change::Keep);
        assert_eq!(shorten(Norm::ZERO, f64::MIN_POSITIVE), Change::Keep);
    }
}
