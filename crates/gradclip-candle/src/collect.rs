//! From Candle's gradients to named slices, with one synchronisation of the device.

use std::ops::Range;
use std::sync::PoisonError;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;
use gradclip::{Accumulate, ClipPolicy, Elements, Gradient, Gradients, Values};

use crate::transfer::HostTensors;

/// The gradients of variables: named, in a fixed order, each variable once.
///
/// A variable that goes by two names (tied weights) counts once, under the first of them; its
/// gradient is the sum over all its uses, as Candle's backward pass makes it. A variable without a
/// gradient is left out.
#[derive(Debug)]
pub struct VarGradients {
    pub(crate) entries: Vec<Entry>,
    pub(crate) gradients: HostTensors,
    /// The parameters themselves, if they were asked for.
    parameters: Option<HostTensors>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    pub(crate) var: Var,
    pub(crate) shape: Vec<usize>,
    /// The axes that count output units.
    units: Range<usize>,
    /// The group of `group-norm`, if it is not what stands before the last dot of the name.
    group: Option<String>,
}

impl VarGradients {
    /// Takes the gradients of all variables of a map out of what `loss.backward()` returned, in the
    /// order of their names, and what `policy` needs besides: for `agc` the variables, which are
    /// read in the same transfer.
    ///
    /// # Errors
    ///
    /// [`CollectError::Type`] for a gradient that is not f32, f64, f16 or bf16, and
    /// [`CollectError::Read`] if the device cannot give its data.
    pub fn collect(
        gradients: GradStore,
        vars: &VarMap,
        policy: &ClipPolicy,
    ) -> Result<Self, CollectError> {
        VarGradients::collect_named(gradients, &sorted(vars), policy)
    }

    /// The same of named variables, in the order given, for a model without a [`VarMap`]. A
    /// [`Clipper`](gradclip::Clipper) refuses two variables of one name.
    ///
    /// # Errors
    ///
    /// As [`VarGradients::collect`].
    pub fn collect_named(
        mut gradients: GradStore,
        vars: &[(impl AsRef<str>, Var)],
        policy: &ClipPolicy,
    ) -> Result<Self, CollectError> {
        let with_parameters = policy.needs_parameters();
        let mut entries: Vec<Entry> = Vec::new();
        let mut tensors: Vec<Tensor> = Vec::new();
        for (name, var) in vars {
            let name = name.as_ref();
            // The gradient is gone once it is taken, so a second name of the variable has none.
            let Some(gradient) = gradients.remove(var) else {
                continue;
            };
            if !HostTensors::can_hold(gradient.dtype()) {
                return Err(CollectError::Type {
                    tensor: name.to_owned(),
                    dtype: gradient.dtype(),
                });
            }
            entries.push(Entry {
                name: name.to_owned(),
                var: var.clone(),
                shape: gradient.dims().to_vec(),
                units: match gradient.rank() {
                    0 | 1 => 0..0,
                    _ => 0..1,
                },
                group: None,
            });
            tensors.push(gradient.detach());
        }
        if with_parameters {
            let parameters = entries.iter().map(|entry| entry.var.as_detached_tensor());
            tensors.extend(parameters.collect::<Vec<Tensor>>());
        }
        let read = HostTensors::read(&tensors, entries.len());
        let [gradients, parameters] = read.map_err(CollectError::Read)?;
        Ok(VarGradients {
            entries,
            gradients,
            parameters: with_parameters.then_some(parameters),
        })
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

    /// Sets the axes that count the output units of `agc`, by name and shape, where they are not
    /// [the first](crate#agc): `1..2` for the `[in, out, ..]` of a transposed convolution.
    ///
    /// [`Clipper::clip`](gradclip::Clipper::clip) refuses `agc` if an axis is not there.
    #[must_use]
    pub fn with_units(mut self, units: impl Fn(&str, &[usize]) -> Option<Range<usize>>) -> Self {
        for entry in &mut self.entries {
            if let Some(axes) = units(&entry.name, &entry.shape) {
                entry.units = axes;
            }
        }
        self
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Values<'_>)> {
        let named = self.entries.iter().enumerate();
        named.map(|(index, entry)| (entry.name.as_str(), self.gradients.values(index)))
    }

    /// How many variables have a gradient.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no variable has a gradient.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The variables of a map in the order of their names.
pub(crate) fn sorted(vars: &VarMap) -> Vec<(String, Var)> {
    // A map is whole even if another thread panicked while it held the lock.
    let map = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut vars: Vec<(String, Var)> = map
        .iter()
        .map(|(name, var)| (name.clone(), var.clone()))
        .collect();
    vars.sort_by(|(left, _), (right, _)| left.cmp(right));
    vars
}

impl Gradients for VarGradients {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (index, entry) in self.entries.iter().enumerate() {
            let elements = self.gradients.elements(index);
            let mut gradient = Gradient::new(&entry.name, elements).with_shape(&entry.shape);
            gradient = gradient.with_units(entry.units.clone());
            if let Some(group) = &entry.group {
                gradient = gradient.with_group(group);
            }
            if let Some(parameters) = &self.parameters {
                gradient = gradient.with_parameter(parameters.values(index));
            }
            visitor(gradient);
        }
    }
}

impl Accumulate for VarGradients {
    fn visit_pairs(
        &mut self,
        mut other: VarGradients,
        visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
    ) {
        let [ours, theirs] = [&self.entries, &other.entries].map(|entries| {
            let ids = entries.iter().map(|entry| entry.var.id());
            ids.collect::<Vec<_>>()
        });
        assert_eq!(ours, theirs, "gradients of other variables");
        for index in 0..self.entries.len() {
            visitor(
                self.gradients.elements(index),
                other.gradients.elements(index),
            );
        }
    }
}

/// Why gradients could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The gradient's type is none of the common floating-point types.
    #[error("gradient of `{tensor}` has type {dtype:?}; f32, f64, f16 and bf16 can be clipped")]
    Type {
        /// The variable.
        tensor: String,
        /// Its gradient's type.
        dtype: DType,
    },
    /// The device did not give its data.
    #[error("cannot read gradients from the device")]
    Read(#[source] candle_core::Error),
}
