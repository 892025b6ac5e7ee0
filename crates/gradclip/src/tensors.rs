//! The tensors of a step, in host memory or known only by their measures.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::change::{Change, Effect, Factors, Scale, apply, factors_of};
use crate::element::Elements;
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::{Measure, Orders, measure_tensor};
use crate::norm::Coefficient;
use crate::rules::Link;
use crate::scan::Scan;
use crate::threshold::NormOrder;
use crate::units::{measure_units, units_of};

/// The tensors of a step.
pub(crate) trait Tensors {
    /// Measures the tensors for a rule.
    fn measure(&mut self, rule: Option<&Link>) -> Result<Vec<Measure>, ClipError>;

    /// Checks that all rules can be applied to the tensors, which were measured for the first one.
    fn check(&mut self, rules: &[Link], measures: &[Measure]) -> Result<(), ClipError>;

    fn zero_non_finite(&mut self);

    /// Applies a change to each tensor and returns the effects. The last change may be deferred to
    /// the optimizer.
    fn apply(
        &mut self,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
        is_last: bool,
    ) -> Vec<Effect>;
}

/// How tensors are read and scaled.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) threads: usize,
    pub(crate) scan: Scan,
    pub(crate) scale: Scale,
    /// The order of the norms in the report.
    pub(crate) report: NormOrder,
    /// Tensors that are exempt from `agc`.
    pub(crate) output_layer: BTreeSet<String>,
}

impl Reading {
    pub(crate) fn orders(&self, rule: Option<&Link>) -> Orders {
        Orders {
            rule: rule.map_or(NormOrder::TWO, |link| link.written.order()),
            report: self.report,
        }
    }
}

/// Tensors in host memory.
pub(crate) struct Local<'a, G> {
    gradients: &'a mut G,
    reading: &'a Reading,
    /// The factors that are deferred to the optimizer.
    pub(crate) factors: Option<Factors>,
    rounded_to_zero: u64,
}

impl<'a, G> Local<'a, G> {
    pub(crate) fn new(gradients: &'a mut G, reading: &'a Reading) -> Local<'a, G> {
        Local {
            gradients,
            reading,
            factors: None,
            rounded_to_zero: 0,
        }
    }
}

impl<G: Gradients> Tensors for Local<'_, G> {
    fn measure(&mut self, rule: Option<&Link>) -> Result<Vec<Measure>, ClipError> {
        let (threads, scan) = (self.reading.threads, self.reading.scan);
        let output_layer = &self.reading.output_layer;
        let orders = self.reading.orders(rule);
        let units = rule.and_then(|link| link.rule.units());
        let single = self.gradients.single_precision();
        let scanned = single.map(|tensors| scan(&tensors, threads));
        let mut scanned = scanned.into_iter().flatten();
        let mut measures: Vec<Measure> = Vec::new();
        let mut problem = None;
        self.gradients.visit(&mut |gradient| {
            let mut measure = measure_tensor(&gradient, orders, threads, scan, scanned.next());
            if let Some(units) = units.filter(|_| !output_layer.contains(gradient.name)) {
                match measure_units(&gradient, units, measure.max_magnitude) {
                    Ok(units) => measure.units = Some(units),
                    Err(error) => problem = problem.take().or(Some(error)),
                }
            }
            measures.push(measure);
        });
        problem.map_or(Ok(measures), Err)
    }

    fn check(&mut self, rules: &[Link], measures: &[Measure]) -> Result<(), ClipError> {
        let output_layer = &self.reading.output_layer;
        let clips_units = rules.iter().any(|link| link.rule.units().is_some());
        let is_missing = |name: &&String| measures.iter().all(|measure| measure.name != **name);
        let missing = output_layer.iter().find(is_missing);
        let missing = missing.filter(|_| clips_units).cloned();
        let mut problem = missing.map(|tensor| ClipError::OutputLayer { tensor });
        // Measuring for the first rule has checked it.
        for units in rules.iter().skip(1).filter_map(|link| link.rule.units()) {
            self.gradients.visit(&mut |gradient| {
                if !output_layer.contains(gradient.name) {
                    problem = problem.take().or(units_of(&gradient, units.axis).err());
                }
            });
        }
        problem.map_or(Ok(()), Err)
    }

    fn zero_non_finite(&mut self) {
        self.gradients
            .visit(&mut |mut gradient| gradient.elements.zero_non_finite());
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

/// Visits the elements of the same tensors as an earlier visit, whose names it gave.
///
/// # Panics
///
/// If the tensors differ, which breaks the contract of [`Gradients`].
pub(crate) fn visit_again<'a, G: Gradients>(
    gradients: &mut G,
    mut names: impl Iterator<Item = &'a str>,
    mut work: impl FnMut(usize, &mut Elements<'_>),
) {
    let mut index = 0;
    gradients.visit(&mut |mut gradient| {
        assert_eq!(
            Some(gradient.name),
            names.next(),
            "Gradients::visit must visit the same tensors in the same order each time"
        );
        work(index, &mut gradient.elements);
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

/// Tensors known only by their measures.
pub(crate) struct Remote {
    measures: Vec<Measure>,
    pub(crate) factors: Vec<f64>,
    pub(crate) clamps: Vec<Option<f64>>,
}

impl Remote {
    pub(crate) fn new(measures: &[Measure]) -> Remote {
        Remote {
            measures: measures.to_vec(),
            factors: vec![1.0; measures.len()],
            clamps: vec![None; measures.len()],
        }
    }

    fn multiply(&mut self, index: usize, by: Coefficient) {
        // An infinite factor would turn zero elements into NaN.
        self.factors[index] = (self.factors[index] * by.value()).min(f64::MAX);
    }
}

impl Tensors for Remote {
    fn measure(&mut self, _: Option<&Link>) -> Result<Vec<Measure>, ClipError> {
        match self.clamps.iter().all(Option::is_none) {
            true => Ok(self.measures.clone()),
            // `check` has refused rules after `value`.
            false => Err(ClipError::Measures {
                rule: "normalize",
                problem: "saturates elements, after which the next rule needs the elements",
            }),
        }
    }

    fn check(&mut self, rules: &[Link], measures: &[Measure]) -> Result<(), ClipError> {
        let unknown = |measure: &Measure| measure.max_magnitude.is_nan();
        let mut is_clamped = false;
        for link in rules {
            let problem = match link.written.clamps() {
                _ if link.rule.units().is_some() || is_clamped => "needs the elements of gradients",
                _ if link.written.order() != NormOrder::TWO => "needs norms of its own order",
                true if measures.iter().any(unknown) => {
                    "needs the largest magnitude of each tensor"
                }
                clamps => {
                    is_clamped = clamps;
                    continue;
                }
            };
            let rule = link.written.name();
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
