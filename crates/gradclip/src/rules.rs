//! The rules that a clipper applies. Each is one value with its memory: it decides from measures
//! alone, learns from applied steps, and exports its memory as lists of numbers.

mod adaptive;
mod fixed;
mod guard;
mod running;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::change::Change;
use crate::clip_rule::ClipRule;
use crate::measure::Measure;
use crate::norm::Norm;
use crate::percentile::NormHistory;
use crate::policy::ClipPolicy;
use crate::state::{Lists, StateError};
use crate::threshold::Threshold;
use crate::units::Units;

use adaptive::{AdaGc, AutoClip, Median, ZClip, ZScore};
use fixed::Fixed;
use running::Window;

pub use guard::SkipReason;
pub(crate) use guard::{Guard, Judgement};

/// A rule that changes gradients, with what it has learned.
pub(crate) trait Rule: CloneRule + fmt::Debug + Send + Sync {
    /// Decides on a change for each tensor, after `step` applied steps. A norm equal to its
    /// threshold is kept.
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided;

    /// The threshold after `step` applied steps, if it does not depend on the gradients.
    fn fixed_threshold(&self, _step: u64) -> Option<f64> {
        None
    }

    /// The output units whose norms it needs, if it clips units.
    fn units(&self) -> Option<Units> {
        None
    }

    /// Learns from an applied step.
    fn learn(&mut self, _lesson: &Lesson) {}

    /// What the rule has learned, as named lists of numbers.
    fn state(&self) -> Vec<(String, Vec<f64>)> {
        Vec::new()
    }

    /// Restores what [`Rule::state`] returned.
    fn restore(&mut self, _lists: &mut Lists<'_>) -> Result<(), StateError> {
        Ok(())
    }
}

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

/// What a rule learns from an applied step. Always finite.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lesson {
    /// The norm of all tensors, or the value that the rule records instead.
    norm: Option<f64>,
    /// The norm of each tensor after clipping.
    tensors: Vec<(String, f64)>,
}

/// A rule in a policy, as written and as it works.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) written: ClipRule,
    /// The prefix of its list names in a [`ClipperState`](crate::ClipperState).
    prefix: String,
    pub(crate) rule: Box<dyn Rule>,
}

/// The guards of a policy, and the rules that change gradients, before the first step.
pub(crate) fn links_of(policy: &ClipPolicy) -> (Vec<Guard>, Vec<Link>) {
    let (mut guards, mut links) = (Vec::new(), Vec::new());
    for written in policy.rules() {
        let prefix = format!("{}.{}.", guards.len() + links.len(), written.name());
        if let ClipRule::Skip {
            sigma,
            window,
            limit,
        } = *written
        {
            let norms = Window::new(window.get(), written.steps_needed());
            guards.push(Guard::new(prefix, sigma, norms, limit));
        } else if let Some(rule) = rule_of(written) {
            links.push(Link {
                written: *written,
                prefix,
                rule,
            });
        }
    }
    (guards, links)
}

/// `None` for rules that do not change gradients.
fn rule_of(rule: &ClipRule) -> Option<Box<dyn Rule>> {
    let order = rule.order();
    let fixed = |threshold: Threshold, decide| -> Box<dyn Rule> {
        Box::new(Fixed {
            threshold,
            order,
            units: None,
            decide,
        })
    };
    Some(match *rule {
        ClipRule::Skip { .. } | ClipRule::UpdateRms { .. } | ClipRule::Spam { .. } => return None,
        ClipRule::Value { threshold } => fixed(threshold, fixed::value),
        ClipRule::Norm { threshold, .. } => fixed(threshold, fixed::norm),
        ClipRule::GlobalNorm { threshold, .. } => fixed(threshold, fixed::global_norm),
        ClipRule::GroupNorm { threshold } => fixed(threshold, fixed::group_norm),
        ClipRule::BlockRms { threshold } => fixed(threshold, fixed::block_rms),
        ClipRule::Normalize { threshold } => fixed(threshold.get(), fixed::normalize),
        ClipRule::Agc {
            lambda,
            epsilon,
            unit,
        } => Box::new(Fixed {
            threshold: lambda,
            order,
            units: Some(Units {
                axis: unit,
                epsilon,
            }),
            decide: fixed::agc,
        }),
        ClipRule::AutoClip { percentile } => Box::new(AutoClip {
            percentile,
            history: NormHistory::EMPTY,
        }),
        ClipRule::ZClip {
            z,
            alpha,
            warmup,
            max,
        } => Box::new(ZClip {
            z,
            alpha,
            warmup,
            max,
            score: ZScore::WarmingUp(Vec::new()),
        }),
        ClipRule::AdaGc {
            absolute,
            relative,
            beta,
            warmup,
        } => Box::new(AdaGc {
            absolute,
            relative,
            beta,
            warmup,
            steps: 0,
            norms: BTreeMap::new(),
        }),
        ClipRule::Median { factor, window } => Box::new(Median {
            factor,
            norms: Window::new(window.get(), rule.steps_needed()),
        }),
    })
}

impl Link {
    /// What the rule has learned, as named lists of numbers.
    pub(crate) fn state(&self) -> Vec<(String, Vec<f64>)> {
        prefixed(&self.prefix, self.rule.state())
    }

    /// Restores a state returned by [`Link::state`].
    pub(crate) fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        lists.prefix.clone_from(&self.prefix);
        self.rule.restore(lists)
    }
}

fn prefixed(prefix: &str, lists: Vec<(String, Vec<f64>)>) -> Vec<(String, Vec<f64>)> {
    let lists = lists.into_iter();
    lists
        .map(|(name, list)| (format!("{prefix}{name}"), list))
        .collect()
}

/// What one rule decides in one step. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decided {
    /// One for each tensor, or none if nothing changes.
    pub(crate) changes: Vec<Change>,
    /// The threshold in effect, if it is the same for all tensors.
    pub(crate) threshold: Option<f64>,
    /// The threshold of each tensor, for rules that clip tensor by tensor.
    pub(crate) tensor_thresholds: Vec<Option<f64>>,
    /// The norm of all tensors afterwards, if known without rounding.
    pub(crate) norm_after: Option<f64>,
    /// What the rule learns if the step is applied.
    pub(crate) lesson: Lesson,
}

impl Decided {
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
            ..Decided::default()
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
            ..Decided::default()
        }
    }

    /// A zero norm says nothing about the size of ordinary norms.
    fn learning(mut self, norm: f64) -> Decided {
        self.lesson.norm = Some(norm).filter(|norm| *norm > 0.0);
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
