#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use gradclip::{
    Accumulate, AsElements, ClipError, ClipReport, Clipper, Elements, Gradient, Gradients, Outcome,
    Unscaled,
};
use half::{bf16, f16};

use cases::Case;

mod cases;
mod compare;
mod mean;
mod scan;

pub use gradclip::Buffer;
pub use scan::{check_scale, check_scan};

/// An adapter under test.
pub trait Adapter {
    /// The storage types that the adapter supports.
    fn storage_types(&self) -> Vec<StorageType>;

    /// Whether the library supports tensors of this shape. Cases with unsupported shapes are
    /// skipped: some libraries have no zero-dimensional or no empty tensors.
    fn has_shape(&self, shape: &[usize]) -> bool {
        let _ = shape;
        true
    }

    /// The axes of the output units that the adapter sets for a shape ([`Gradient::with_units`]),
    /// if it knows nothing else about a tensor; `None` if it sets none.
    fn units(&self, shape: &[usize]) -> Option<Range<usize>> {
        let _ = shape;
        None
    }

    /// Converts the tensors to gradients of the library, clips them through the adapter, and
    /// converts them back.
    ///
    /// The gradients must have the values, shapes and names of `tensors`, and their parameters, if
    /// any. They may be in any order.
    ///
    /// # Errors
    ///
    /// The error of [`Clipper::clip`].
    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError>;

    /// Converts the tensors of each micro-batch to gradients of the library, sums them with
    /// [`gradclip::Accumulated`], and returns their mean
    /// ([`without_loss_scale`](gradclip::Reduced::without_loss_scale)), in any order.
    fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor>;
}

/// The result of one step.
#[derive(Clone, Debug)]
pub struct Clipping {
    /// The gradients as passed to an optimizer, or as they are after a skipped step, in any order.
    /// Their parameters are ignored.
    pub tensors: Vec<NamedTensor>,
    /// The report.
    pub report: ClipReport,
    /// Whether the optimizer may step: whether the outcome was [`Outcome::Apply`].
    pub may_step: bool,
}

/// A named gradient, with its parameter if the policy needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name, such as `layers.0.weight`.
    pub name: String,
    /// The shape, row-major; empty for a scalar.
    pub shape: Vec<usize>,
    /// The gradient.
    pub gradient: Buffer,
    /// The parameter, of the same shape and type.
    pub parameter: Option<Buffer>,
    /// The result of [`Adapter::units`] for the shape.
    pub units: Option<Range<usize>>,
}

impl NamedTensor {
    /// Borrows the tensor as a [`Gradient`], for adapters to plain slices.
    pub fn as_gradient(&mut self) -> Gradient<'_> {
        let elements = self.gradient.as_elements();
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

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageType {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl StorageType {
    /// All storage types.
    pub const ALL: [StorageType; 4] = [
        StorageType::F32,
        StorageType::F64,
        StorageType::F16,
        StorageType::Bf16,
    ];

    /// The storage type of a buffer.
    ///
    /// # Panics
    ///
    /// If the suite lacks it.
    #[must_use]
    pub fn of(buffer: &Buffer) -> StorageType {
        match buffer {
            Buffer::F32(_) => StorageType::F32,
            Buffer::F64(_) => StorageType::F64,
            Buffer::F16(_) => StorageType::F16,
            Buffer::Bf16(_) => StorageType::Bf16,
            other => panic!("the suite lacks this storage type: {other:?}"),
        }
    }
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

/// Rounds values to a storage type.
fn rounded(storage: StorageType, values: &[f64]) -> Buffer {
    let values = values.iter().copied();
    match storage {
        StorageType::F32 => Buffer::F32(values.map(|value| value as f32).collect()),
        StorageType::F64 => Buffer::F64(values.collect()),
        StorageType::F16 => Buffer::F16(values.map(f16::from_f64).collect()),
        StorageType::Bf16 => Buffer::Bf16(values.map(bf16::from_f64).collect()),
    }
}

/// Runs every case of the suite through the adapter.
///
/// # Panics
///
/// On the first difference from the same policy over plain slices, naming the case, the storage
/// type, the step and what differs.
pub fn check(adapter: &mut dyn Adapter) {
    if let Err(difference) = find_difference(adapter) {
        panic!("the adapter does not conform: {difference}");
    }
}

fn find_difference(adapter: &mut dyn Adapter) -> Result<(), String> {
    let storage_types = adapter.storage_types();
    if storage_types.is_empty() {
        return Err("it has no storage type".into());
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

/// Runs a case through the adapter and the oracle. Half-way, the adapter's clipper is replaced by a
/// new one that restores its state.
fn run(case: &Case, adapter: &mut dyn Adapter) -> Result<(), String> {
    let new_clipper = || Clipper::for_adam(case.policy.clone(), case.non_finite);
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
            compare::known_values(clipping, expected).map_err(in_step)?;
        }
        if clipper.state() != oracle.state() {
            return Err(in_step("the state of the clipper differs".into()));
        }
    }
    Ok(())
}

/// The tensors in the order of the report, so that the oracle sums in the same order.
fn visiting_order(
    report: &ClipReport,
    tensors: &[NamedTensor],
) -> Result<Vec<NamedTensor>, String> {
    let mut missing: BTreeMap<&str, &NamedTensor> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut visited = Vec::with_capacity(tensors.len());
    for tensor in &report.tensors {
        let name = tensor.name.as_str();
        let known = missing.remove(name).ok_or_else(|| {
            format!("the report has `{name}`, which was not given or is repeated")
        })?;
        visited.push(known.clone());
    }
    match missing.first_key_value() {
        None => Ok(visited),
        Some((name, _)) => Err(format!("the report lacks `{name}`")),
    }
}

/// Gradients over plain slices, the oracle of adapters.
#[derive(Clone, Debug)]
struct Plain(Vec<NamedTensor>);

impl Accumulate for Plain {
    fn visit_pairs(
        &mut self,
        Plain(other): Plain,
        visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
    ) {
        for (sum, mut term) in self.0.iter_mut().zip(other) {
            visitor(sum.gradient.as_elements(), term.gradient.as_elements());
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
