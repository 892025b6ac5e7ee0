//! Changes to a tensor, and their effect on its norm and direction.

use alloc::vec::Vec;

use crate::blocks::{BLOCK_ELEMENTS, LANES, add_pairwise, map_blocks};
use crate::element::{Element, Elements, for_each_type};
use crate::math::sqrt;
use crate::measure::{Measure, Orders, norm_of_elements};
use crate::norm::{Coefficient, Norm, Squares, add_squares, sum_sorted};
use crate::threshold::NormOrder;
use crate::units::UnitLayout;

/// A change to the finite elements of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// No bit changes.
    Keep,
    /// Each element is multiplied by the coefficient.
    Scale {
        by: Coefficient,
        /// The norm afterwards in the order of the rule, if known without rounding.
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
    /// Non-zero elements that underflowed to zero; `None` if they were not counted.
    pub(crate) rounded_to_zero: Option<u64>,
    /// Sum of squares afterwards.
    pub(crate) squares: Squares,
    /// Inner product of the tensor before and after, in units of the two scales.
    pub(crate) inner_product: f64,
    /// The norm afterwards, in the order of the report.
    pub(crate) norm: Norm,
}

impl Change {
    /// The effect computed from measures, which is unknown for a clamp.
    pub(crate) fn effect(&self, measure: &Measure, orders: Orders) -> Effect {
        let before = measure.squares;
        let scaled = |coefficient: Coefficient, norm| Effect {
            clamped: 0,
            // A factor above one half never rounds the smallest element to zero.
            rounded_to_zero: (coefficient.first == 1.0 && coefficient.second > 0.5).then_some(0),
            // Multiplied into the scale, so that equal coefficients keep ratios exact.
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

    /// Whether it can increase the norm.
    pub(crate) fn lengthens(&self) -> bool {
        matches!(self, Change::Scale { by, .. } | Change::Clamp { by, .. } if by.value() > 1.0)
    }
}

/// Squares and inner product after scaling by units, computed from the norms of the units.
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

/// What a step defers to the optimizer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factors {
    /// One for each tensor.
    pub(crate) of_tensors: Vec<f64>,
    /// Elements that earlier rules have rounded to zero.
    pub(crate) rounded_to_zero: u64,
}

/// The factor of each tensor, if multiplying by it gives the same bits as the changes.
pub(crate) fn factors_of(changes: &[Change]) -> Option<Vec<f64>> {
    let factor = |change: &Change| match change {
        Change::Keep => Some(1.0),
        Change::Scale { by, .. } => (by.first == 1.0).then_some(by.second),
        Change::Clamp { .. } | Change::Units { .. } => None,
    };
    changes.iter().map(factor).collect()
}

/// Applies a change to the elements, all finite, and returns its effect.
pub(crate) fn apply(
    elements: &mut Elements<'_>,
    change: &Change,
    measure: &Measure,
    orders: Orders,
    threads: usize,
) -> Effect {
    let mut effect = change.effect(measure, orders);
    for_each_type!(Elements, elements, values => match change {
        Change::Keep => {}
        Change::Scale { by, .. } => effect.rounded_to_zero = Some(scale_tensor(values, *by, threads)),
        Change::Clamp { by, bound } => {
            effect = clamp(values, *by, *bound, measure.squares.scale, threads);
        }
        Change::Units { layout, coefficients } => {
            let mut rounded_to_zero = 0;
            layout.for_each(values, |unit, value| {
                if coefficients[unit] != 1.0 {
                    let scaled = Element::from_f64(value.to_f64() * coefficients[unit]);
                    rounded_to_zero += became_zero(*value, scaled);
                    *value = scaled;
                }
            });
            effect.rounded_to_zero = Some(rounded_to_zero);
        }
    });
    let moves_elements = matches!(change, Change::Clamp { .. } | Change::Units { .. });
    if moves_elements && orders.report != NormOrder::TWO {
        effect.norm = norm_of_elements(elements, orders.report, threads);
    }
    effect
}

/// 1 if an element underflowed to zero.
#[inline(always)]
fn became_zero<E: Element>(before: E, after: E) -> u64 {
    u64::from(is_zero(after) & !is_zero(before))
}

#[inline(always)]
fn is_zero<E: Element>(value: E) -> bool {
    value.magnitude() == E::Wide::default()
}

/// Multiplies and returns how many elements underflowed to zero. Products must not overflow.
fn scale_tensor<E: Element>(values: &mut [E], by: Coefficient, threads: usize) -> u64 {
    scale_blocks(blocks_of(values, by), threads)
}

/// A function that multiplies each tensor by its factor on up to `threads` threads, and returns how
/// many non-zero elements underflowed to zero.
///
/// # Contract
///
/// Each product is computed in `f64` and rounded once, and a factor of 1 changes no bit, so that the
/// result equals that of [`scale`] bit for bit with any number of threads; `check_scale` of
/// `gradclip-suite` tests this.
///
/// # Panics
///
/// If there is not one factor for each tensor.
pub type Scale = fn(tensors: Vec<&mut [f32]>, factors: &[f64], threads: usize) -> u64;

/// The default scaling of a [`Clipper`](crate::Clipper): plain loops, compiled for the target CPU of
/// the program.
///
/// ```
/// let mut weight = [3.0, -4.0, f32::MIN_POSITIVE];
/// assert_eq!(gradclip::scale(vec![&mut weight], &[1e-9], 1), 1);
/// assert_eq!(weight, [3e-9, -4e-9, 0.0]);
/// ```
///
/// # Panics
///
/// If there is not one factor for each tensor.
pub fn scale(tensors: Vec<&mut [f32]>, factors: &[f64], threads: usize) -> u64 {
    assert_eq!(tensors.len(), factors.len(), "one factor for each tensor");
    let tensors = tensors.into_iter().zip(factors);
    let changed = tensors.filter(|(_, factor)| **factor != 1.0);
    let blocks = changed.flat_map(|(values, factor)| blocks_of(values, Coefficient::of(*factor)));
    scale_blocks(blocks, threads)
}

fn blocks_of<E>(
    values: &mut [E],
    by: Coefficient,
) -> impl Iterator<Item = (&mut [E], Coefficient)> {
    let blocks = values.chunks_mut(BLOCK_ELEMENTS);
    blocks.map(move |block| (block, by))
}

fn scale_blocks<'a, E: Element>(
    blocks: impl Iterator<Item = (&'a mut [E], Coefficient)>,
    threads: usize,
) -> u64 {
    let blocks: Vec<_> = blocks.collect();
    let scale = |(block, by): (&mut [E], Coefficient)| {
        let mut rounded_to_zero = 0;
        // Pieces that stay in the first-level cache, with one loop per operation: the compiler
        // vectorises each of them, but not one loop that does everything.
        for piece in block.chunks_mut(1024) {
            let zeros_before = zeros(piece);
            for value in piece.iter_mut() {
                // Rounds once, from the f64 product to storage.
                *value = E::from_f64(value.to_f64() * by.first * by.second);
            }
            rounded_to_zero += u64::from(zeros(piece).saturating_sub(zeros_before));
        }
        rounded_to_zero
    };
    let counts = map_blocks(blocks.into_iter(), threads, scale);
    counts.into_iter().sum()
}

fn zeros<E: Element>(values: &[E]) -> u32 {
    values.iter().map(|value| u32::from(is_zero(*value))).sum()
}

fn clamp<E: Element>(
    values: &mut [E],
    by: Coefficient,
    bound: f64,
    scale: f64,
    threads: usize,
) -> Effect {
    let bound = Bound {
        exact: bound,
        stored: E::from_f64(bound).to_f64(),
    };
    let scale_after = match E::SQUARES_FIT {
        true => 1.0,
        false => Norm::scale_for(bound.exact),
    };
    let clamp = |block: &mut [E]| clamp_block(block, by, bound, 1.0 / scale, 1.0 / scale_after);
    let mut all = Clamped::default();
    for block in map_blocks(values.chunks_mut(BLOCK_ELEMENTS), threads, clamp) {
        all.clamped += block.clamped;
        all.rounded_to_zero += block.rounded_to_zero;
        all.sum += block.sum;
        all.inner_product += block.inner_product;
    }
    let squares = Squares {
        sum: all.sum,
        scale: scale_after,
    };
    Effect {
        clamped: all.clamped,
        rounded_to_zero: Some(all.rounded_to_zero),
        squares,
        inner_product: all.inner_product,
        norm: squares.root(),
    }
}

/// The effect of clamping a block.
#[derive(Default)]
struct Clamped {
    clamped: u64,
    rounded_to_zero: u64,
    /// The sum of squares afterwards.
    sum: f64,
    inner_product: f64,
}

/// A bound as given, for the report, and as rounded to storage.
#[derive(Clone, Copy)]
struct Bound {
    exact: f64,
    stored: f64,
}

impl Bound {
    /// The clamped value before rounding to storage. An element within the stored bound keeps its
    /// value.
    #[inline(always)]
    fn clamp(self, value: f64) -> f64 {
        match value.abs() > self.stored {
            true => self.exact.copysign(value),
            false => value,
        }
    }
}

fn clamp_block<E: Element>(
    block: &mut [E],
    by: Coefficient,
    bound: Bound,
    inverse_before: f64,
    inverse_after: f64,
) -> Clamped {
    let (mut clamped, mut rounded_to_zero) = (0, 0);
    let mut sums = [0.0_f64; LANES];
    let mut products = [0.0_f64; LANES];
    for chunk in block.chunks_mut(LANES) {
        for ((value, sum), product) in chunk.iter_mut().zip(&mut sums).zip(&mut products) {
            let before = value.to_f64();
            let scaled = before * by.first * by.second;
            let after = bound.clamp(scaled);
            let stored = E::from_f64(after);
            clamped += u64::from(after != scaled);
            rounded_to_zero += became_zero(*value, stored);
            *sum += (after * inverse_after) * (after * inverse_after);
            *product += (before * inverse_before) * (after * inverse_after);
            *value = stored;
        }
    }
    Clamped {
        clamped,
        rounded_to_zero,
        sum: add_pairwise(sums),
        inner_product: add_pairwise(products),
    }
}

/// The cosine of the angle between all tensors before and after, exactly 1 if all were scaled by
/// one coefficient.
pub(crate) fn cosine_of(measures: &[Measure], effects: &[Effect]) -> f64 {
    let before = add_squares(measures.iter().map(|measure| measure.squares));
    let after = add_squares(effects.iter().map(|effect| effect.squares));
    // Apply the ratios one at a time: for a tensor of zeros their product can be infinite.
    let inner_products = measures.iter().zip(effects).map(|(measure, effect)| {
        let in_scale_before = effect.inner_product * (measure.squares.scale / before.scale);
        in_scale_before * (effect.squares.scale / after.scale)
    });
    cosine(before.sum, after.sum, sum_sorted(inner_products))
}

/// Takes one root of the product, because the root of an exact square is exact.
fn cosine(mut before: f64, mut after: f64, mut inner_product: f64) -> f64 {
    const FAR: f64 = f64::from_bits((1023 + 350) << 52);
    const TINY: f64 = f64::from_bits((1023 - 400) << 52);
    // The product of two small sums would lose digits, and of two large ones overflow.
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

impl Elements<'_> {
    /// Multiplies each element by a factor of [`Deferred`](crate::Deferred), in `f64` and rounding
    /// once, which gives the bits of clipping in place. Returns how many non-zero elements
    /// underflowed to zero.
    pub fn scale(&mut self, factor: f64) -> u64 {
        self.scale_with(factor, 1)
    }

    pub(crate) fn scale_with(&mut self, factor: f64, threads: usize) -> u64 {
        let by = Coefficient::of(factor);
        match factor == 1.0 {
            true => 0,
            false => for_each_type!(Elements, self, values => scale_tensor(values, by, threads)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::clamp;
    use crate::norm::{Coefficient, Squares};

    #[test]
    fn clamping_returns_its_effect() {
        let mut values = [-3.0_f32, 1.0, 2.0, -0.0];
        let effect = clamp(&mut values, Coefficient::ONE, 2.0, 1.0, 1);
        assert_eq!(values, [-2.0, 1.0, 2.0, -0.0]);
        assert_eq!((effect.clamped, effect.inner_product), (1, 11.0));
        let squares = Squares {
            sum: 9.0,
            scale: 1.0,
        };
        assert_eq!(effect.squares, squares);
        assert!(values[3].is_sign_negative());
    }

    #[test]
    fn lengthening_stays_in_the_storage_type() {
        let mut values = [1.0_f32, -2.0, 0.0];
        let by = Coefficient::of(1e39);
        let effect = clamp(&mut values, by, f32::MAX.into(), 1.0, 1);
        assert_eq!(values, [f32::MAX, f32::MIN, 0.0]);
        assert_eq!((effect.clamped, effect.rounded_to_zero), (2, Some(0)));
    }
}
