//! The angle between a gradient before and after clipping.

use alloc::vec::Vec;

use crate::apply::Effect;
use crate::decision::Change;
use crate::element::{Element, Elements, for_each_type};
use crate::gradients::Gradients;
use crate::math::sqrt;
use crate::measure::TensorMeasure;
use crate::norm::{Norm, Squares, add_squares, sum_sorted};

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
    let mut pairs: Vec<(f64, f64)> = measures
        .iter()
        .map(|measure| in_common(measure.squares))
        .zip(changes.iter().map(coefficient))
        .filter(|(sum, _)| *sum > 0.0)
        .collect();
    // In an order that does not depend on that of the tensors.
    pairs.sort_unstable_by(|left, right| {
        left.0.total_cmp(&right.0).then(left.1.total_cmp(&right.1))
    });
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
    // One ratio after the other: for a tensor of zeros their product can be infinite.
    let inner_products = pairs.map(|(squares, effect)| {
        let in_scale_before = effect.inner_product * (squares.scale / before.scale);
        in_scale_before * (effect.squares.scale / after.scale)
    });
    cosine(before.sum, after.sum, sum_sorted(inner_products))
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
        let (mut squares_before, mut squares_after) = (Vec::new(), Vec::new());
        let mut inner_products = Vec::new();
        for (before, after) in self.tensors.iter().zip(&after) {
            let scaled = || {
                let numbers = before.iter().zip(after);
                numbers.map(|(before, after)| (before / scale_before, after / scale_after))
            };
            squares_before.push(scaled().fold(0.0, |sum, (before, _)| sum + before * before));
            squares_after.push(scaled().fold(0.0, |sum, (_, after)| sum + after * after));
            inner_products.push(scaled().fold(0.0, |sum, (before, after)| sum + before * after));
        }
        let [before, after, inner_product] = [squares_before, squares_after, inner_products]
            .map(|sums| sum_sorted(sums.into_iter()));
        cosine(before, after, inner_product)
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
fn cosine(mut before: f64, mut after: f64, mut inner_product: f64) -> f64 {
    const FAR: f64 = f64::from_bits((1023 + 350) << 52);
    const TINY: f64 = f64::from_bits((1023 - 400) << 52);
    // The product of two small sums would lose digits, and that of two large ones overflow.
    for sum in [&mut before, &mut after] {
        let factor = match *sum {
            sum if sum < TINY => FAR,
            sum if sum > 1.0 / TINY => 1.0 / FAR,
            _ => 1.0,
        };
        *sum *= factor * factor;
        inner_product *= factor;
    }
    let product = before * after;
    match product > 0.0 {
        true => (inner_product / sqrt(product)).min(1.0),
        false => 1.0,
    }
}
