//! What a caller implements: visiting named gradient tensors.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use crate::element::{AsElements, Elements, Values};

/// A set of named gradient tensors that can be visited in place.
///
/// # Contract
///
/// Each call of [`visit`](Gradients::visit) passes every gradient tensor to the visitor exactly
/// once, in the same order and under the same unique names as every other call. A parameter shared
/// by several layers is visited once, because its gradient counts once in the norm. What the
/// visitor writes must be visible to the next visit.
///
/// A rule visits once to measure and, only if something changes, a second time to write. An adapter
/// that copies its tensors to expose slices can rely on this.
///
/// # Example
///
/// ```
/// use gradclip::{Gradient, Gradients};
///
/// struct Model { weight_gradient: [f32; 4], bias_gradient: [f32; 2] }
///
/// impl Gradients for Model {
///     fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
///         visitor(Gradient::new("weight", &mut self.weight_gradient[..]).with_shape(&[2, 2]));
///         visitor(Gradient::new("bias", &mut self.bias_gradient[..]));
///     }
/// }
/// # let mut names = Vec::new();
/// # Model { weight_gradient: [0.0; 4], bias_gradient: [0.0; 2] }
/// #     .visit(&mut |gradient| names.push(gradient.name.to_owned()));
/// # assert_eq!(names, ["weight", "bias"]);
/// ```
pub trait Gradients {
    /// Passes each gradient tensor to `visitor`.
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>));

    /// The elements of all tensors, in the order of [`visit`](Gradients::visit), if all are `f32`
    /// and can be borrowed at the same time.
    ///
    /// A clipper then reads them in a single call of its [`Scan`](crate::Scan), which can spread
    /// many small tensors over threads. Otherwise it reads one tensor at a time.
    fn single_precision(&self) -> Option<Vec<&[f32]>> {
        None
    }

    /// As [`single_precision`](Gradients::single_precision), to be written.
    ///
    /// A clipper then scales all tensors in one parallel pass. Otherwise it scales one tensor at a
    /// time, and small tensors on one thread.
    fn single_precision_mut(&mut self) -> Option<Vec<&mut [f32]>> {
        None
    }
}

/// Gradients that can be summed over micro-batches, with [`Accumulated`](crate::Accumulated).
pub trait Accumulate: Gradients {
    /// Passes the elements of each tensor, with those of the same tensor of `other`, to `visitor`,
    /// in the order of [`visit`](Gradients::visit). What the visitor writes to the first must be
    /// visible to the next visit.
    ///
    /// # Panics
    ///
    /// If the two do not have the same tensors.
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>));
}

/// A gradient tensor: its name, its elements, and what some rules need in addition.
#[derive(Debug)]
#[non_exhaustive]
pub struct Gradient<'a> {
    /// The name.
    pub name: &'a str,
    /// The elements, row-major.
    pub elements: Elements<'a>,
    /// See [`Gradient::with_shape`].
    pub shape: Option<&'a [usize]>,
    /// See [`Gradient::with_units`].
    pub units: Option<Range<usize>>,
    /// See [`Gradient::with_parameter`].
    pub parameter: Option<Values<'a>>,
    /// See [`Gradient::with_group`].
    pub group: Option<&'a str>,
}

impl<'a> Gradient<'a> {
    /// Creates a one-dimensional tensor.
    pub fn new(name: &'a str, elements: impl Into<Elements<'a>>) -> Gradient<'a> {
        Gradient {
            name,
            elements: elements.into(),
            shape: None,
            units: None,
            parameter: None,
            group: None,
        }
    }

    /// Sets the shape, row-major, which `agc` needs.
    #[must_use]
    pub fn with_shape(mut self, shape: &'a [usize]) -> Gradient<'a> {
        self.shape = Some(shape);
        self
    }

    /// Sets the axes that index the output units of the layer, each of which `agc` clips
    /// separately: `0..1` for `[out, in, height, width]`, `1..2` for `[in, out]`. With an empty
    /// range, the whole tensor is one unit. The default is the last axis.
    ///
    /// `unit=first` and `unit=last` in a policy override this for all tensors.
    #[must_use]
    pub fn with_units(mut self, axes: Range<usize>) -> Gradient<'a> {
        self.units = Some(axes);
        self
    }

    /// Sets the parameter itself, which `agc` needs.
    #[must_use]
    pub fn with_parameter(mut self, parameter: impl Into<Values<'a>>) -> Gradient<'a> {
        self.parameter = Some(parameter.into());
        self
    }

    /// Sets the group for `group-norm`. The default is the name up to its last dot, so that
    /// `layers.0.weight` and `layers.0.bias` share a group.
    #[must_use]
    pub fn with_group(mut self, group: &'a str) -> Gradient<'a> {
        self.group = Some(group);
        self
    }

    pub(crate) fn group(&self) -> &'a str {
        self.group.unwrap_or_else(|| group_of(self.name))
    }
}

/// The name up to its last dot.
pub(crate) fn group_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(group, _)| group)
}

impl<G: Gradients + ?Sized> Gradients for &mut G {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        (**self).visit(visitor);
    }

    fn single_precision(&self) -> Option<Vec<&[f32]>> {
        (**self).single_precision()
    }

    fn single_precision_mut(&mut self) -> Option<Vec<&mut [f32]>> {
        (**self).single_precision_mut()
    }
}

impl<Name: AsRef<str>, Tensor: AsElements> Gradients for [(Name, Tensor)] {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (name, tensor) in self {
            visitor(Gradient::new(name.as_ref(), tensor.as_elements()));
        }
    }
}

impl<Name: AsRef<str>, Tensor: AsElements, const COUNT: usize> Gradients
    for [(Name, Tensor); COUNT]
{
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Tensor: AsElements> Gradients for Vec<(Name, Tensor)> {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Tensor: AsElements> Gradients for BTreeMap<Name, Tensor> {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (name, tensor) in self {
            visitor(Gradient::new(name.as_ref(), tensor.as_elements()));
        }
    }
}

impl<Name: AsRef<str>, Tensor: AsElements> Accumulate for Vec<(Name, Tensor)> {
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>)) {
        let sums = self.iter_mut().map(|(name, values)| (&*name, values));
        visit_pairs_of(sums, other.into_iter(), visitor);
    }
}

impl<Name: AsRef<str> + Ord, Tensor: AsElements> Accumulate for BTreeMap<Name, Tensor> {
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>)) {
        visit_pairs_of(self.iter_mut(), other.into_iter(), visitor);
    }
}

fn visit_pairs_of<'a, Name: AsRef<str> + 'a, Tensor: AsElements + 'a>(
    sums: impl ExactSizeIterator<Item = (&'a Name, &'a mut Tensor)>,
    terms: impl ExactSizeIterator<Item = (Name, Tensor)>,
    visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
) {
    const PROBLEM: &str = "gradients of other tensors";
    assert_eq!(sums.len(), terms.len(), "{PROBLEM}");
    for ((name, sum), (other_name, mut term)) in sums.zip(terms) {
        assert_eq!(name.as_ref(), other_name.as_ref(), "{PROBLEM}");
        visitor(sum.as_elements(), term.as_elements());
    }
}
