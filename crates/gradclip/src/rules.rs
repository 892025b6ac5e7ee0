//! Rules with their state: each decides from measures alone, learns from applied steps, and exports
//! its state as lists of numbers.

mod adaptive;
mod fixed;
mod guard;
mod running;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::change::Change;
use crate::clip_rule::{ClipRole, ClipRule};
use crate::measure::{Measure, norm_of_all};
use crate::norm::Norm;
use crate::percentile::NormHistory;
use crate::state::{Lists, StateError, is_norm};
use crate::threshold::{NormOrder, UnitAxis};

use adaptive::{AdaGc, ZScore};
use guard::Guard;
use running::Window;

pub(crate) use guard::Judgement;
pub use guard::SkipReason;

/// A rule of a policy with its state.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    rule: ClipRule,
    /// The prefix of its list names in a [`ClipperState`](crate::ClipperState).
    prefix: String,
    memory: Memory,
}

/// What a rule has learned.
#[derive(Clone, Debug)]
enum Memory {
    /// The rule has no state.
    Nothing,
    Skip(Guard),
    AutoClip(NormHistory),
    ZClip(ZScore),
    Median(Window),
    AdaGc(AdaGc),
}

/// What a rule learns from a step. Always finite.
#[derive(Clone, Debug)]
pub(crate) enum Lesson {
    Nothing,
    /// This guard skipped the step as an outlier.
    Skipped,
    /// A guard's judgement of an applied step.
    Judged(Judgement),
    /// The norm of all tensors, or the value that the rule records instead.
    Norm(f64),
    /// The norm of each tensor after clipping.
    Tensors(Vec<(String, f64)>),
}

