//! The tensors of a step, to be measured and changed: those at hand, and those that are elsewhere.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::apply::apply;
use crate::change::{Change, Effect};
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::{Measure, Orders, measure_tensor};
use crate::norm::Coefficient;
use crate::rules::{Link, Rule};
use crate::scan::Scan;
use crate::threshold::NormOrder;
use crate::units::{measure_units, units_of};

/// The tensors of a step, whose elements are at hand or elsewhere.
pub(crate) trait Tensors {
    /// Measures them for a rule.
    fn measure(&mut self, rule: Option<&dyn Rule>) -> Result<Vec<Measure>, ClipError>;

    /// Whether all rules can be carried out on them.
    fn check(&mut self, rules: &[Link<Box<dyn Rule>>]) -> Result<(), ClipError>;

    fn zero_non_finite(&mut self);

    /// Changes them, and tells what that did to each.
    fn apply(&mut self, changes: &[Change], measures: &[Measure], orders: Orders) -> Vec<Effect>;
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
    pub(crate) fn orders(&self, rule: Option<&dyn Rule>) -> Orders {
        Orders {
            rule: rule.map_or(NormOrder::TWO, Rule::order),
            report: self.report,
        }
    }
}

/// Tensors that are read and written here.
pub(crate) struct AtHand<'a, G> {
    pub(crate) gradients: &'a mut G,
    pub(crate) reading: &'a Reading,
}

impl<G: Gradients> Tensors for AtHand<'_, G> {
    fn measure(&mut self, rule: Option<&dyn Rule>) -> Result<Vec<Measure>, ClipError> {
        let Reading {
            threads,
            scan,
            output_layer,
            ..
        } = self.reading;
        let (threads, scan) = (*threads, *scan);
        let orders = self.reading.orders(rule);
        let units = rule.and_then(Rule::units);
        let read = |tensors: Vec<&[f32]>| scan(&tensors, threads).into_iter();
        let mut scanned = self.gradients.single_precision().map(read);
        let mut measures: Vec<Measure> = Vec::new();
        let mut problem = None;
        let mut left_alone = 0;
        self.gradients.visit(&mut |gradient| {
            let scanned = scanned.as_mut().map(|scanned| {
                let next = scanned.next();
                next.expect("Gradients::single_precision must have every tensor of a visit")
            });
            let mut measure = measure_tensor(&gradient, orders, threads, scan, scanned);
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

    fn check(&mut self, rules: &[Link<Box<dyn Rule>>]) -> Result<(), ClipError> {
        let output_layer = &self.reading.output_layer;
        let mut problem = None;
        // The first rule has been measured for.
        for axis in rules.iter().skip(1).filter_map(|link| link.rule.units()) {
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

    fn apply(&mut self, changes: &[Change], measures: &[Measure], orders: Orders) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(measures.len());
        self.gradients.visit(&mut |mut gradient| {
            let index = effects.len();
            let measured = measures.get(index).map(|measure| measure.name.as_str());
            assert_eq!(
                Some(gradient.name()),
                measured,
                "Gradients::visit must visit the same tensors in the same order each time"
            );
            let (change, measure) = (&changes[index], &measures[index]);
            let elements = gradient.elements_mut();
            effects.push(apply(
                elements,
                change,
                measure,
                orders,
                self.reading.threads,
            ));
        });
        assert_eq!(
            effects.len(),
            measures.len(),
            "Gradients::visit must visit every tensor"
        );
        effects
    }
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
}

impl Elsewhere {
    fn multiply(&mut self, index: usize, by: Coefficient) {
        // An infinite factor would make NaN of elements that are zero.
        self.factors[index] = (self.factors[index] * by.value()).min(f64::MAX);
    }
}

impl Tensors for Elsewhere {
    fn measure(&mut self, _: Option<&dyn Rule>) -> Result<Vec<Measure>, ClipError> {
        match self.clamps.iter().all(Option::is_none) {
            true => Ok(self.measures.clone()),
            // `check` has refused what comes after `value`.
            false => Err(ClipError::Measures {
                rule: "normalize",
                problem: "takes elements to the end of their type, after which the next rule needs them",
            }),
        }
    }

    fn check(&mut self, rules: &[Link<Box<dyn Rule>>]) -> Result<(), ClipError> {
        let unknown = |measure: &Measure| measure.max_magnitude.is_nan();
        let mut is_clamped = false;
        for Link { name, rule, .. } in rules {
            let problem = match rule.clamps() {
                _ if rule.units().is_some() || is_clamped => "needs the elements of gradients",
                _ if rule.order() != NormOrder::TWO => "needs norms of its own order",
                true if self.measures.iter().any(unknown) => {
                    "needs the largest magnitude of each tensor"
                }
                clamps => {
                    is_clamped = clamps;
                    continue;
                }
            };
            return Err(ClipError::Measures {
                rule: name,
                problem,
            });
        }
        Ok(())
    }

    fn zero_non_finite(&mut self) {}

    fn apply(&mut self, changes: &[Change], measures: &[Measure], orders: Orders) -> Vec<Effect> {
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
        let effects = changes.iter().zip(measures);
        effects
            .map(|(change, measure)| change.effect(measure, orders))
            .collect()
    }
}
