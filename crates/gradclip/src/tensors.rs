//! The tensors of a step, to be measured and changed: those at hand, and those that are elsewhere.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::change::{Change, Effect, Factors, apply, factors_of};
use crate::element::Elements;
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::{Measure, Orders, measure_tensor};
use crate::norm::Coefficient;
use crate::rules::Link;
use crate::scan::Scan;
use crate::threshold::NormOrder;
use crate::units::{measure_units, units_of};

/// The tensors of a step, whose elements are at hand or elsewhere.
pub(crate) trait Tensors {
    /// Measures them for a rule.
    fn measure(&mut self, rule: Option<&Link>) -> Result<Vec<Measure>, ClipError>;

    /// Whether all rules can be carried out on them.
    fn check(&mut self, rules: &[Link]) -> Result<(), ClipError>;

    fn zero_non_finite(&mut self);

    /// Changes them, and tells what that did to each. The last change may be left to the optimizer.
    fn apply(
        &mut self,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
        is_last: bool,
    ) -> Vec<Effect>;
}

/// How tensors are read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) threads: usize,
    pub(crate) scan: Scan,
    /// The order of the norms in the report.
    pub(crate) report: NormOrder,
    /// Tensors whose units are not asked for.
    pub(crate) output_layer: BTreeSet<String>,
}

impl Reading {
    pub(crate) fn orders(&self, rule: Option<&Link>) -> Orders {
        Orders {
            rule: rule.map_or(NormOrder::TWO, Link::order),
            report: self.report,
        }
    }
}

/// Tensors that are read and written here.
pub(crate) struct AtHand<'a, G> {
    gradients: &'a mut G,
    reading: &'a Reading,
    /// What is left to the optimizer.
    pub(crate) factors: Option<Factors>,
    rounded_to_zero: u64,
}

impl<'a, G> AtHand<'a, G> {
    pub(crate) fn new(gradients: &'a mut G, reading: &'a Reading) -> AtHand<'a, G> {
        AtHand {
            gradients,
            reading,
            factors: None,
            rounded_to_zero: 0,
        }
    }
}

impl<G: Gradients> Tensors for AtHand<'_, G> {
    fn measure(&mut self, rule: Option<&Link>) -> Result<Vec<Measure>, ClipError> {
        let (threads, scan) = (self.reading.threads, self.reading.scan);
        let output_layer = &self.reading.output_layer;
        let orders = self.reading.orders(rule);
        let units = rule.and_then(Link::units);
        let together = self.gradients.single_precision();
        let scanned = together.map(|tensors| scan(&tensors, threads));
        let mut scanned = scanned.into_iter().flatten();
        let mut measures: Vec<Measure> = Vec::new();
        let mut problem = None;
        let mut left_alone = 0;
        self.gradients.visit(&mut |gradient| {
            let mut measure = measure_tensor(&gradient, orders, threads, scan, scanned.next());
            if output_layer.contains(gradient.name()) {
                left_alone += 1;
            } else if let Some(axis) = units {
                match measure_units(&gradient, axis, measure.max_magnitude) {
                    Ok(units) => measure.units = Some(units),
                    Err(error) => problem = problem.take().or(Some(error)),
                }
            }
            measures.push(measure);
        });
        if units.is_some() && left_alone < output_layer.len() {
            let found = |name: &&String| measures.iter().any(|measure| measure.name == **name);
            let mut names = output_layer.iter();
            let missing = names.find(|name| !found(name)).cloned();
            let error = |tensor| ClipError::OutputLayer { tensor };
            problem = problem.or(missing.map(error));
        }
        problem.map_or(Ok(measures), Err)
    }

    fn check(&mut self, rules: &[Link]) -> Result<(), ClipError> {
        let output_layer = &self.reading.output_layer;
        let mut problem = None;
        // The first rule has been measured for.
        for axis in rules.iter().skip(1).filter_map(Link::units) {
            self.gradients.visit(&mut |gradient| {
                if !output_layer.contains(gradient.name()) {
                    problem = problem.take().or(units_of(&gradient, axis).err());
                }
            });
        }
        problem.map_or(Ok(()), Err)
    }

    fn zero_non_finite(&mut self) {
        self.gradients
            .visit(&mut |mut gradient| gradient.elements_mut().zero_non_finite());
    }

    fn apply(
        &mut self,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
        is_last: bool,
    ) -> Vec<Effect> {
        if is_last && let Some(of_tensors) = factors_of(changes) {
            self.factors = Some(Factors {
                of_tensors,
                rounded_to_zero: self.rounded_to_zero,
            });
            return effects_of(changes, measures, orders);
        }
        let mut effects = Vec::with_capacity(measures.len());
        let names = measures.iter().map(|measure| measure.name.as_str());
        visit_again(self.gradients, names, |index, elements| {
            let threads = self.reading.threads;
            let effect = apply(elements, &changes[index], &measures[index], orders, threads);
            self.rounded_to_zero += effect.rounded_to_zero.unwrap_or(0);
            effects.push(effect);
        });
        effects
    }
}

