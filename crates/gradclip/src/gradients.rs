//! The one thing a caller provides: a way to visit named gradient tensors.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use crate::element::{AsElements, Elements, Values};

/// A set of named gradient tensors that can be visited in place.
///
/// # Contract
///
/// Each call of [`visit`](Gradients::visit) hands every gradient tensor to the visitor exactly
/// once, in the same order and under the same unique name as every other call. A parameter that
/// is shared by several layers is visited once, because its gradient counts once in the norm.
/// What the visitor writes must be visible to the next visit.
///
/// A rule of a policy visits once to measure and, only when something has to change, once more to
/// write. An adapter that copies its tensors in order to expose slices can rely on that.
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
/// #     .visit(&mut |gradient| names.push(gradient.name().to_owned()));
/// # assert_eq!(names, ["weight", "bias"]);
/// ```
pub trait Gradients {
    /// Hands each gradient tensor to `visitor`.
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>));

    /// The elements of all tensors at once, in the order of [`visit`](Gradients::visit), where all
    /// are of single precision and can be lent together.
    ///
    /// A clipper then reads them in a single call of its [`Scan`](crate::Scan), which can spread
    /// many small tensors over threads. Without it, it reads one tensor after the other.
    fn single_precision(&self) -> Option<Vec<&[f32]>> {
        None
    }
}

/// Gradients that those of another micro-batch can be added to, by
/// [`Accumulated`](crate::Accumulated).
pub trait Accumulate: Gradients {
    /// Hands the elements of each tensor, in the order of [`visit`](Gradients::visit), to `visitor`
    /// together with those of the same tensor of `other`. What the visitor writes into the first
    /// must be visible to the next visit.
    ///
    /// # Panics
    ///
    /// If the two do not hold the same tensors.
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>));
}

/// One gradient tensor of a visit: a name and elements, and what some rules ask for besides.
#[derive(Debug)]
pub struct Gradient<'a> {
    name: &'a str,
    elements: Elements<'a>,
    shape: Option<&'a [usize]>,
    units: Option<Range<usize>>,
    parameter: Option<Values<'a>>,
    group: Option<&'a str>,
}

impl<'a> Gradient<'a> {
    /// A tensor of one axis.
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

    /// Tells its shape, row-major, which `agc` asks for.
    #[must_use]
    pub fn with_shape(mut self, shape: &'a [usize]) -> Gradient<'a> {
        self.shape = Some(shape);
        self
    }

    /// Tells which axes of the shape count the output units of the layer, which `agc` bounds one by
    /// one: `0..1` for `[out, in, height, width]`, `1..2` for `[in, out]`. An empty range makes the
    /// whole tensor one unit. Unless told otherwise it is the last axis.
    ///
    /// `unit=first` and `unit=last` in a policy override it, for all tensors.
    #[must_use]
    pub fn with_units(mut self, axes: Range<usize>) -> Gradient<'a> {
        self.units = Some(axes);
        self
    }

    /// Adds the parameter itself, which `agc` asks for.
    #[must_use]
    pub fn with_parameter(mut self, parameter: impl Into<Values<'a>>) -> Gradient<'a> {
        self.parameter = Some(parameter.into());
        self
    }

    /// Puts it into a group of `group-norm`. Unless told otherwise that is what stands before the
    /// last dot of its name, so that `layers.0.weight` and `layers.0.bias` belong together.
    #[must_use]
    pub fn with_group(mut self, group: &'a str) -> Gradient<'a> {
        self.group = Some(group);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The elements, row-major.
    #[must_use]
    pub fn elements(&self) -> &Elements<'a> {
        &self.elements
    }

    /// The elements, to write.
    pub fn elements_mut(&mut self) -> &mut Elements<'a> {
        &mut self.elements
    }

    /// The shape, if it is known.
    #[must_use]
    pub fn shape(&self) -> Option<&'a [usize]> {
        self.shape
    }

    /// The axes that count the output units, if they are known.
    #[must_use]
    pub fn units(&self) -> Option<Range<usize>> {
        self.units.clone()
    }

    /// The parameter, if it is known.
    #[must_use]
    pub fn parameter(&self) -> Option<Values<'a>> {
        self.parameter
    }

    /// The group of `group-norm`.
    #[must_use]
    pub fn group(&self) -> &'a str {
        self.group.unwrap_or_else(|| group_of(self.name))
    }
}

/// What stands before the last dot of a name.
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
}

impl<Name: AsRef<str>, Numbers: AsElements> Gradients for [(Name, Numbers)] {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (name, numbers) in self {
            visitor(Gradient::new(name.as_ref(), numbers.as_elements()));
        }
    }
}

impl<Name: AsRef<str>, Numbers: AsElements, const COUNT: usize> Gradients
    for [(Name, Numbers); COUNT]
{
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Numbers: AsElements> Gradients for Vec<(Name, Numbers)> {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Numbers: AsElements> Gradients for BTreeMap<Name, Numbers> {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (name, numbers) in self {
            visitor(Gradient::new(name.as_ref(), numbers.as_elements()));
        }
    }
}

impl<Name: AsRef<str>, Numbers: AsElements> Accumulate for Vec<(Name, Numbers)> {
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>)) {
        let sums = self.iter_mut().map(|(name, values)| (&*name, values));
        visit_pairs_of(sums, other.into_iter(), visitor);
    }
}

impl<Name: AsRef<str> + Ord, Numbers: AsElements> Accumulate for BTreeMap<Name, Numbers> {
    fn visit_pairs(&mut self, other: Self, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>)) {
        visit_pairs_of(self.iter_mut(), other.into_iter(), visitor);
    }
}

fn visit_pairs_of<'a, Name: AsRef<str> + 'a, Numbers: AsElements + 'a>(
    sums: impl ExactSizeIterator<Item = (&'a Name, &'a mut Numbers)>,
    terms: impl ExactSizeIterator<Item = (Name, Numbers)>,
    visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
) {
    const PROBLEM: &str = "gradients of other tensors";
    assert_eq!(sums.len(), terms.len(), "{PROBLEM}");
    for ((name, sum), (other_name, mut term)) in sums.zip(terms) {
        assert_eq!(name.as_ref(), other_name.as_ref(), "{PROBLEM}");
        visitor(sum.as_elements(), term.as_elements());
    }
}
