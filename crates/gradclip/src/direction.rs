//! The angle between a gradient before and after clipping.

use alloc::vec::Vec;

use crate::apply::Effect;
use crate::decision::Change;
use crate::element::{Element, Elements, for_each_type};
use crate::gradients::Gradients;
use crate::math::sqrt;
use crate::measure::TensorMeasure;
use crate::norm::{Norm, Squares, add_squares};

/// Scaling tensor t by `c_t` gives `sum c_t S_t / sqrt(sum S_t * sum c_t^2 S_t)` with the sums of
/// squares `S_t`. The coefficients are taken relative to the largest one, which does not change
/// the cosine, keeps tiny coefficients from underflowing, and makes equal ones exactly 1.
pub(crate) fn cosine_of_scaling(measures: &[TensorMeasure], changes: &[Change]) -> f64 {
    let coefficient = |change: &Change| match change {
        Change::Scale(coefficient) => coefficient.value(),
        _ => 1.0,
    };
    let before = add_squares(measures.iter().map(|measure| measure.squares));
    let in_common = |squares: Squares| {
        let ratio = squares.scale / before.scale;
        squares.sum * ratio * ratio
    };
    let pairs: Vec<(f64, f64)> = measures
        .iter()
        .map(|measure| in_common(measure.squares))
        .zip(changes.iter().map(coefficient))
        .filter(|(sum, _)| *sum > 0.0)
        .collect();
    let largest = pairs
        .iter()
        .fold(0.0, |largest, (_, coefficient)| coefficient.max(largest));
    if largest == 0.0 {
        return 1.0;
    }
    let (mut before, mut after, mut inner_product) = (0.0, 0.0, 0.0);
    for (sum, coefficient) in pairs {
        let relative = coefficient / largest;
        before += sum;
        after += relative * relative * sum;
        inner_product += relative * sum;
    }
    cosine(before, after, inner_product)
}

/// From what was measured while clamping and scaling by units; tensors without an effect were
/// kept.
pub(crate) fn cosine_of_effects(
    measures: &[TensorMeasure],
    effects: impl Iterator<Item = Option<Effect>> + Clone,
) -> f64 {
    let kept = |squares: Squares| Effect {
        clamped: 0,
        squares,
        inner_product: squares.sum,
    };
    let pairs = measures.iter().zip(effects);
    let pairs = pairs.map(|(measure, effect)| {
        let before = measure.squares;
        (before, effect.unwrap_or(kept(before)))
    });
    let before = add_squares(pairs.clone().map(|(before, _)| before));
    let after = add_squares(pairs.clone().map(|(_, effect)| effect.squares));
    let inner_product = pairs.fold(0.0, |sum, (squares, effect)| {
        let ratio = (squares.scale / before.scale) * (effect.squares.scale / after.scale);
        sum + effect.inner_product * ratio
    });
    cosine(before.sum, after.sum, inner_product)
}

/// A copy of all gradients, for chains whose effects on the direction do not add up.
pub(crate) struct Snapshot {
    tensors: Vec<Vec<f64>>,
}

impl Snapshot {
    pub(crate) fn of(gradients: &mut impl Gradients) -> Snapshot {
        let mut tensors = Vec::new();
        gradients.visit(&mut |gradient| tensors.push(finite_numbers(gradient.elements())));
        Snapshot { tensors }
    }

    /// The cosine between the gradients then and now.
    pub(crate) fn cosine_to(&self, gradients: &mut impl Gradients) -> f64 {
        let mut after = Vec::with_capacity(self.tensors.len());
        gradients.visit(&mut |gradient| after.push(finite_numbers(gradient.elements())));
        let largest = |tensors: &[Vec<f64>]| {
            let numbers = tensors.iter().flatten();
            numbers.fold(0.0_f64, |largest, number| largest.max(number.abs()))
        };
        let scale_before = Norm::scale_for(largest(&self.tensors));
        let scale_after = Norm::scale_for(largest(&after));
        let (mut squares_before, mut squares_after, mut inner_product) = (0.0, 0.0, 0.0);
        let numbers = self.tensors.iter().flatten().zip(after.iter().flatten());
        for (before, after) in numbers {
            let (before, after) = (before / scale_before, after / scale_after);
            squares_before += before * before;
            squares_after += after * after;
            inner_product += before * after;
        }
        cosine(squares_before, squares_after, inner_product)
    }
}

fn finite_numbers(elements: &Elements<'_>) -> Vec<f64> {
    fn numbers<E: Element>(values: &[E]) -> Vec<f64> {
        let finite_or_zero = |value: &E| match value.is_finite() {
            true => value.to_f64(),
            false => 0.0,
        };
        values.iter().map(finite_or_zero).collect()
    }
    for_each_type!(Elements, elements, values => numbers(values))
}

/// One square root of the product, because the root of a square is exact.
fn cosine(before: f64, after: f64, inner_product: f64) -> f64 {
    let product = before * after;
    if product > 0.0 && product.is_finite() {
        (inner_product / sqrt(product)).min(1.0)
    } else if before > 0.0 && after > 0.0 {
        (inner_product / sqrt(before) / sqrt(after)).min(1.0)
    } else {
        1.0
    }
}
