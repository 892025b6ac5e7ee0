//! Deciding: pure scalar code that turns measures and memories into one change per tensor.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::detector::{Detector, Lesson};
use crate::measure::{TensorMeasure, norm_of_all};
use crate::norm::{Coefficient, Norm, add_squares};
use crate::policy::ClipRule;
use crate::report::SkipReason;
use crate::units::UnitLayout;

/// What is to be done to the finite elements of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// Not one bit changes.
    Keep,
    /// Each element is multiplied by the coefficient.
    Scale(Coefficient),
    /// Each element is clamped to `[-bound, bound]`.
    Clamp(f64),
    /// The elements of each unit are multiplied by the unit's coefficient.
    Units {
        layout: UnitLayout,
        coefficients: Vec<f64>,
    },
}

/// What is to be done in one step by one rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
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

/// The step is to be left out.
pub(crate) struct SkipStep {
    pub(crate) reason: SkipReason,
    pub(crate) threshold: Option<f64>,
}

/// What a decision depends on besides the gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Steps that were applied before this one.
    pub(crate) step: u64,
    /// The loss of the step, if it is known and finite.
    pub(crate) loss: Option<f64>,
}

/// Chooses a change for each tensor. What equals its threshold is kept as it is.
pub(crate) fn decide(
    rule: &ClipRule,
    detector: Option<&Detector>,
    context: Context,
    measures: &[TensorMeasure],
) -> Result<Decision, SkipStep> {
    let global_norm = || norm_of_all(measures, rule.order());
    Ok(match (*rule, detector) {
        (ClipRule::Value { threshold }, _) => {
            per_tensor(threshold.at(context.step), measures, |measure, bound| {
                // Compared as the storage can hold it, so that what is already at the bound is not
                // changed again.
                match measure.max_magnitude > (measure.round)(bound) {
                    true => Change::Clamp(bound),
                    false => Change::Keep,
                }
            })
        }
        (ClipRule::Norm { threshold, .. }, _) => {
            per_tensor(threshold.at(context.step), measures, |measure, bound| {
                scale_to(bound, measure.norm)
            })
        }
        (ClipRule::BlockRms { threshold }, _) => {
            per_tensor(threshold.at(context.step), measures, |measure, bound| {
                scale_to(
                    bound * crate::math::sqrt(measure.elements as f64),
                    measure.norm,
                )
            })
        }
        (ClipRule::GlobalNorm { threshold, .. }, _) => {
            together(Some(threshold.at(context.step)), global_norm(), measures)
        }
        (ClipRule::Normalize { threshold }, _) => {
            normalize(threshold.at(context.step), global_norm(), measures)
        }
        (ClipRule::GroupNorm { threshold }, _) => by_group(threshold.at(context.step), measures),
        (
            ClipRule::Agc {
                lambda, epsilon, ..
            },
            _,
        ) => {
            let lambda = lambda.at(context.step);
            per_tensor(lambda, measures, |measure, _| {
                scale_units(lambda, epsilon.get(), measure)
            })
        }
        (ClipRule::Skip { .. }, Some(Detector::Skip(_))) => {
            return skip_or_keep(rule, detector, context, measures);
        }
        (_, Some(detector)) => decide_from_memory(rule, detector, context, measures),
        _ => keep(measures),
    })
}

