//! From Burn's gradients to named slices, with one synchronisation of the device.

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{
    DType, Device, Gradients as BackwardGradients, Tensor, TensorData, Transaction,
};
use gradclip::{Accumulate, ClipPolicy, Elements, Gradient, Gradients, Values};

/// The gradients of a module's parameters: named, in the module's order, each parameter once.
///
/// A parameter that the module holds in two places (tied weights: the same [`ParamId`]) counts
/// once, under the name of the first place and with the sum of its gradients. A parameter without
/// a gradient is left out.
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
    /// The axes that count the output units of its layer.
    units: Range<usize>,
    /// The group of `group-norm`, if it is not what stands before the last dot of the name.
    group: Option<String>,
    /// The parameter itself, if it was asked for.
    parameter: Option<TensorData>,
}

impl ModuleGradients {
    /// Takes the gradients of `module` out of what `loss.backward()` returned, and what `policy`
    /// needs besides: for `agc` the parameters, which are read in the same transaction.
    ///
    /// The output units of `agc` follow from the layer: see [the list](crate#agc).
    ///
    /// # Errors
    ///
    /// [`CollectError::Type`] for a gradient that is not f32, f64, f16 or bf16, and
    /// [`CollectError::Read`] if the device cannot give its data.
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
            Some(data) => of_known_type(data, name),
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
            // Clones of one parameter share a gradient, which the first of them takes. Clones that
            // were moved or loaded one by one have a gradient each, and their sum is the tied one.
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

    /// Puts each gradient into the group of `group-norm` that `group` gives to its name. Unless
    /// told otherwise that is what stands before the last dot, so that `layers.0.weight` and
    /// `layers.0.bias` belong together.
    #[must_use]
    pub fn with_groups<Group: Into<String>>(mut self, group: impl Fn(&str) -> Group) -> Self {
        for entry in &mut self.entries {
            entry.group = Some(group(&entry.name).into());
        }
        self
    }

    /// Sets the axes that count output units, by name and shape, where `units` knows better than
    /// [the layer](crate#agc) does: `0..1` for `[out, in]`.
    ///
    /// [`Clipper::clip`](gradclip::Clipper::clip) refuses `agc` if an axis is not there.
    #[must_use]
    pub fn with_units(mut self, units: impl Fn(&str, &[usize]) -> Option<Range<usize>>) -> Self {
        for entry in &mut self.entries {
            if let Some(axes) = units(&entry.name, entry.data.shape()) {
                entry.units = axes;
            }
        }
        self
    }

    /// Names and values, in the module's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Values<'_>)> {
        self.entries
            .iter()
            .map(|entry| (entry.name.as_str(), values(&entry.data)))
    }

    /// How many parameters have a gradient.
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

fn of_known_type(data: TensorData, tensor: &str) -> Result<TensorData, CollectError> {
    match data.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(data),
        // It is stored as f32, or as something that f32 holds.
        DType::Flex32 => data
            .try_cast_as::<f32>()
            .map_err(|e| CollectError::Read(e.to_string())),
        dtype => Err(CollectError::Type {
            tensor: tensor.to_owned(),
            dtype,
        }),
    }
}

const OF_KNOWN_TYPE: &str = "the type was checked when the data was collected";

fn values(data: &TensorData) -> Values<'_> {
    match data.dtype() {
        DType::F64 => Values::F64(data.as_slice().expect(OF_KNOWN_TYPE)),
        DType::F16 => Values::F16(data.as_slice().expect(OF_KNOWN_TYPE)),
        DType::BF16 => Values::Bf16(data.as_slice().expect(OF_KNOWN_TYPE)),
        _ => Values::F32(data.as_slice().expect(OF_KNOWN_TYPE)),
    }
}

pub(crate) fn elements(data: &mut TensorData) -> Elements<'_> {
    match data.dtype() {
        DType::F64 => Elements::F64(data.as_mut_slice().expect(OF_KNOWN_TYPE)),
        DType::F16 => Elements::F16(data.as_mut_slice().expect(OF_KNOWN_TYPE)),
        DType::BF16 => Elements::Bf16(data.as_mut_slice().expect(OF_KNOWN_TYPE)),
        _ => Elements::F32(data.as_mut_slice().expect(OF_KNOWN_TYPE)),
    }
}

/// The axes that count the output units of a parameter, by the layer that holds it and its rank.
fn units_of(layer: &str, rank: usize) -> Range<usize> {
    match (layer, rank) {
        // A vector has no units to tell apart: bias, gain.
        (_, 0 | 1) => 0..0,
        // `[out, in / groups, ..]`.
        ("Conv1d" | "Conv2d" | "Conv3d" | "DeformConv2d", _) => 0..1,
        // `[in, out / groups, ..]`.
        ("ConvTranspose1d" | "ConvTranspose2d" | "ConvTranspose3d", _) => 1..2,
        // `[tokens, width]`: the vector of each token.
        ("Embedding", _) => 0..1,
        // `Linear` has `[in, out]`, and so has whatever else multiplies from the right.
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
    /// The types of the containers that it is in, such as `Struct:Linear` or `Vec`.
    layers: Vec<String>,
    found: Vec<Found>,
    /// Taken and put back at each tensor, because registering consumes it.
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
        // Removing it leaves one owner, so that a CPU device hands over its buffer uncopied.
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
    /// The gradient's type is none of the common floating-point types.
    #[error("gradient of `{tensor}` has type {dtype:?}; f32, f64, f16 and bf16 can be clipped")]
    Type {
        /// The parameter.
        tensor: String,
        /// Its gradient's type.
        dtype: DType,
    },
    /// The device did not give its data.
    #[error("cannot read gradients from the device: {0}")]
    Read(String),
}
