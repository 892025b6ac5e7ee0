//! The rules whose threshold does not depend on earlier gradients.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Decided, Rule, shorten, shorten_alone};
use crate::change::Change;
use crate::math::sqrt;
use crate::measure::{Measure, norm_of_all};
use crate::norm::{Coefficient, Norm, add_squares};
use crate::threshold::{NormOrder, Threshold};
use crate::units::Units;

/// A rule without memory.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) threshold: Threshold,
    pub(super) order: NormOrder,
    pub(super) units: Option<Units>,
    /// Decides from the threshold, the order of norms, and the measures.
    pub(super) decide: fn(f64, NormOrder, &[Measure]) -> Decided,
}

impl Rule for Fixed {
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        (self.decide)(self.threshold.at(step), self.order, measures)
    }

    fn fixed_threshold(&self, step: u64) -> Option<f64> {
        Some(self.threshold.at(step))
    }

    fn units(&self) -> Option<Units> {
        self.units
    }
}

pub(super) fn value(bound: f64, _: NormOrder, measures: &[Measure]) -> Decided {
    Decided::per_tensor(bound, measures, |measure| {
        // Compared with the bound as rounded to storage, so that clamping twice changes nothing.
        match measure.max_magnitude > (measure.round)(bound) {
            true => Change::Clamp {
                by: Coefficient::ONE,
                bound,
            },
            false => Change::Keep,
        }
    })
}

pub(super) fn norm(threshold: f64, _: NormOrder, measures: &[Measure]) -> Decided {
    Decided::per_tensor(threshold, measures, |measure| {
        shorten_alone(measure, threshold)
    })
}

pub(super) fn block_rms(threshold: f64, _: NormOrder, measures: &[Measure]) -> Decided {
    Decided::per_tensor(threshold, measures, |measure| {
        shorten(measure.norm, threshold * sqrt(measure.elements as f64))
    })
}

pub(super) fn group_norm(threshold: f64, _: NormOrder, measures: &[Measure]) -> Decided {
    let mut groups: BTreeMap<&str, Vec<&Measure>> = BTreeMap::new();
    for measure in measures {
        groups.entry(&measure.group).or_default().push(measure);
    }
    let norm = |group: Vec<&Measure>| add_squares(group.iter().map(|m| m.squares)).root();
    let norms: BTreeMap<&str, Norm> = groups
        .into_iter()
        .map(|(name, group)| (name, norm(group)))
        .collect();
    Decided::per_tensor(threshold, measures, |measure| {
        shorten(norms[measure.group.as_str()], threshold)
    })
}

pub(super) fn global_norm(threshold: f64, order: NormOrder, measures: &[Measure]) -> Decided {
    let norm = norm_of_all(measures, order);
    Decided::uniform(Some(threshold), norm, measures.len())
}

/// Scales to the target from above and from below.
pub(super) fn normalize(target: f64, order: NormOrder, measures: &[Measure]) -> Decided {
    let norm = norm_of_all(measures, order);
    if norm.is_zero() || norm.value() == target {
        return Decided {
            threshold: Some(target),
            ..Decided::default()
        };
    }
    let by = norm.coefficient_to(target);
    let changes: Vec<Change> = measures.iter().map(|m| lengthen(m, by)).collect();
    let fits = |change: &Change| matches!(change, Change::Scale { .. });
    // A saturated ratio does not reach the target either.
    let reached = by.second < f64::MAX && changes.iter().all(fits);
    Decided {
        changes,
        threshold: Some(target),
        norm_after: Some(target).filter(|_| reached),
        ..Decided::default()
    }
}

/// Scales, clamping where elements would overflow their type.
fn lengthen(measure: &Measure, by: Coefficient) -> Change {
    let largest = measure.max_magnitude * by.first * by.second;
    match (measure.round)(largest) > measure.largest {
        true => Change::Clamp {
            by,
            bound: measure.largest,
        },
        false => Change::Scale { by, lands_on: None },
    }
}

/// `agc`, which compares each output unit with its parameter.
pub(super) fn agc(lambda: f64, _: NormOrder, measures: &[Measure]) -> Decided {
    Decided::per_tensor(lambda, measures, |measure| scale_units(lambda, measure))
}

fn scale_units(lambda: f64, measure: &Measure) -> Change {
    let Some(units) = &measure.units else {
        return Change::Keep;
    };
    let coefficient = |(gradient, parameter): (&Norm, &f64)| {
        let bound = lambda * parameter;
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
