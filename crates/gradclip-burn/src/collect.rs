//! Converts Burn's gradients to named slices, with one device synchronisation.

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{
    DType, Device, Gradients as BackwardGradients, Tensor, TensorData, Transaction,
};
use gradclip::{Accumulate, ClipPolicy, Elements, Gradient, Gradients, Values};

/// The gradients of a module's parameters, named by their paths, in the module's order, each
/// parameter once.
///
/// A parameter that occurs twice in the module (tied weights with the same [`ParamId`]) is included
/// once, under its first name and with the sum of its gradients. Parameters without a gradient are
/// omitted.
#[derive(Debug)]
pub struct ModuleGradients {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) id: ParamId,
    /// The gradient, in its own type.
    pub(crate) data: TensorData,
    pub(crate) device: Device,
    /// The axes that index the output units of the layer.
    units: Range<usize>,
    /// The group for `group-norm`, if it is not the name up to its last dot.
    group: Option<String>,
    /// The parameter itself, if the policy needs it.
    parameter: Option<TensorData>,
}

impl ModuleGradients {
    /// Collects the gradients of `module` from the result of `loss.backward()`, and the parameters
    /// too if `policy` needs them (`agc`), in the same transaction.
    ///
    /// The output units of `agc` depend on the layer type: see [the table](crate#agc).
    ///
    /// # Errors
    ///
    /// [`CollectError::Type`] if a gradient is not f32, f64, f16 or bf16, and
    /// [`CollectError::Read`] if reading from the device fails.
    pub fn collect<M: Module>(
        gradients: BackwardGradients,
        module: &M,
        policy: &ClipPolicy,
    ) -> Result<Self, CollectError> {
        let with_parameters = policy.needs_parameters();
        let mut collector = Collector {
            gradients,
            with_parameters,
            path: Vec::new(),
            layers: Vec::new(),
            found: Vec::new(),
            transaction: Some(Transaction::default()),
        };
        module.visit(&mut collector);
        let transaction = collector.transaction.take().unwrap_or_default();
        let data = transaction
            .try_execute()
            .map_err(|e| CollectError::Read(e.to_string()))?;
        let mut data = data.into_iter();
        let mut next = |name: &str| match data.next() {
            Some(data) => checked_type(data, name),
            None => Err(CollectError::Read(format!("no data of `{name}`"))),
        };
        let mut entries: Vec<Entry> = Vec::with_capacity(collector.found.len());
        let mut index_of: HashMap<ParamId, usize> = HashMap::new();
        for found in collector.found {
            let Found {
                name,
                id,
                device,
                units,
            } = found;
            let mut data = next(&name)?;
            let parameter = match with_parameters {
                true => Some(next(&name)?),
                false => None,
            };
            // Clones of a parameter share a gradient, which the first one takes. Clones that were
            // moved or loaded separately have a gradient each, and the tied gradient is their sum.
            if let Some(&first) = index_of.get(&id) {
                elements(&mut entries[first].data).add(&elements(&mut data));
            } else {
                index_of.insert(id, entries.len());
                entries.push(Entry {
                    name,
                    id,
                    data,
                    device,
                    units,
                    group: None,
                    parameter,
                });
            }
        }
        Ok(ModuleGradients { entries })
    }

    /// Sets the group of each gradient for `group-norm`, from its name. The default is the name up
    /// to its last dot, so that `layers.0.weight` and `layers.0.bias` share a group.
    #[must_use]
    pub fn with_groups<Group: Into<String>>(mut self, group: impl Fn(&str) -> Group) -> Self {
        for entry in &mut self.entries {
            entry.group = Some(group(&entry.name).into());
        }
        self
    }

    /// Overrides the axes that index output units, from name and shape, where `units` returns
    /// `Some`: `0..1` for `[out, in]`. See [the defaults](crate#agc).
    ///
    /// [`Clipper::clip`](gradclip::Clipper::clip) fails under `agc` if an axis is out of range.
    #[must_use]
    pub fn with_units(mut self, units: impl Fn(&str, &[usize]) -> Option<Range<usize>>) -> Self {
        for entry in &mut self.entries {
            if let Some(axes) = units(&entry.name, entry.data.shape()) {
                entry.units = axes;
            }
        }
        self
    }

    /// Iterates over names and values, in the module's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Values<'_>)> {
        self.entries
            .iter()
            .map(|entry| (entry.name.as_str(), values(&entry.data)))
    }

    /// The number of parameters with a gradient.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no parameter has a gradient.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Gradients for ModuleGradients {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for entry in &mut self.entries {
            let shape = entry.data.shape().clone();
            let elements = elements(&mut entry.data);
            let mut gradient = Gradient::new(&entry.name, elements).with_shape(&shape);
            gradient = gradient.with_units(entry.units.clone());
            if let Some(group) = &entry.group {
                gradient = gradient.with_group(group);
            }
            if let Some(parameter) = &entry.parameter {
                gradient = gradient.with_parameter(values(parameter));
            }
            visitor(gradient);
        }
    }

    fn single_precision(&self) -> Option<Vec<&[f32]>> {
        let slices = self.entries.iter().map(|entry| match values(&entry.data) {
            Values::F32(values) => Some(values),
            _ => None,
        });
        slices.collect()
    }

    fn single_precision_mut(&mut self) -> Option<Vec<&mut [f32]>> {
        let entries = self.entries.iter_mut();
        let slices = entries.map(|entry| match elements(&mut entry.data) {
            Elements::F32(elements) => Some(elements),
            _ => None,
        });
        slices.collect()
    }
}