impl Link {
    /// The rule at position `index` of a policy, before its first step.
    pub(crate) fn new(index: usize, rule: ClipRule) -> Link {
        Link {
            rule,
            prefix: format!("{index}.{}.", rule.name()),
            memory: match rule {
                ClipRule::Skip {
                    sigma,
                    window,
                    limit,
                } => Memory::Skip(Guard::new(sigma, window, limit)),
                ClipRule::AutoClip { .. } => Memory::AutoClip(NormHistory::EMPTY),
                ClipRule::ZClip { .. } => Memory::ZClip(ZScore::WarmingUp(Vec::new())),
                ClipRule::Median { window, .. } => Memory::Median(Window::new(window.get())),
                ClipRule::AdaGc { .. } => Memory::AdaGc(AdaGc::default()),
                _ => Memory::Nothing,
            },
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.rule.name()
    }

    /// Whether the rule judges steps and changes no gradients.
    pub(crate) fn is_guard(&self) -> bool {
        self.rule.role() == ClipRole::Guard
    }

    /// The order of the rule's norms.
    pub(crate) fn order(&self) -> NormOrder {
        self.rule.chosen_order().unwrap_or(NormOrder::TWO)
    }

    /// Whether the rule can change the direction of the gradient.
    pub(crate) fn can_turn(&self) -> bool {
        !matches!(
            self.rule,
            ClipRule::GlobalNorm { .. }
                | ClipRule::Normalize { .. }
                | ClipRule::AutoClip { .. }
                | ClipRule::ZClip { .. }
                | ClipRule::Median { .. }
        )
    }

    /// `Some` if the rule needs the norms of output units; the inner axis overrides the tensors'
    /// own.
    pub(crate) fn units(&self) -> Option<Option<UnitAxis>> {
        match self.rule {
            ClipRule::Agc { unit, .. } => Some(unit),
            _ => None,
        }
    }

    /// Whether the rule clamps elements, which invalidates the measures of a tensor.
    pub(crate) fn clamps(&self) -> bool {
        matches!(self.rule, ClipRule::Value { .. })
    }

    /// The threshold after `step` applied steps, if it does not depend on the gradients.
    pub(crate) fn fixed_threshold(&self, step: u64) -> Option<f64> {
        match self.rule {
            ClipRule::Value { threshold }
            | ClipRule::Norm { threshold, .. }
            | ClipRule::GlobalNorm { threshold, .. }
            | ClipRule::GroupNorm { threshold }
            | ClipRule::BlockRms { threshold }
            | ClipRule::Agc {
                lambda: threshold, ..
            } => Some(threshold.at(step)),
            ClipRule::Normalize { threshold } => Some(threshold.get().at(step)),
            _ => None,
        }
    }

    /// Decides on a change for each tensor, after `step` applied steps. A norm equal to its
    /// threshold is kept.
    pub(crate) fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let all = || norm_of_all(measures, self.order());
        match (self.rule, &self.memory) {
            (ClipRule::Value { threshold }, _) => fixed::value(threshold.at(step), measures),
            (ClipRule::Norm { threshold, .. }, _) => fixed::norm(threshold.at(step), measures),
            (ClipRule::GlobalNorm { threshold, .. }, _) => {
                Decided::uniform(Some(threshold.at(step)), all(), measures.len())
            }
            (ClipRule::GroupNorm { threshold }, _) => {
                fixed::group_norm(threshold.at(step), measures)
            }
            (ClipRule::BlockRms { threshold }, _) => fixed::block_rms(threshold.at(step), measures),
            (ClipRule::Normalize { threshold }, _) => {
                fixed::normalize(threshold.get().at(step), all(), measures)
            }
            (
                ClipRule::Agc {
                    lambda, epsilon, ..
                },
                _,
            ) => fixed::agc(lambda.at(step), epsilon.get(), measures),
            (ClipRule::AutoClip { percentile }, Memory::AutoClip(history)) => {
                let norm = all();
                let threshold = history.percentile_with(norm.value(), percentile.get());
                // A threshold of zero would zero every step.
                let threshold = Some(threshold).filter(|threshold| *threshold > 0.0);
                Decided::uniform(threshold, norm, measures.len()).learning(norm.value())
            }
            (ClipRule::ZClip { z, max, .. }, Memory::ZClip(score)) => {
                let norm = all();
                let target = score.target(norm.value(), z.get());
                let threshold = target.unwrap_or(f64::INFINITY).min(max.at(step));
                let learned = target.unwrap_or(norm.value());
                Decided::uniform(Some(threshold), norm, measures.len()).learning(learned)
            }
            (ClipRule::Median { factor, .. }, Memory::Median(past)) => {
                let median = past.median().filter(|median| *median > 0.0);
                let threshold = median.map(|median| factor.at(step) * median);
                let norm = all();
                Decided::uniform(threshold, norm, measures.len()).learning(norm.value())
            }
            (
                ClipRule::AdaGc {
                    absolute,
                    relative,
                    warmup,
                    ..
                },
                Memory::AdaGc(past),
            ) => {
                let (absolute, relative) = (absolute.at(step), relative.at(step));
                past.decide(absolute, relative, warmup, measures)
            }
            // A guard changes no gradient.
            _ => Decided::keep(measures.len()),
        }
    }

    /// Judges a step by its norm and its loss, if the rule is a guard.
    pub(crate) fn judge(&self, measures: &[Measure], loss: Option<f64>) -> Option<Judgement> {
        match &self.memory {
            Memory::Skip(guard) => Some(guard.judge(measures, loss)),
            _ => None,
        }
    }

    pub(crate) fn learn(&mut self, lesson: &Lesson) {
        match (&mut self.memory, self.rule, lesson) {
            (Memory::Skip(guard), _, Lesson::Skipped) => guard.count_skip(),
            (Memory::Skip(guard), _, Lesson::Judged(judgement)) => guard.learn(judgement),
            // A zero norm says nothing about the size of ordinary norms.
            (_, _, Lesson::Norm(0.0)) => {}
            (Memory::AutoClip(history), _, Lesson::Norm(norm)) => history.insert(*norm),
            (Memory::Median(past), _, Lesson::Norm(norm)) => past.push(*norm),
            (Memory::ZClip(score), ClipRule::ZClip { alpha, warmup, .. }, Lesson::Norm(norm)) => {
                score.learn(*norm, alpha.get(), warmup.get())
            }
            (Memory::AdaGc(past), ClipRule::AdaGc { beta, warmup, .. }, Lesson::Tensors(norms)) => {
                past.learn(norms, beta.get(), warmup)
            }
            _ => {}
        }
    }