/// The rules whose threshold follows from the steps before.
fn decide_from_memory(
    rule: &ClipRule,
    detector: &Detector,
    context: Context,
    measures: &[TensorMeasure],
) -> Decision {
    let norm = norm_of_all(measures, rule.order());
    match (*rule, detector) {
        (ClipRule::AutoClip { percentile }, Detector::AutoClip(history)) => {
            let threshold = history.percentile_with(norm.value(), percentile.get());
            // A threshold of zero would silence every step until the zeros are outnumbered.
            let threshold = Some(threshold).filter(|threshold| *threshold > 0.0);
            together(threshold, norm, measures).teaching(Lesson::Norm(norm.value()))
        }
        (ClipRule::ZClip { z, max, .. }, Detector::ZClip(score)) => {
            let target = score.target(norm.value(), z.get());
            let threshold = target.unwrap_or(f64::INFINITY).min(max.at(context.step));
            let lesson = Lesson::Norm(target.unwrap_or(norm.value()));
            together(Some(threshold), norm, measures).teaching(lesson)
        }
        (ClipRule::Median { factor, window }, Detector::Median(past)) => {
            let threshold = past
                .median(window)
                .filter(|median| *median > 0.0)
                .map(|median| factor.at(context.step) * median);
            together(threshold, norm, measures).teaching(Lesson::Norm(norm.value()))
        }
        (
            ClipRule::AdaGc {
                absolute,
                relative,
                warmup,
                ..
            },
            Detector::AdaGc(running),
        ) => {
            let bounds = measures.iter().map(|measure| {
                Some(relative.at(context.step) * running.of(&measure.name, warmup)?)
            });
            adaptive_by_tensor(absolute.at(context.step), bounds.collect(), measures)
        }
        _ => keep(measures),
    }
}

impl Decision {
    pub(crate) fn changes_anything(&self) -> bool {
        self.changes.iter().any(|change| *change != Change::Keep)
    }

    fn teaching(mut self, lesson: Lesson) -> Decision {
        self.lesson = lesson;
        self
    }
}

fn keep(measures: &[TensorMeasure]) -> Decision {
    Decision {
        changes: vec![Change::Keep; measures.len()],
        threshold: None,
        tensor_thresholds: vec![None; measures.len()],
        norm_after: None,
        lesson: Lesson::None,
    }
}

/// All tensors by one coefficient.
fn together(threshold: Option<f64>, norm: Norm, measures: &[TensorMeasure]) -> Decision {
    let change = threshold.map_or(Change::Keep, |threshold| scale_to(threshold, norm));
    let clipped = change != Change::Keep;
    Decision {
        changes: vec![change; measures.len()],
        threshold,
        norm_after: threshold.filter(|_| clipped),
        ..keep(measures)
    }
}

/// To the target, from above and from below.
fn normalize(target: f64, norm: Norm, measures: &[TensorMeasure]) -> Decision {
    let scaled = !norm.is_zero() && norm.value() != target;
    let change = match scaled {
        true => Change::Scale(norm.coefficient_to(target)),
        false => Change::Keep,
    };
    Decision {
        changes: vec![change; measures.len()],
        threshold: Some(target),
        norm_after: Some(target).filter(|_| scaled),
        ..keep(measures)
    }
}

/// Each tensor by itself, with one threshold for all.
fn per_tensor(
    threshold: f64,
    measures: &[TensorMeasure],
    change: impl Fn(&TensorMeasure, f64) -> Change,
) -> Decision {
    let changes = measures.iter().map(|measure| change(measure, threshold));
    Decision {
        changes: changes.collect(),
        threshold: Some(threshold),
        tensor_thresholds: vec![Some(threshold); measures.len()],
        ..keep(measures)
    }
}

fn by_group(threshold: f64, measures: &[TensorMeasure]) -> Decision {
    let mut groups: BTreeMap<&str, Vec<&TensorMeasure>> = BTreeMap::new();
    for measure in measures {
        groups.entry(&measure.group).or_default().push(measure);
    }
    let norm = |group: &Vec<&TensorMeasure>| add_squares(group.iter().map(|m| m.squares)).root();
    let changes: BTreeMap<&str, Change> = groups
        .iter()
        .map(|(name, group)| (*name, scale_to(threshold, norm(group))))
        .collect();
    per_tensor(threshold, measures, |measure, _| {
        changes
            .get(measure.group.as_str())
            .cloned()
            .unwrap_or(Change::Keep)
    })
}

fn scale_units(lambda: f64, epsilon: f64, measure: &TensorMeasure) -> Change {
    let Some(units) = &measure.units else {
        return Change::Keep;
    };
    let coefficient = |(gradient, parameter): (&Norm, &f64)| {
        let bound = lambda * parameter.max(epsilon);
        match gradient.exceeds(bound) {
            true => gradient.coefficient_to(bound).value(),
            false => 1.0,
        }
    };
    let coefficients: Vec<f64> = units
        .gradient
        .iter()
        .zip(&units.parameter)
        .map(coefficient)
        .collect();
    if coefficients.iter().all(|coefficient| *coefficient == 1.0) {
        return Change::Keep;
    }
    Change::Units {
        layout: units.layout,
        coefficients,
    }
}