impl Accumulate for ModuleGradients {
    fn visit_pairs(
        &mut self,
        other: ModuleGradients,
        visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
    ) {
        assert_eq!(
            self.entries.len(),
            other.entries.len(),
            "gradients of another module"
        );
        for (sum, mut term) in self.entries.iter_mut().zip(other.entries) {
            assert_eq!(sum.id, term.id, "gradients of another module");
            visitor(elements(&mut sum.data), elements(&mut term.data));
        }
    }
}

fn checked_type(data: TensorData, tensor: &str) -> Result<TensorData, CollectError> {
    match data.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(data),
        // Stored as f32, or as a type that converts to f32 exactly.
        DType::Flex32 => data
            .try_cast_as::<f32>()
            .map_err(|e| CollectError::Read(e.to_string())),
        dtype => Err(CollectError::Type {
            tensor: tensor.to_owned(),
            dtype,
        }),
    }
}

const CHECKED_TYPE: &str = "the type was checked when the data was collected";

fn values(data: &TensorData) -> Values<'_> {
    match data.dtype() {
        DType::F64 => Values::F64(data.as_slice().expect(CHECKED_TYPE)),
        DType::F16 => Values::F16(data.as_slice().expect(CHECKED_TYPE)),
        DType::BF16 => Values::Bf16(data.as_slice().expect(CHECKED_TYPE)),
        _ => Values::F32(data.as_slice().expect(CHECKED_TYPE)),
    }
}

pub(crate) fn elements(data: &mut TensorData) -> Elements<'_> {
    match data.dtype() {
        DType::F64 => Elements::F64(data.as_mut_slice().expect(CHECKED_TYPE)),
        DType::F16 => Elements::F16(data.as_mut_slice().expect(CHECKED_TYPE)),
        DType::BF16 => Elements::Bf16(data.as_mut_slice().expect(CHECKED_TYPE)),
        _ => Elements::F32(data.as_mut_slice().expect(CHECKED_TYPE)),
    }
}

/// The axes that index the output units of a parameter, from its layer type and rank.
fn units_of(layer: &str, rank: usize) -> Range<usize> {
    match (layer, rank) {
        // Vectors (biases, gains) are a single unit.
        (_, 0 | 1) => 0..0,
        // `[out, in / groups, ..]`.
        ("Conv1d" | "Conv2d" | "Conv3d" | "DeformConv2d", _) => 0..1,
        // `[in, out / groups, ..]`.
        ("ConvTranspose1d" | "ConvTranspose2d" | "ConvTranspose3d", _) => 1..2,
        // `[tokens, width]`: the vector of each token.
        ("Embedding", _) => 0..1,
        // `Linear` and other matrices: `[in, out]`.
        (_, 2) => 1..2,
        (_, _) => 0..1,
    }
}

/// A parameter with a gradient.
struct Found {
    name: String,
    id: ParamId,
    device: Device,
    units: Range<usize>,
}

struct Collector {
    gradients: BackwardGradients,
    with_parameters: bool,
    path: Vec<String>,
    /// The types of the enclosing containers, such as `Struct:Linear` or `Vec`.
    layers: Vec<String>,
    found: Vec<Found>,
    /// Taken and replaced at each tensor, because registering consumes it.
    transaction: Option<Transaction>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.layers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.layers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Removing it leaves one owner, so that a CPU device returns its buffer without a copy.
        let Some(gradient) = param.val().grad_remove(&mut self.gradients) else {
            return;
        };
        let mut structs = self.layers.iter().rev();
        let layer = structs.find_map(|container| container.strip_prefix("Struct:"));
        self.found.push(Found {
            name: self.path.join("."),
            id: param.id,
            device: gradient.device(),
            units: units_of(layer.unwrap_or_default(), D),
        });
        let mut transaction = self.transaction.take().unwrap_or_default();
        transaction = transaction.register(gradient);
        if self.with_parameters {
            transaction = transaction.register(param.val().inner());
        }
        self.transaction = Some(transaction);
    }
}

/// Why gradients could not be collected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The gradient has an unsupported type.
    #[error("gradient of `{tensor}` has type {dtype:?}; f32, f64, f16 and bf16 can be clipped")]
    Type {
        /// The parameter.
        tensor: String,
        /// The type of its gradient.
        dtype: DType,
    },
    /// Reading from the device failed.
    #[error("cannot read gradients from the device: {0}")]
    Read(String),
}
