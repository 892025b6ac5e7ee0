//! The one thing a caller provides: a way to visit named gradient tensors.

use std::collections::BTreeMap;

/// A set of named gradient tensors that can be visited in place.
///
/// # Contract
///
/// Each call of [`visit`](Gradients::visit) hands every gradient tensor to the visitor exactly
/// once, in the same order and under the same unique name as every other call. A parameter that
/// is shared by several layers is visited once, because its gradient counts once in the norm.
/// What the visitor writes into a slice must be visible to the next visit.
///
/// One clip step visits once to measure and, only when something has to change, a second time to
/// write. An adapter that copies its tensors in order to expose slices can rely on that.
///
/// # Example
///
/// ```
/// use gradclip::Gradients;
///
/// struct Model { weight_gradient: [f32; 4], bias_gradient: [f32; 2] }
///
/// impl Gradients for Model {
///     fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
///         visitor("weight", &mut self.weight_gradient);
///         visitor("bias", &mut self.bias_gradient);
///     }
/// }
/// # let mut names = Vec::new();
/// # Model { weight_gradient: [0.0; 4], bias_gradient: [0.0; 2] }
/// #     .visit(&mut |name, _| names.push(name.to_owned()));
/// # assert_eq!(names, ["weight", "bias"]);
/// ```
pub trait Gradients {
    /// Hands each gradient tensor, with its name, to `visitor`.
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32]));
}

impl<G: Gradients + ?Sized> Gradients for &mut G {
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        (**self).visit(visitor);
    }
}

impl<Name: AsRef<str>, Values: AsMut<[f32]>> Gradients for [(Name, Values)] {
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        for (name, values) in self {
            visitor(name.as_ref(), values.as_mut());
        }
    }
}

impl<Name: AsRef<str>, Values: AsMut<[f32]>, const COUNT: usize> Gradients
    for [(Name, Values); COUNT]
{
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Values: AsMut<[f32]>> Gradients for Vec<(Name, Values)> {
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        self.as_mut_slice().visit(visitor);
    }
}

impl<Name: AsRef<str>, Values: AsMut<[f32]>> Gradients for BTreeMap<Name, Values> {
    fn visit(&mut self, visitor: &mut dyn FnMut(&str, &mut [f32])) {
        for (name, values) in self {
            visitor(name.as_ref(), values.as_mut());
        }
    }
}