/// Tensors with a bound of their own by that, and the others by the norm of all.
fn adaptive_by_tensor(
    absolute: f64,
    bounds: Vec<Option<f64>>,
    measures: &[TensorMeasure],
) -> Decision {
    let all = norm_of_all(measures, crate::policy::NormOrder::TWO);
    let change = |(measure, bound): (&TensorMeasure, &Option<f64>)| match bound {
        Some(bound) => scale_to(*bound, measure.norm),
        None => scale_to(absolute, all),
    };
    let changes: Vec<Change> = measures.iter().zip(&bounds).map(change).collect();
    let learned = measures.iter().zip(&changes).map(|(measure, change)| {
        let norm = match change {
            Change::Scale(coefficient) => scaled_norm(measure.norm, *coefficient).value(),
            _ => measure.norm.value(),
        };
        (measure.name.clone(), norm)
    });
    let lesson = Lesson::Tensors(learned.collect::<Vec<(String, f64)>>());
    let warming_up = bounds.iter().all(Option::is_none);
    Decision {
        changes,
        threshold: Some(absolute).filter(|_| warming_up),
        tensor_thresholds: bounds,
        lesson,
        ..keep(measures)
    }
}

fn skip_or_keep(
    rule: &ClipRule,
    detector: Option<&Detector>,
    context: Context,
    measures: &[TensorMeasure],
) -> Result<Decision, SkipStep> {
    let (
        ClipRule::Skip {
            sigma,
            window,
            limit,
        },
        Some(Detector::Skip(outliers)),
    ) = (*rule, detector)
    else {
        return Ok(keep(measures));
    };
    let norm = norm_of_all(measures, rule.order()).value();
    let norm_limit = outliers.norms.limit(sigma.get(), window);
    let loss_limit = outliers.losses.limit(sigma.get(), window);
    let above = |value: f64, limit: Option<f64>| {
        limit
            .filter(|limit| value > *limit)
            .map(|limit| (value, limit))
    };
    let norm_outlier =
        above(norm, norm_limit).map(|(norm, limit)| SkipReason::Norm { norm, limit });
    let loss_outlier = context
        .loss
        .and_then(|loss| above(loss, loss_limit))
        .map(|(loss, limit)| SkipReason::Loss { loss, limit });
    let reason = norm_outlier.or(loss_outlier);
    let enough = outliers.skipped >= limit.get();
    match reason {
        Some(reason) if !enough => Err(SkipStep {
            reason,
            threshold: norm_limit,
        }),
        reason => Ok(Decision {
            threshold: norm_limit,
            lesson: Lesson::Step {
                norm,
                loss: context.loss,
                start_over: reason.is_some(),
            },
            ..keep(measures)
        }),
    }
}

fn scale_to(threshold: f64, norm: Norm) -> Change {
    if norm.exceeds(threshold) {
        Change::Scale(norm.coefficient_to(threshold))
    } else {
        Change::Keep
    }
}

pub(crate) fn scaled_norm(norm: Norm, coefficient: Coefficient) -> Norm {
    Norm {
        scaled: norm.scaled * coefficient.second,
        scale: norm.scale * coefficient.first,
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, scale_to};
    use crate::norm::Norm;

    #[test]
    fn equality_is_kept_and_the_next_number_is_not() {
        let five = Norm::of(5.0);
        assert_eq!(scale_to(5.0, five), Change::Keep);
        let change = scale_to(5.0, Norm::of(5.0_f64.next_up()));
        assert!(matches!(change, Change::Scale(scale) if scale.value() < 1.0));
        assert_eq!(scale_to(f64::INFINITY, Norm::of(f64::MAX)), Change::Keep);
        assert_eq!(scale_to(f64::MIN_POSITIVE, Norm::ZERO), Change::Keep);
    }
}