    /// The state of the rule, as named lists of numbers.
    pub(crate) fn state(&self) -> impl Iterator<Item = (String, Vec<f64>)> {
        let lists = match &self.memory {
            Memory::Nothing => Vec::new(),
            Memory::Skip(guard) => guard.state(),
            Memory::AutoClip(history) => vec![history.state()],
            Memory::ZClip(score) => vec![score.state()],
            Memory::Median(past) => vec![("norms".into(), past.to_vec())],
            Memory::AdaGc(past) => past.state(),
        };
        let named = lists.into_iter();
        named.map(|(name, list)| (format!("{}{name}", self.prefix), list))
    }

    /// Restores a state returned by [`Link::state`].
    pub(crate) fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        lists.prefix.clone_from(&self.prefix);
        match (&mut self.memory, self.rule) {
            (Memory::Skip(guard), _) => guard.restore(lists),
            (Memory::AutoClip(history), _) => history.restore(lists),
            (Memory::ZClip(score), ClipRule::ZClip { warmup, .. }) => {
                score.restore(lists, warmup.get())
            }
            (Memory::Median(past), _) => past.restore(lists, "norms", is_norm),
            (Memory::AdaGc(past), _) => past.restore(lists),
            _ => Ok(()),
        }
    }
}

/// What one rule decides in one step.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    /// One for each tensor.
    pub(crate) changes: Vec<Change>,
    /// The threshold in effect, if it is the same for all tensors.
    pub(crate) threshold: Option<f64>,
    /// The threshold of each tensor.
    pub(crate) tensor_thresholds: Vec<Option<f64>>,
    /// The norm of all tensors afterwards, if known without rounding.
    pub(crate) norm_after: Option<f64>,
    /// What the rule learns if the step is applied.
    pub(crate) lesson: Lesson,
}

impl Decided {
    /// Changes nothing.
    fn keep(tensors: usize) -> Decided {
        Decided {
            changes: vec![Change::Keep; tensors],
            threshold: None,
            tensor_thresholds: vec![None; tensors],
            norm_after: None,
            lesson: Lesson::Nothing,
        }
    }

    /// Changes each tensor separately, with the same threshold.
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

    /// Scales all tensors by the same coefficient.
    fn uniform(threshold: Option<f64>, norm: Norm, tensors: usize) -> Decided {
        let change = threshold.map_or(Change::Keep, |threshold| shorten(norm, threshold));
        let clipped = change != Change::Keep;
        Decided {
            changes: vec![change; tensors],
            threshold,
            norm_after: threshold.filter(|_| clipped),
            ..Decided::keep(tensors)
        }
    }

    fn learning(mut self, norm: f64) -> Decided {
        self.lesson = Lesson::Norm(norm);
        self
    }

    pub(crate) fn changes_anything(&self) -> bool {
        self.changes.iter().any(|change| *change != Change::Keep)
    }
}

/// Scales to `threshold` if `norm` exceeds it.
fn shorten(norm: Norm, threshold: f64) -> Change {
    match norm.exceeds(threshold) {
        true => Change::Scale {
            by: norm.coefficient_to(threshold),
            lands_on: None,
        },
        false => Change::Keep,
    }
}

/// Like [`shorten`], for a single tensor, whose norm afterwards is exactly the threshold.
fn shorten_alone(measure: &Measure, threshold: f64) -> Change {
    match shorten(measure.norm, threshold) {
        Change::Scale { by, .. } => Change::Scale {
            by,
            lands_on: Some(threshold),
        },
        change => change,
    }
}

#[cfg(test)]
mod tests {
    use super::shorten;
    use crate::change::Change;
    use crate::norm::Norm;

    #[test]
    fn norms_equal_to_the_threshold_are_kept() {
        let five = Norm::of(5.0);
        assert_eq!(shorten(five, 5.0), Change::Keep);
        let change = shorten(Norm::of(5.0_f64.next_up()), 5.0);
        assert!(matches!(change, Change::Scale { by, .. } if by.value() < 1.0));
        assert_eq!(shorten(Norm::of(f64::MAX), f64::INFINITY), Change::Keep);
        assert_eq!(shorten(Norm::ZERO, f64::MIN_POSITIVE), Change::Keep);
    }
}
