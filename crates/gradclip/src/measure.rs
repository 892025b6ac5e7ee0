//! Measuring: one streaming read per tensor, in f64, with the same bits for any thread count.
//!
//! The square of an f32 is exact in f64 and lies between 1e-90 and 1.2e77, so sums of squares
//! neither overflow nor underflow and the Euclidean norm of finite gradients is always finite.

use crate::blocks::{BLOCK_ELEMENTS, LANES, add_pairwise, map_blocks};
use crate::policy::NormOrder;

/// What one read of a tensor tells. Non-finite elements are counted and left out of the rest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorMeasure {
    pub(crate) name: String,
    pub(crate) elements: usize,
    pub(crate) non_finite: u64,
    pub(crate) sum_of_squares: f64,
    pub(crate) max_magnitude: f32,
    /// The norm in the order that was asked for.
    pub(crate) norm: f64,
}

/// Reads `values` once, and a second time only for orders other than 2 and infinity.
pub(crate) fn measure_tensor(
    name: &str,
    values: &[f32],
    order: NormOrder,
    threads: usize,
) -> TensorMeasure {
    let total = map_blocks(values.chunks(BLOCK_ELEMENTS), threads, measure_block)
        .into_iter()
        .fold(BlockMeasure::EMPTY, BlockMeasure::combine);
    let norm = match order {
        NormOrder::Infinity => f64::from(total.max_magnitude),
        NormOrder::Finite(power) if power.get() == 2.0 => total.sum_of_squares.sqrt(),
        NormOrder::Finite(power) => power_norm(values, total.max_magnitude, power.get(), threads),
    };
    TensorMeasure {
        name: name.to_owned(),
        elements: values.len(),
        non_finite: total.non_finite,
        sum_of_squares: total.sum_of_squares,
        max_magnitude: total.max_magnitude,
        norm,
    }
}

/// The norm over all tensors together.
pub(crate) fn norm_of_all(measures: &[TensorMeasure], order: NormOrder) -> f64 {
    if order == NormOrder::TWO {
        // The sums are still at hand, so that no root is taken only to be squared again.
        return sum_of_squares_of_all(measures).sqrt();
    }
    combine_norms(measures.iter().map(|measure| measure.norm), order)
}

/// Folds from 0.0, because the standard sum of no numbers is -0.0.
pub(crate) fn sum_of_squares_of_all(measures: &[TensorMeasure]) -> f64 {
    measures
        .iter()
        .fold(0.0, |sum, measure| sum + measure.sum_of_squares)
}

/// The norm of the concatenation of vectors whose norms are given: the p-norm of the p-norms.
pub(crate) fn combine_norms(norms: impl Iterator<Item = f64> + Clone, order: NormOrder) -> f64 {
    let largest = norms.clone().fold(0.0, f64::max);
    match order {
        NormOrder::Infinity => largest,
        NormOrder::Finite(_) if largest == 0.0 => 0.0,
        NormOrder::Finite(power) => {
            let power = power.get();
            let power_sum: f64 = norms.map(|norm| (norm / largest).powf(power)).sum();
            root_of_power_sum(largest, power_sum, power)
        }
    }
}

#[derive(Clone, Copy)]
struct BlockMeasure {
    sum_of_squares: f64,
    max_magnitude: f32,
    non_finite: u64,
}

impl BlockMeasure {
    const EMPTY: BlockMeasure = BlockMeasure {
        sum_of_squares: 0.0,
        max_magnitude: 0.0,
        non_finite: 0,
    };

    fn combine(self, next: BlockMeasure) -> BlockMeasure {
        BlockMeasure {
            sum_of_squares: self.sum_of_squares + next.sum_of_squares,
            max_magnitude: larger(self.max_magnitude, next.max_magnitude),
            non_finite: self.non_finite + next.non_finite,
        }
    }
}

/// The comparison that compiles to a single `max` instruction, unlike `f32::max`.
fn larger(left: f32, right: f32) -> f32 {
    if right > left { right } else { left }
}

/// Measures a block on the assumption that it is finite, and again with care if it is not.
fn measure_block(block: &[f32]) -> BlockMeasure {
    let measure = measure_block_with(block, |value| value);
    // A sum of squares of finite f32 cannot overflow in f64, and a NaN or an infinity cannot
    // leave a sum finite. The sum alone therefore decides, and the hot loop needs no branch.
    if measure.sum_of_squares.is_finite() {
        return measure;
    }
    let non_finite = block.iter().filter(|value| !value.is_finite()).count() as u64;
    let finite_or_zero = |value: f32| if value.is_finite() { value } else { 0.0 };
    BlockMeasure {
        non_finite,
        ..measure_block_with(block, finite_or_zero)
    }
}

