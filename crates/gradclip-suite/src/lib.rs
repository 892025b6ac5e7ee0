#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use gradclip::{
    Accumulate, AsElements, ClipError, ClipReport, Clipper, Elements, Gradient, Gradients, Outcome,
    Unscaled, Values,
};
use half::{bf16, f16};

use cases::Case;

mod cases;
mod compare;
mod mean;
mod scan;

pub use scan::check_scan;

/// A tensor library, as the suite sees it.
pub trait Adapter {
    /// The types of gradients that the adapter clips.
    fn storage_types(&self) -> Vec<StorageType>;

    /// Whether the library has tensors of this shape. Cases with another shape are left out; some
    /// libraries have no tensors without axes, or none without elements.
    fn has_shape(&self, shape: &[usize]) -> bool {
        let _ = shape;
        true
    }

    /// The axes that count output units where the adapter knows no more than a shape, if it sets
    /// them ([`Gradient::with_units`]).
    fn units(&self, shape: &[usize]) -> Option<Range<usize>> {
        let _ = shape;
        None
    }

    /// Turns the tensors into gradients of the library, clips them through the adapter, and turns
    /// them back.
    ///
    /// The gradients must have the numbers, shapes and names of `tensors`, and parameters where
    /// these have them. Their order is the library's own.
    ///
    /// # Errors
    ///
    /// That of [`Clipper::clip`].
    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError>;

    /// Turns the tensors of each micro-batch into gradients of the library, adds them by
    /// [`gradclip::Accumulated`], and gives back their mean
    /// ([`without_loss_scale`](gradclip::Reduced::without_loss_scale)), in any order.
    fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor>;
}

/// What came of one step.
#[derive(Clone, Debug)]
pub struct Clipping {
    /// The gradients as an optimizer would get them, or as they are after a step that is left out,
    /// in any order. Their parameters are not looked at.
    pub tensors: Vec<NamedTensor>,
    /// The report.
    pub report: ClipReport,
    /// Whether the optimizer may step: whether it was [`Outcome::Apply`].
    pub may_step: bool,
}

/// A gradient with its name, and with its parameter if the policy asks for one.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name, such as `layers.0.weight`.
    pub name: String,
    /// The shape, row-major; empty for a single number without axes.
    pub shape: Vec<usize>,
    /// The gradient.
    pub numbers: Numbers,
    /// The parameter, of the same shape and type.
    pub parameter: Option<Numbers>,
    /// What [`Adapter::units`] gives for the shape.
    pub units: Option<Range<usize>>,
}

impl NamedTensor {
    /// The tensor as a [`Gradient`], for an oracle or an adapter to plain slices.
    pub fn as_gradient(&mut self) -> Gradient<'_> {
        let elements = self.numbers.as_elements();
        let mut gradient = Gradient::new(&self.name, elements).with_shape(&self.shape);
        if let Some(units) = &self.units {
            gradient = gradient.with_units(units.clone());
        }
        match &self.parameter {
            Some(parameter) => gradient.with_parameter(parameter.values()),
            None => gradient,
        }
    }
}

/// The type that numbers are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageType {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl StorageType {
    /// All of them.
    pub const ALL: [StorageType; 4] = [
        StorageType::F32,
        StorageType::F64,
        StorageType::F16,
        StorageType::Bf16,
    ];
}

impl fmt::Display for StorageType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            StorageType::F32 => "f32",
            StorageType::F64 => "f64",
            StorageType::F16 => "f16",
            StorageType::Bf16 => "bf16",
        })
    }
}

/// Numbers in their own type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Numbers {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// The upper half of single precision.
    Bf16(Vec<bf16>),
}

impl Numbers {
    /// The nearest numbers of a type.
    #[must_use]
    pub fn rounded(storage: StorageType, numbers: &[f64]) -> Numbers {
        let numbers = numbers.iter().copied();
        match storage {
            StorageType::F32 => Numbers::F32(numbers.map(|number| number as f32).collect()),
            StorageType::F64 => Numbers::F64(numbers.collect()),
            StorageType::F16 => Numbers::F16(numbers.map(f16::from_f64).collect()),
            StorageType::Bf16 => Numbers::Bf16(numbers.map(bf16::from_f64).collect()),
        }
    }

    /// The type.
    #[must_use]
    pub fn storage_type(&self) -> StorageType {
        match self {
            Numbers::F32(_) => StorageType::F32,
            Numbers::F64(_) => StorageType::F64,
            Numbers::F16(_) => StorageType::F16,
            Numbers::Bf16(_) => StorageType::Bf16,
        }
    }

    /// The numbers, to read.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        match self {
            Numbers::F32(numbers) => Values::F32(numbers),
            Numbers::F64(numbers) => Values::F64(numbers),
            Numbers::F16(numbers) => Values::F16(numbers),
            Numbers::Bf16(numbers) => Values::Bf16(numbers),
        }
    }
}

