//! From Burn's gradients to named slices, with one synchronisation of the device.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{
    DType, Device, Gradients as BackwardGradients, Tensor, TensorData, Transaction,
};

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
    /// The gradient in f32, whatever type the parameter has.
    pub(crate) data: TensorData,
    /// The type that the optimizer gets it back in.
    pub(crate) dtype: DType,
    pub(crate) device: Device,
}

impl ModuleGradients {
    /// Takes the gradients of `module` out of what `loss.backward()` returned.
    ///
    /// # Errors
    ///
    /// [`CollectError::Precision`] for a gradient whose type f32 cannot hold (f64), and
    /// [`CollectError::Read`] if the device cannot give its data.
    pub fn collect<M: Module>(
        gradients: BackwardGradients,
        module: &M,
    ) -> Result<Self, CollectError> {
        let mut collector = Collector {
            gradients,
            path: Vec::new(),
            found: Vec::new(),
            transaction: Some(Transaction::default()),
        };
        module.visit(&mut collector);
        let transaction = collector.transaction.take().unwrap_or_default();
        let values = transaction
            .try_execute()
            .map_err(|e| CollectError::Read(e.to_string()))?;
        let mut entries: Vec<Entry> = Vec::with_capacity(values.len());
        let mut index_of: HashMap<ParamId, usize> = HashMap::new();
        for ((name, id, device), data) in collector.found.into_iter().zip(values) {
            let dtype = data.dtype();
            let data = match dtype {
                DType::F32 => data,
                DType::F16 | DType::BF16 | DType::Flex32 => data
                    .try_cast_as::<f32>()
                    .map_err(|e| CollectError::Read(e.to_string()))?,
                _ => {
                    return Err(CollectError::Precision {
                        tensor: name,
                        dtype,
                    });
                }
            };
            // Clones of one parameter share a gradient, which the first of them takes. Clones that
            // were moved or loaded one by one have a gradient each, and their sum is the tied one.
            if let Some(&first) = index_of.get(&id) {
                add(&mut entries[first].data, &data);
            } else {
                index_of.insert(id, entries.len());
                entries.push(Entry {
                    name,
                    id,
                    data,
                    dtype,
                    device,
                });
            }
        }
        Ok(ModuleGradients { entries })
    }

    /// Adds the gradients of another micro-batch of the same module.
    ///
    /// Sum all of them, divide once by [`ModuleGradients::divide`], and only then clip.
    ///
    /// # Panics
    ///
    /// If the two do not hold the same parameters with the same shapes.
    pub fn accumulate(&mut self, other: ModuleGradients) {
        assert_eq!(
            self.entries.len(),
            other.entries.len(),
            "gradients of another module"
        );
        for (sum, term) in self.entries.iter_mut().zip(&other.entries) {
            assert_eq!(sum.id, term.id, "gradients of another module");
            add(&mut sum.data, &term.data);
        }
    }

    /// Divides every gradient, to make an average of accumulated sums.
    pub fn divide(&mut self, divisor: f32) {
        for entry in &mut self.entries {
            values_mut(&mut entry.data)
                .iter_mut()
                .for_each(|value| *value /= divisor);
        }
    }

    /// Names and values, in the module's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
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

impl gradclip::Gradients for ModuleGradients {
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        for entry in &mut self.entries {
            visitor(&entry.name, values_mut(&mut entry.data));
        }
    }
}

fn values(data: &TensorData) -> &[f32] {
    data.as_slice().expect("entries are f32 by construction")
}

fn values_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice()
        .expect("entries are f32 by construction")
}

fn add(sum: &mut TensorData, term: &TensorData) {
    let (sum, term) = (values_mut(sum), values(term));
    assert_eq!(sum.len(), term.len(), "gradients of another module");
    sum.iter_mut()
        .zip(term)
        .for_each(|(sum, term)| *sum += term);
}

struct Collector {
    gradients: BackwardGradients,
    path: Vec<String>,
    found: Vec<(String, ParamId, Device)>,
    /// Taken and put back at each tensor, because registering consumes it.
    transaction: Option<Transaction>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Removing it leaves one owner, so that a CPU device hands over its buffer uncopied.
        let Some(gradient) = param.val().grad_remove(&mut self.gradients) else {
            return;
        };
        self.found
            .push((self.path.join("."), param.id, gradient.device()));
        let transaction = self.transaction.take().unwrap_or_default();
        self.transaction = Some(transaction.register(gradient));
    }
}

/// Why gradients could not be collected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The gradient's type holds more than f32 does.
    #[error("gradient of `{tensor}` has type {dtype:?}; f32, f16 and bf16 can be clipped")]
    Precision {
        /// The parameter.
        tensor: String,
        /// Its gradient's type.
        dtype: DType,
    },
    /// The device did not give its data.
    #[error("cannot read gradients from the device: {0}")]
    Read(String),
}
