//! Changes: what is to be done to a tensor, and what that does to its norm and direction.

use alloc::vec::Vec;

use crate::math::sqrt;
use crate::measure::{Measure, Orders};
use crate::norm::{Coefficient, Norm, Squares, add_squares, sum_sorted};
use crate::threshold::NormOrder;
use crate::units::UnitLayout;

/// What is to be done to the finite elements of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// Not one bit changes.
    Keep,
    /// Each element is multiplied by the coefficient.
    Scale {
        by: Coefficient,
        /// The norm afterwards in the order of the rule, where that is known without rounding.
        lands_on: Option<f64>,
    },
    /// Each element is multiplied by the coefficient and then clamped to `[-bound, bound]`.
    Clamp { by: Coefficient, bound: f64 },
    /// The elements of each unit are multiplied by the coefficient of the unit.
    Units {
        layout: UnitLayout,
        coefficients: Vec<f64>,
    },
}

/// What a change did to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Effect {
    /// Elements that clamping changed.
    pub(crate) clamped: u64,
    /// Elements that became zero because the storage has none as small; `None` where nobody has
    /// looked.
    pub(crate) rounded_to_zero: Option<u64>,
    /// Sum of squares afterwards.
    pub(crate) squares: Squares,
    /// Inner product of the tensor before and after, in units of both scales.
    pub(crate) inner_product: f64,
    /// The norm afterwards, in the order of the report.
    pub(crate) norm: Norm,
}

impl Change {
    /// The effect as far as it follows from what was measured. That of a clamp does not.
    pub(crate) fn effect(&self, measure: &Measure, orders: Orders) -> Effect {
        let before = measure.squares;
        let scaled = |coefficient: Coefficient, norm| Effect {
            clamped: 0,
            // The half of the smallest element that there is still rounds to it.
            rounded_to_zero: (coefficient.first == 1.0 && coefficient.second > 0.5).then_some(0),
            // In the scale, so that tensors with equal coefficients keep their ratios exactly.
            squares: Squares {
                sum: before.sum,
                scale: before.scale * coefficient.first * coefficient.second,
            },
            inner_product: before.sum,
            norm,
        };
        match self {
            Change::Keep => scaled(Coefficient::ONE, measure.reported),
            Change::Scale { by, lands_on } => {
                let known = lands_on.filter(|_| orders.rule == orders.report);
                scaled(*by, known.map_or(by.scale(measure.reported), Norm::of))
            }
            Change::Clamp { .. } => Effect {
                clamped: 0,
                rounded_to_zero: None,
                squares: Norm::UNKNOWN.squared(),
                inner_product: f64::NAN,
                norm: Norm::UNKNOWN,
            },
            Change::Units { coefficients, .. } => {
                let (squares, inner_product) = units_scaled(measure, coefficients);
                Effect {
                    clamped: 0,
                    rounded_to_zero: None,
                    squares,
                    inner_product,
                    norm: match orders.report == NormOrder::TWO {
                        true => squares.root(),
                        false => Norm::UNKNOWN,
                    },
                }
            }
        }
    }

    /// Whether it makes a tensor longer.
    pub(crate) fn lengthens(&self) -> bool {
        matches!(self, Change::Scale { by, .. } | Change::Clamp { by, .. } if by.value() > 1.0)
    }
}

/// Squares and inner product after scaling by units, which follow from the norms of the units.
fn units_scaled(measure: &Measure, coefficients: &[f64]) -> (Squares, f64) {
    let units = measure.units.iter().flat_map(|units| &units.gradient);
    let scaled = units.clone().zip(coefficients);
    let scaled = scaled.map(|(norm, coefficient)| norm.value() * coefficient);
    let scale = Norm::scale_for(scaled.clone().fold(0.0, f64::max));
    let (mut sum, mut inner_product) = (0.0, 0.0);
    for (norm, after) in units.zip(scaled) {
        let after = after / scale;
        sum += after * after;
        inner_product += norm.value() / measure.squares.scale * after;
    }
    (Squares { sum, scale }, inner_product)
}

/// What a step leaves to the optimizer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factors {
    /// One for each tensor.
    pub(crate) of_tensors: Vec<f64>,
    /// Elements that the rules before have rounded to zero.
    pub(crate) rounded_to_zero: u64,
}

/// The factor of each tensor, if multiplying by it gives the bits that applying the changes writes.
pub(crate) fn factors_of(changes: &[Change]) -> Option<Vec<f64>> {
    let factor = |change: &Change| match change {
        Change::Keep => Some(1.0),
        Change::Scale { by, .. } => (by.first == 1.0).then_some(by.second),
        Change::Clamp { .. } | Change::Units { .. } => None,
    };
    changes.iter().map(factor).collect()
}

/// The cosine of the angle between all tensors before and after, exactly 1 where all were
/// multiplied by one coefficient.
pub(crate) fn cosine_of(measures: &[Measure], effects: &[Effect]) -> f64 {
    let before = add_squares(measures.iter().map(|measure| measure.squares));
    let after = add_squares(effects.iter().map(|effect| effect.squares));
    // One ratio after the other: for a tensor of zeros their product can be infinite.
    let inner_products = measures.iter().zip(effects).map(|(measure, effect)| {
        let in_scale_before = effect.inner_product * (measure.squares.scale / before.scale);
        in_scale_before * (effect.squares.scale / after.scale)
    });
    cosine(before.sum, after.sum, sum_sorted(inner_products))
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