/// Visits the elements of tensors whose names are known from an earlier visit.
///
/// # Panics
///
/// If there are others, which breaks the contract of [`Gradients`].
pub(crate) fn visit_again<'a, G: Gradients>(
    gradients: &mut G,
    mut names: impl Iterator<Item = &'a str>,
    mut work: impl FnMut(usize, &mut Elements<'_>),
) {
    let mut index = 0;
    gradients.visit(&mut |mut gradient| {
        assert_eq!(
            Some(gradient.name()),
            names.next(),
            "Gradients::visit must visit the same tensors in the same order each time"
        );
        work(index, gradient.elements_mut());
        index += 1;
    });
    assert_eq!(
        names.next(),
        None,
        "Gradients::visit must visit every tensor"
    );
}

fn effects_of(changes: &[Change], measures: &[Measure], orders: Orders) -> Vec<Effect> {
    let pairs = changes.iter().zip(measures);
    pairs
        .map(|(change, measure)| change.effect(measure, orders))
        .collect()
}

/// Tensors that are known by their measures alone.
pub(crate) struct Elsewhere {
    measures: Vec<Measure>,
    pub(crate) factors: Vec<f64>,
    pub(crate) clamps: Vec<Option<f64>>,
}

impl Elsewhere {
    pub(crate) fn new(measures: &[Measure]) -> Elsewhere {
        Elsewhere {
            measures: measures.to_vec(),
            factors: vec![1.0; measures.len()],
            clamps: vec![None; measures.len()],
        }
    }

    fn multiply(&mut self, index: usize, by: Coefficient) {
        // An infinite factor would make NaN of elements that are zero.
        self.factors[index] = (self.factors[index] * by.value()).min(f64::MAX);
    }
}

impl Tensors for Elsewhere {
    fn measure(&mut self, _: Option<&Link>) -> Result<Vec<Measure>, ClipError> {
        match self.clamps.iter().all(Option::is_none) {
            true => Ok(self.measures.clone()),
            // `check` has refused what comes after `value`.
            false => Err(ClipError::Measures {
                rule: "normalize",
                problem: "takes elements to the end of their type, after which the next rule needs them",
            }),
        }
    }

    fn check(&mut self, rules: &[Link]) -> Result<(), ClipError> {
        let unknown = |measure: &Measure| measure.max_magnitude.is_nan();
        let mut is_clamped = false;
        for link in rules {
            let problem = match link.clamps() {
                _ if link.units().is_some() || is_clamped => "needs the elements of gradients",
                _ if link.order() != NormOrder::TWO => "needs norms of its own order",
                true if self.measures.iter().any(unknown) => {
                    "needs the largest magnitude of each tensor"
                }
                clamps => {
                    is_clamped = clamps;
                    continue;
                }
            };
            let rule = link.name();
            return Err(ClipError::Measures { rule, problem });
        }
        Ok(())
    }

    fn zero_non_finite(&mut self) {}

    fn apply(
        &mut self,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
        _: bool,
    ) -> Vec<Effect> {
        for (index, change) in changes.iter().enumerate() {
            match change {
                Change::Scale { by, lands_on } => {
                    self.measures[index].scale(*by, *lands_on);
                    self.multiply(index, *by);
                }
                Change::Clamp { by, bound } => {
                    self.multiply(index, *by);
                    self.clamps[index] = Some(*bound);
                }
                Change::Keep | Change::Units { .. } => {}
            }
        }
        effects_of(changes, measures, orders)
    }
}
