//! Converts Candle's gradients to named slices, with one device synchronisation.

use std::ops::Range;
use std::sync::PoisonError;

use candle_core::backprop::GradStore;
use candle_core::{DType, Var};
use candle_nn::VarMap;
use gradclip::{Accumulate, AsElements, Buffer, ClipPolicy, Elements, Gradient, Gradients, Values};

use crate::transfer::{can_hold, download};

/// The gradients of named variables, in a fixed order, each variable once.
///
/// A variable with two names (tied weights) is included once, under its first name; its gradient is
/// the sum over all its uses, as computed by Candle's backward pass. Variables without a gradient
/// are omitted.
#[derive(Debug)]
pub struct VarGradients {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    pub(crate) var: Var,
    pub(crate) shape: Vec<usize>,
    pub(crate) gradient: Buffer,
    /// The parameter itself, if the policy needs it.
    parameter: Option<Buffer>,
    /// The axes that index output units.
    units: Range<usize>,
    /// The group for `group-norm`, if it is not the name up to its last dot.
    group: Option<String>,
}

impl VarGradients {
    /// Collects the gradients of all variables of a map from the result of `loss.backward()`, in
    /// the order of their names, and the variables too if `policy` needs them (`agc`), in the same
    /// transfer.
    ///
    /// # Errors
    ///
    /// [`CollectError::Type`] if a gradient is not f32, f64, f16 or bf16, and
    /// [`CollectError::Read`] if reading from the device fails.
    pub fn collect(
        gradients: GradStore,
        vars: &VarMap,
        policy: &ClipPolicy,
    ) -> Result<Self, CollectError> {
        VarGradients::collect_named(gradients, &sorted(vars), policy)
    }

    /// Like [`VarGradients::collect`], for a list of named variables, in the given order. A
    /// [`Clipper`](gradclip::Clipper) refuses two variables of the same name.
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
        let (mut found, mut tensors) = (Vec::new(), Vec::new());
        for (name, var) in vars {
            let name = name.as_ref();
            // Removing the gradient makes a second name of the same variable find none.
            let Some(gradient) = gradients.remove(var) else {
                continue;
            };
            if !can_hold(gradient.dtype()) {
                return Err(CollectError::Type {
                    tensor: name.to_owned(),
                    dtype: gradient.dtype(),
                });
            }
            found.push((name, var, gradient.dims().to_vec()));
            tensors.push(gradient.detach());
            if with_parameters {
                tensors.push(var.as_detached_tensor());
            }
        }
        let mut buffers = download(&tensors).map_err(CollectError::Read)?.into_iter();
        let mut next = || buffers.next().expect("a buffer for each tensor");
        let entry = |(name, var, shape): (&str, &Var, Vec<usize>)| Entry {
            name: name.to_owned(),
            var: var.clone(),
            gradient: next(),
            parameter: with_parameters.then(&mut next),
            units: match shape.len() {
                0 | 1 => 0..0,
                _ => 0..1,
            },
            shape,
            group: None,
        };
        Ok(VarGradients {
            entries: found.into_iter().map(entry).collect(),
        })
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

    /// Overrides the axes that index the output units of `agc`, from name and shape, where `units`
    /// returns `Some`: `1..2` for the `[in, out, ..]` of a transposed convolution. The default is
    /// [the first axis](crate#agc).
    ///
    /// [`Clipper::clip`](gradclip::Clipper::clip) fails under `agc` if an axis is out of range.
    #[must_use]
    pub fn with_units(mut self, units: impl Fn(&str, &[usize]) -> Option<Range<usize>>) -> Self {
        for entry in &mut self.entries {
            if let Some(axes) = units(&entry.name, &entry.shape) {
                entry.units = axes;
            }
        }
        self
    }

    /// Iterates over names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Values<'_>)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.name.as_str(), entry.gradient.values()))
    }

    /// The number of variables with a gradient.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no variable has a gradient.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The variables of a map, sorted by name.
pub(crate) fn sorted(vars: &VarMap) -> Vec<(String, Var)> {
    // The map is intact even if another thread panicked while holding the lock.
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
        for entry in &mut self.entries {
            let elements = entry.gradient.as_elements();
            let mut gradient = Gradient::new(&entry.name, elements).with_shape(&entry.shape);
            gradient = gradient.with_units(entry.units.clone());
            if let Some(group) = &entry.group {
                gradient = gradient.with_group(group);
            }
            if let Some(parameter) = &entry.parameter {
                gradient = gradient.with_parameter(parameter.values());
            }
            visitor(gradient);
        }
    }
}

impl Accumulate for VarGradients {
    fn visit_pairs(
        &mut self,
        other: VarGradients,
        visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
    ) {
        const PROBLEM: &str = "gradients of other variables";
        assert_eq!(self.entries.len(), other.entries.len(), "{PROBLEM}");
        for (sum, mut term) in self.entries.iter_mut().zip(other.entries) {
            assert_eq!(sum.var.id(), term.var.id(), "{PROBLEM}");
            visitor(sum.gradient.as_elements(), term.gradient.as_elements());
        }
    }
}

/// Why gradients could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The gradient has an unsupported type.
    #[error("gradient of `{tensor}` has type {dtype:?}; f32, f64, f16 and bf16 can be clipped")]
    Type {
        /// The variable.
        tensor: String,
        /// The type of its gradient.
        dtype: DType,
    },
    /// Reading from the device failed.
    #[error("cannot read gradients from the device")]
    Read(#[source] candle_core::Error),
}