#[inline(always)]
fn measure_block_with(block: &[f32], filter: impl Fn(f32) -> f32) -> BlockMeasure {
    let mut sums = [0.0_f64; LANES];
    let mut maxima = [0.0_f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for ((&value, sum), maximum) in chunk.iter().zip(&mut sums).zip(&mut maxima) {
            accumulate(filter(value), sum, maximum);
        }
    }
    for ((&value, sum), maximum) in rest.iter().zip(&mut sums).zip(&mut maxima) {
        accumulate(filter(value), sum, maximum);
    }
    BlockMeasure {
        sum_of_squares: add_pairwise(sums),
        max_magnitude: maxima.into_iter().fold(0.0, larger),
        non_finite: 0,
    }
}

#[inline(always)]
fn accumulate(value: f32, sum: &mut f64, maximum: &mut f32) {
    let wide = f64::from(value);
    *sum += wide * wide;
    *maximum = larger(*maximum, value.abs());
}

/// `max * (sum (|g| / max)^p)^(1/p)`: dividing by the maximum keeps every power inside [0, 1],
/// where a plain `|g|^p` overflows for a large p and large gradients.
fn power_norm(values: &[f32], max_magnitude: f32, power: f64, threads: usize) -> f64 {
    if max_magnitude == 0.0 {
        return 0.0;
    }
    let max_magnitude = f64::from(max_magnitude);
    let block_power_sum = |block: &[f32]| {
        let mut sums = [0.0_f64; LANES];
        for chunk in block.chunks(LANES) {
            for (value, sum) in chunk.iter().zip(&mut sums) {
                if value.is_finite() {
                    // A zero contributes nothing, whatever the power.
                    *sum += (f64::from(value.abs()) / max_magnitude).powf(power);
                }
            }
        }
        add_pairwise(sums)
    };
    let power_sum: f64 = map_blocks(values.chunks(BLOCK_ELEMENTS), threads, block_power_sum)
        .into_iter()
        .sum();
    root_of_power_sum(max_magnitude, power_sum, power)
}

/// Saturates, because for a tiny p the true norm of finite gradients can exceed every f64.
fn root_of_power_sum(max_magnitude: f64, power_sum: f64, power: f64) -> f64 {
    (max_magnitude * power_sum.powf(power.recip())).min(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_ELEMENTS, combine_norms, measure_tensor};
    use crate::policy::NormOrder;

    fn order(power: f64) -> NormOrder {
        NormOrder::new(power).unwrap()
    }

    #[test]
    fn every_element_is_read_once_around_lane_and_block_edges() {
        for length in [
            0,
            1,
            15,
            16,
            17,
            BLOCK_ELEMENTS - 1,
            BLOCK_ELEMENTS,
            BLOCK_ELEMENTS + 1,
        ] {
            let values = vec![2.0; length];
            let measure = measure_tensor("w", &values, NormOrder::TWO, 1);
            assert_eq!(measure.sum_of_squares, 4.0 * length as f64);
            assert_eq!((measure.elements, measure.non_finite), (length, 0));
        }
    }

    #[test]
    fn non_finite_elements_are_counted_and_left_out_wherever_they_are() {
        for position in [
            0,
            16,
            99,
            BLOCK_ELEMENTS - 1,
            BLOCK_ELEMENTS,
            BLOCK_ELEMENTS + 20,
        ] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0; BLOCK_ELEMENTS + 21];
                values[position] = bad;
                let measure = measure_tensor("w", &values, NormOrder::TWO, 1);
                assert_eq!(measure.non_finite, 1);
                assert_eq!(measure.sum_of_squares, (BLOCK_ELEMENTS + 20) as f64);
                assert_eq!(measure.max_magnitude, 1.0);
            }
        }
    }

    #[test]
    fn extreme_orders_stay_finite() {
        let values = [f32::MAX, -f32::MAX, f32::from_bits(1), 0.0];
        for power in [
            f64::MIN_POSITIVE,
            5e-324,
            1e-3,
            0.1,
            300.0,
            1e6,
            f64::MAX,
            f64::INFINITY,
        ] {
            let norm = measure_tensor("w", &values, order(power), 1).norm;
            assert!(
                norm.is_finite() && norm >= f64::from(f32::MAX),
                "p = {power}: {norm}"
            );
        }
    }

    #[test]
    fn the_norm_of_norms_is_the_norm_of_the_whole() {
        for power in [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, f64::INFINITY] {
            let whole = measure_tensor("w", &[1.0, 2.0, 3.0, 4.0], order(power), 1).norm;
            let left = measure_tensor("w", &[1.0, 2.0], order(power), 1).norm;
            let right = measure_tensor("w", &[3.0, 4.0], order(power), 1).norm;
            let combined = combine_norms([left, right].into_iter(), order(power));
            assert!((combined / whole - 1.0).abs() < 1e-14, "p = {power}");
        }
    }
}
