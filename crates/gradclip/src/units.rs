//! The output units of a tensor; adaptive gradient clipping clips each separately.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::element::{Element, Values, for_each_type};
use crate::error::ClipError;
use crate::gradients::Gradient;
use crate::math::sqrt;
use crate::norm::{Norm, Squares};
use crate::threshold::{Positive, UnitAxis};

/// The layout of units: runs of `run` elements belong to consecutive units, wrapping around after
/// the last unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitLayout {
    run: usize,
    units: usize,
}

impl UnitLayout {
    /// A tensor with at most one axis longer than 1 is a single unit. `axes` must lie within the
    /// shape.
    fn of(shape: &[usize], axes: Range<usize>) -> UnitLayout {
        let long_axes = shape.iter().filter(|length| **length > 1).count();
        let axes = match long_axes > 1 {
            true => axes,
            false => 0..0,
        };
        UnitLayout {
            run: shape[axes.end..].iter().product(),
            units: shape[axes].iter().product(),
        }
    }

    /// Calls `work` with the unit of each element.
    pub(crate) fn for_each<'a, E>(
        self,
        values: &'a mut [E],
        mut work: impl FnMut(usize, &'a mut E),
    ) {
        let UnitLayout { run, units } = self;
        for block in values.chunks_mut((run * units).max(1)) {
            if run == 1 {
                let numbered = block.iter_mut().enumerate();
                numbered.for_each(|(unit, value)| work(unit, value));
                continue;
            }
            for (unit, run) in block.chunks_mut(run).enumerate() {
                run.iter_mut().for_each(|value| work(unit, value));
            }
        }
    }
}

/// What a rule that clips units asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Units {
    /// Overrides the axes of the tensors.
    pub(crate) axis: Option<UnitAxis>,
    /// The lower bound on the norm of a unit's parameters.
    pub(crate) epsilon: Positive,
}

/// The axes that index the units: from the policy, else from the tensor, else the last one.
fn unit_axes(gradient: &Gradient<'_>, rank: usize, axis: Option<UnitAxis>) -> Range<usize> {
    let last = rank.saturating_sub(1)..rank;
    match axis {
        Some(UnitAxis::First) => 0..rank.min(1),
        Some(UnitAxis::Last) => last,
        None => gradient.units.clone().unwrap_or(last),
    }
}

/// The norms of the units of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnitMeasure {
    pub(crate) layout: UnitLayout,
    pub(crate) gradient: Vec<Norm>,
    /// At least [`Units::epsilon`].
    pub(crate) parameter: Vec<f64>,
}

/// The layout of the units, and the parameter that `agc` compares with.
pub(crate) fn units_of<'a>(
    gradient: &Gradient<'a>,
    axis: Option<UnitAxis>,
) -> Result<(UnitLayout, Values<'a>), ClipError> {
    let elements = gradient.elements.len();
    let flat = [elements];
    let shape = gradient.shape.unwrap_or(&flat);
    let problem = |problem: &'static str| ClipError::Parameter {
        tensor: gradient.name.into(),
        problem,
    };
    if shape.iter().product::<usize>() != elements {
        return Err(problem("its shape does not match its number of elements"));
    }
    let parameter = gradient
        .parameter
        .ok_or_else(|| problem("`agc` needs its parameter, which was not given"))?;
    if parameter.len() != elements {
        return Err(problem("its parameter has a different number of elements"));
    }
    let axes = unit_axes(gradient, shape.len(), axis);
    if axes.start > axes.end || axes.end > shape.len() {
        return Err(problem("the axes of its output units are out of range"));
    }
    Ok((UnitLayout::of(shape, axes), parameter))
}

/// Measures the units, reading gradient and parameter once each.
pub(crate) fn measure_units(
    gradient: &Gradient<'_>,
    units: Units,
    max_magnitude: f64,
) -> Result<UnitMeasure, ClipError> {
    let (layout, parameter) = units_of(gradient, units.axis)?;
    let scale = Norm::scale_for(max_magnitude);
    let sums = for_each_type!(Elements, &gradient.elements, values => {
        unit_squares(values, layout, scale)
    });
    let gradient = sums.into_iter().map(|sum| Squares { sum, scale }.root());
    let parameter = for_each_type!(Values, parameter, values => unit_squares(values, layout, 1.0));
    Ok(UnitMeasure {
        layout,
        gradient: gradient.collect(),
        parameter: parameter
            .into_iter()
            .map(|sum| sqrt(sum).max(units.epsilon.get()))
            .collect(),
    })
}

/// The sum of `(value / scale)^2` over the finite elements of each unit.
fn unit_squares<E: Element>(values: &[E], layout: UnitLayout, scale: f64) -> Vec<f64> {
    let UnitLayout { run, units } = layout;
    let mut sums = vec![0.0_f64; units];
    let inverse = 1.0 / scale;
    let square = |value: &E| {
        let scaled = value.to_f64() * inverse;
        if value.is_finite() {
            scaled * scaled
        } else {
            0.0
        }
    };
    for block in values.chunks((run * units).max(1)) {
        if run == 1 {
            for (sum, value) in sums.iter_mut().zip(block) {
                *sum += square(value);
            }
            continue;
        }
        for (sum, run) in sums.iter_mut().zip(block.chunks(run)) {
            *sum = run.iter().fold(*sum, |sum, value| sum + square(value));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    use core::ops::Range;

    use super::UnitLayout;

    fn units_of(shape: &[usize], axes: Range<usize>) -> Vec<usize> {
        let mut units = vec![usize::MAX; shape.iter().product()];
        UnitLayout::of(shape, axes).for_each(&mut units, |unit, own| *own = unit);
        units
    }

    #[test]
    fn units_of_shapes() {
        assert_eq!(units_of(&[2, 3], 1..2), [0, 1, 2, 0, 1, 2]);
        assert_eq!(units_of(&[2, 3], 0..1), [0, 0, 0, 1, 1, 1]);
        assert_eq!(units_of(&[2, 2, 2], 2..3), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(units_of(&[2, 2, 2], 1..2), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(units_of(&[2, 2, 2], 1..3), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(units_of(&[2, 2, 2], 0..1), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(units_of(&[2, 2], 0..0), [0; 4]);
        for shape in [&[5][..], &[1, 5], &[5, 1], &[1, 1, 5]] {
            let rank = shape.len();
            for axes in [0..1, rank - 1..rank] {
                assert_eq!(units_of(shape, axes), [0; 5], "{shape:?}");
            }
        }
        assert_eq!(units_of(&[], 0..0), [0]);
        for empty in [&[0, 4][..], &[0, 5, 5], &[5, 0, 5], &[5, 5, 0]] {
            assert!(units_of(empty, 0..1).is_empty() && units_of(empty, 1..2).is_empty());
        }
    }
}
