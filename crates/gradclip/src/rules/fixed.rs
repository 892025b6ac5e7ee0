//! The rules whose threshold does not depend on the gradients of other steps.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::{Decided, Rule, shorten, shorten_alone};
use crate::change::Change;
use crate::math::sqrt;
use crate::measure::{Measure, norm_of_all};
use crate::norm::{Norm, add_squares};
use crate::threshold::{NormOrder, Positive, Threshold, UnitAxis};

/// `value`.
#[derive(Clone, Debug)]
pub(super) struct ByValue(pub(super) Threshold);

impl Rule for ByValue {
    fn can_turn(&self) -> bool {
        true
    }

    fn clamps(&self) -> bool {
        true
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let bound = self.0.at(step);
        Decided::per_tensor(bound, measures, |measure| {
            // Compared as the storage can hold it, so that what is already at the bound is not
            // changed again.
            match measure.max_magnitude > (measure.round)(bound) {
                true => Change::Clamp(bound),
                false => Change::Keep,
            }
        })
    }
}

/// `norm`.
#[derive(Clone, Debug)]
pub(super) struct ByNorm(pub(super) Threshold, pub(super) NormOrder);

impl Rule for ByNorm {
    fn order(&self) -> NormOrder {
        self.1
    }

    fn can_turn(&self) -> bool {
        true
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let threshold = self.0.at(step);
        Decided::per_tensor(threshold, measures, |measure| {
            shorten_alone(measure, threshold)
        })
    }
}

/// `block-rms`.
#[derive(Clone, Debug)]
pub(super) struct BlockRms(pub(super) Threshold);

impl Rule for BlockRms {
    fn can_turn(&self) -> bool {
        true
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let threshold = self.0.at(step);
        Decided::per_tensor(threshold, measures, |measure| {
            shorten(measure.norm, threshold * sqrt(measure.elements as f64))
        })
    }
}

/// `group-norm`.
#[derive(Clone, Debug)]
pub(super) struct GroupNorm(pub(super) Threshold);

impl Rule for GroupNorm {
    fn can_turn(&self) -> bool {
        true
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let mut groups: BTreeMap<&str, Vec<&Measure>> = BTreeMap::new();
        for measure in measures {
            groups.entry(&measure.group).or_default().push(measure);
        }
        let norm = |group: Vec<&Measure>| add_squares(group.iter().map(|m| m.squares)).root();
        let norms: BTreeMap<&str, Norm> = groups
            .into_iter()
            .map(|(name, group)| (name, norm(group)))
            .collect();
        let threshold = self.0.at(step);
        Decided::per_tensor(threshold, measures, |measure| {
            shorten(norms[measure.group.as_str()], threshold)
        })
    }
}

/// `global-norm`.
#[derive(Clone, Debug)]
pub(super) struct GlobalNorm(pub(super) Threshold, pub(super) NormOrder);

impl Rule for GlobalNorm {
    fn order(&self) -> NormOrder {
        self.1
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, self.1);
        Decided::together(Some(self.0.at(step)), norm, measures.len())
    }
}

/// `normalize`: to the threshold from above and from below.
#[derive(Clone, Debug)]
pub(super) struct Normalize(pub(super) Threshold);

impl Rule for Normalize {
    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.0.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let target = self.0.at(step);
        let norm = norm_of_all(measures, NormOrder::TWO);
        let scaled = !norm.is_zero() && norm.value() != target;
        let change = match scaled {
            true => Change::Scale {
                by: norm.coefficient_to(target),
                lands_on: None,
            },
            false => Change::Keep,
        };
        Decided {
            changes: vec![change; measures.len()],
            threshold: Some(target),
            norm_after: Some(target).filter(|_| scaled),
            ..Decided::keep(measures.len())
        }
    }
}

/// `agc`.
#[derive(Clone, Debug)]
pub(super) struct Agc {
    pub(super) lambda: Threshold,
    pub(super) epsilon: Positive,
    pub(super) unit: Option<UnitAxis>,
}

impl Rule for Agc {
    fn can_turn(&self) -> bool {
        true
    }

    fn units(&self) -> Option<Option<UnitAxis>> {
        Some(self.unit)
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.lambda.at(step))
    }

    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let lambda = self.lambda.at(step);
        let epsilon = self.epsilon.get();
        Decided::per_tensor(lambda, measures, |measure| {
            scale_units(lambda, epsilon, measure)
        })
    }
}

fn scale_units(lambda: f64, epsilon: f64, measure: &Measure) -> Change {
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
    let pairs = units.gradient.iter().zip(&units.parameter);
    let coefficients: Vec<f64> = pairs.map(coefficient).collect();
    if coefficients.iter().all(|coefficient| *coefficient == 1.0) {
        return Change::Keep;
    }
    Change::Units {
        layout: units.layout,
        coefficients,
    }
}
