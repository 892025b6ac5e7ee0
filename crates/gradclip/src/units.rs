//! The output units of a tensor, which adaptive gradient clipping looks at one by one.

use alloc::vec;
use alloc::vec::Vec;

use crate::clip::ClipError;
use crate::element::{Element, for_each_type};
use crate::gradients::Gradient;
use crate::math::sqrt;
use crate::norm::{Norm, Squares};
use crate::policy::UnitAxis;

/// Which elements make up a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitLayout {
    /// Runs of so many elements.
    Runs(usize),
    /// Every so many-th element.
    Strides(usize),
}

impl UnitLayout {
    /// Tensors with at most one axis longer than 1 are a single unit.
    fn of(shape: &[usize], elements: usize, axis: UnitAxis) -> UnitLayout {
        let long_axes = shape.iter().filter(|length| **length > 1).count();
        match (axis, shape) {
            (UnitAxis::First, [units, ..]) if long_axes > 1 => {
                UnitLayout::Runs(elements.checked_div(*units).unwrap_or(0))
            }
            (UnitAxis::Last, [.., units]) if long_axes > 1 => UnitLayout::Strides(*units),
            _ => UnitLayout::Runs(elements),
        }
    }

    fn count(self, elements: usize) -> usize {
        match self {
            _ if elements == 0 => 0,
            UnitLayout::Runs(length) => elements / length,
            UnitLayout::Strides(units) => units,
        }
    }

    /// Calls `work` with the unit of each element.
    pub(crate) fn for_each<'a, E>(
        self,
        values: &'a mut [E],
        mut work: impl FnMut(usize, &'a mut E),
    ) {
        match self {
            UnitLayout::Runs(length) => {
                for (unit, run) in values.chunks_mut(length.max(1)).enumerate() {
                    run.iter_mut().for_each(|value| work(unit, value));
                }
            }
            UnitLayout::Strides(units) => {
                for row in values.chunks_mut(units.max(1)) {
                    let numbered = row.iter_mut().enumerate();
                    numbered.for_each(|(unit, value)| work(unit, value));
                }
            }
        }
    }
}

/// The norms of the units of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnitMeasure {
    pub(crate) layout: UnitLayout,
    pub(crate) gradient: Vec<Norm>,
    pub(crate) parameter: Vec<f64>,
}

/// Reads gradient and parameter once each.
pub(crate) fn measure_units(
    gradient: &Gradient<'_>,
    axis: UnitAxis,
    max_magnitude: f64,
) -> Result<UnitMeasure, ClipError> {
    let elements = gradient.elements().len();
    let flat = [elements];
    let shape = gradient.shape().unwrap_or(&flat);
    let problem = |problem: &'static str| ClipError::Parameter {
        tensor: gradient.name().into(),
        problem,
    };
    if shape.iter().product::<usize>() != elements {
        return Err(problem(
            "its shape does not have as many elements as it has",
        ));
    }
    let parameter = gradient
        .parameter()
        .ok_or_else(|| problem("`agc` compares it with its parameter, which was not given"))?;
    if parameter.len() != elements {
        return Err(problem("its parameter has another number of elements"));
    }
    let layout = UnitLayout::of(shape, elements, axis);
    let scale = Norm::scale_for(max_magnitude);
    let sums = for_each_type!(Elements, gradient.elements(), values => {
        unit_squares(values, layout, scale)
    });
    let gradient = sums.into_iter().map(|sum| Squares { sum, scale }.root());
    let parameter = for_each_type!(Values, parameter, values => unit_squares(values, layout, 1.0));
    Ok(UnitMeasure {
        layout,
        gradient: gradient.collect(),
        parameter: parameter.into_iter().map(sqrt).collect(),
    })
}

/// The sum of `(value / scale)^2` over the finite elements of each unit.
fn unit_squares<E: Element>(values: &[E], layout: UnitLayout, scale: f64) -> Vec<f64> {
    let mut sums = vec![0.0_f64; layout.count(values.len())];
    let inverse = 1.0 / scale;
    let square = |value: &E| {
        let scaled = value.to_f64() * inverse;
        if value.is_finite() {
            scaled * scaled
        } else {
            0.0
        }
    };
    match layout {
        UnitLayout::Runs(length) => {
            for (sum, run) in sums.iter_mut().zip(values.chunks(length.max(1))) {
                *sum = run.iter().fold(0.0, |sum, value| sum + square(value));
            }
        }
        UnitLayout::Strides(units) => {
            for row in values.chunks(units.max(1)) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += square(value);
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::UnitLayout;
    use crate::policy::UnitAxis::{First, Last};

    #[test]
    fn units_of_shapes() {
        let layout =
            |shape: &[usize], axis| UnitLayout::of(shape, shape.iter().product::<usize>(), axis);
        assert_eq!(layout(&[2, 3], Last), UnitLayout::Strides(3));
        assert_eq!(layout(&[2, 3], First), UnitLayout::Runs(3));
        assert_eq!(layout(&[2, 3, 4], Last), UnitLayout::Strides(4));
        assert_eq!(layout(&[2, 3, 4], First), UnitLayout::Runs(12));
        for axis in [First, Last] {
            for shape in [&[][..], &[5], &[1, 5], &[5, 1], &[1, 1, 5]] {
                let elements = shape.iter().product();
                assert_eq!(layout(shape, axis), UnitLayout::Runs(elements), "{shape:?}");
                assert_eq!(layout(shape, axis).count(elements), 1);
            }
            for empty in [&[0, 4][..], &[0, 5, 5], &[5, 0, 5], &[5, 5, 0]] {
                assert_eq!(layout(empty, axis).count(0), 0);
            }
        }
    }
}