impl From<Values<'_>> for Numbers {
    fn from(values: Values<'_>) -> Numbers {
        match values {
            Values::F32(values) => Numbers::F32(values.to_vec()),
            Values::F64(values) => Numbers::F64(values.to_vec()),
            Values::F16(values) => Numbers::F16(values.to_vec()),
            Values::Bf16(values) => Numbers::Bf16(values.to_vec()),
            other => panic!("the suite lacks this storage type: {other:?}"),
        }
    }
}

impl AsElements for Numbers {
    fn as_elements(&mut self) -> Elements<'_> {
        match self {
            Numbers::F32(numbers) => Elements::F32(numbers),
            Numbers::F64(numbers) => Elements::F64(numbers),
            Numbers::F16(numbers) => Elements::F16(numbers),
            Numbers::Bf16(numbers) => Elements::Bf16(numbers),
        }
    }
}

/// Runs every case through the adapter.
///
/// # Panics
///
/// At the first difference to the same policy over plain slices, with the name of the case, the
/// storage type, the step and what differs.
pub fn check(adapter: &mut dyn Adapter) {
    if let Err(difference) = find_difference(adapter) {
        panic!("the adapter does not conform: {difference}");
    }
}

fn find_difference(adapter: &mut dyn Adapter) -> Result<(), String> {
    let storage_types = adapter.storage_types();
    if storage_types.is_empty() {
        return Err("it names no storage type".into());
    }
    for storage in storage_types {
        mean::find_difference(adapter, storage)
            .map_err(|problem| format!("the mean of micro-batches in {storage}, {problem}"))?;
        for mut case in cases::all(storage) {
            for tensor in case.steps.iter_mut().flatten() {
                tensor.units = adapter.units(&tensor.shape);
            }
            if case.shapes().all(|shape| adapter.has_shape(shape)) {
                run(&case, adapter).map_err(|problem| {
                    let (name, policy, rule) = (case.name, &case.policy, case.non_finite);
                    format!("{name}, `{policy}` in {storage}, non-finite {rule}, {problem}")
                })?;
            }
        }
    }
    Ok(())
}

/// Steps through a case with the adapter and with the oracle. In the middle the clipper of the
/// adapter is replaced by a new one that has the state of the old.
fn run(case: &Case, adapter: &mut dyn Adapter) -> Result<(), String> {
    let new_clipper = || Clipper::beside_adam(case.policy.clone(), case.non_finite);
    let (mut clipper, mut oracle) = (new_clipper(), new_clipper());
    for (index, tensors) in case.steps.iter().enumerate() {
        let in_step = |problem: String| format!("step {index}: {problem}");
        if index > 0 && index == case.steps.len() / 2 {
            let state = clipper.state();
            clipper = new_clipper();
            let restored = clipper.restore(&state);
            restored.map_err(|error| in_step(format!("{error}")))?;
        }
        let given = adapter.clip(&mut clipper, tensors);
        let visited = match &given {
            Ok(clipping) => visiting_order(&clipping.report, tensors).map_err(in_step)?,
            Err(_) => tensors.clone(),
        };
        let wanted = clip_plain(&mut oracle, visited);
        compare::outcomes(&given, &wanted).map_err(in_step)?;
        if let (Some(expected), Ok(clipping)) = (&case.expected, &given) {
            compare::known_numbers(clipping, expected).map_err(in_step)?;
        }
        if clipper.state() != oracle.state() {
            return Err(in_step("the clipper learned something else".into()));
        }
    }
    Ok(())
}

/// The tensors in the order of the report, so that the oracle adds in the same order.
fn visiting_order(
    report: &ClipReport,
    tensors: &[NamedTensor],
) -> Result<Vec<NamedTensor>, String> {
    let mut left: BTreeMap<&str, &NamedTensor> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut visited = Vec::with_capacity(tensors.len());
    for tensor in &report.tensors {
        let name = tensor.name.as_str();
        let known = left
            .remove(name)
            .ok_or_else(|| format!("the report has `{name}`, which was not given or is twice"))?;
        visited.push(known.clone());
    }
    match left.first_key_value() {
        None => Ok(visited),
        Some((missing, _)) => Err(format!("the report lacks `{missing}`")),
    }
}

/// The tensors themselves are the gradients: what adapters are compared with.
#[derive(Clone, Debug)]
struct Plain(Vec<NamedTensor>);

impl Accumulate for Plain {
    fn visit_pairs(
        &mut self,
        Plain(other): Plain,
        visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
    ) {
        for (sum, mut term) in self.0.iter_mut().zip(other) {
            visitor(sum.numbers.as_elements(), term.numbers.as_elements());
        }
    }
}

impl Gradients for Plain {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for tensor in &mut self.0 {
            visitor(tensor.as_gradient());
        }
    }
}

fn clip_plain(clipper: &mut Clipper, tensors: Vec<NamedTensor>) -> Result<Clipping, ClipError> {
    let outcome = clipper.clip(Unscaled::single(Plain(tensors)))?;
    let may_step = matches!(outcome, Outcome::Apply(_));
    let (Plain(tensors), report) = match outcome {
        Outcome::Apply(clipped) => clipped.into_parts(),
        Outcome::Skip { gradients, report } => (gradients, report),
    };
    Ok(Clipping {
        tensors,
        report,
        may_step,
    })
}

#[cfg(test)]
mod tests;
