//! Measuring: one streaming read per tensor, in f64, bitwise equal for any thread count.
//!
//! The square of an f32 is exact in f64 and lies between 1e-90 and 1.2e77, so sums of squares of
//! single and half precision neither overflow nor underflow. Double precision is read a second
//! time, scaled by a power of two, where its squares would leave the range.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::blocks::{BLOCK_ELEMENTS, LANES, add_pairwise, map_blocks};
use crate::element::{Element, Elements, for_each_type};
use crate::gradients::{Gradient, group_of};
use crate::math::powf;
use crate::norm::{Coefficient, Norm, Squares, add_squares, combine_norms, root_of_power_sum};
use crate::scan::{Scan, Scanned, scan_any};
use crate::threshold::NormOrder;
use crate::units::UnitMeasure;

/// The measures of a tensor, from one read. Non-finite elements are counted and otherwise ignored.
///
/// A [`Clipper`](crate::Clipper) measures what it clips. If the elements are on a device or in
/// other processes, measure them there and pass the result to
/// [`Clipper::decide`](crate::Clipper::decide).
#[derive(Clone, Debug)]
pub struct Measure {
    pub(crate) name: String,
    /// The group for `group-norm`.
    pub(crate) group: String,
    pub(crate) elements: usize,
    pub(crate) non_finite: u64,
    pub(crate) squares: Squares,
    /// NaN if unknown.
    pub(crate) max_magnitude: f64,
    /// Rounds a value to the storage type.
    pub(crate) round: fn(f64) -> f64,
    /// The largest finite value of the storage type; infinite if unknown.
    pub(crate) largest: f64,
    /// The norm in the order of the current rule.
    pub(crate) norm: Norm,
    /// The norm in the order of the report.
    pub(crate) reported: Norm,
    /// The norms of the units, if the current rule needs them.
    pub(crate) units: Option<UnitMeasure>,
}

impl Measure {
    /// The measure of a tensor with `elements` elements of any type and a Euclidean norm of `norm`.
    /// A non-finite norm counts as one non-finite element. The largest element is unknown, so a
    /// factor of `normalize` may overflow the element type.
    #[must_use]
    pub fn from_norm(name: impl Into<String>, elements: usize, norm: f64) -> Measure {
        let name = name.into();
        let mut measure = Measure {
            group: group_of(&name).to_owned(),
            name,
            elements,
            non_finite: u64::from(!norm.is_finite()),
            squares: Norm::ZERO.squared(),
            max_magnitude: f64::NAN,
            round: |value| value,
            largest: f64::INFINITY,
            norm: Norm::ZERO,
            reported: Norm::ZERO,
            units: None,
        };
        if norm.is_finite() {
            measure.set_norm(norm.abs());
        }
        measure
    }

    /// The measure of a tensor with `elements` elements of `f32`, from the result of a scan.
    /// Decisions are bitwise those for the elements themselves.
    #[must_use]
    pub fn from_scan(name: impl Into<String>, elements: usize, scanned: Scanned) -> Measure {
        let sums = Sums::of(scanned);
        Measure {
            non_finite: sums.non_finite,
            squares: sums.squares,
            max_magnitude: sums.max_magnitude,
            round: rounding_of::<f32>(&[]),
            largest: f32::LARGEST,
            norm: sums.squares.root(),
            reported: sums.squares.root(),
            ..Measure::from_norm(name, elements, 0.0)
        }
    }

    /// Sets the group for `group-norm`, as [`Gradient::with_group`](crate::Gradient::with_group)
    /// does.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Measure {
        self.group = group.into();
        self
    }

    /// The name of the tensor.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Updates the measure for scaled elements, ignoring their rounding.
    pub(crate) fn scale(&mut self, by: Coefficient, lands_on: Option<f64>) {
        self.max_magnitude *= by.value();
        self.set_norm(lands_on.unwrap_or_else(|| by.scale(self.norm).value()));
    }

    fn set_norm(&mut self, norm: f64) {
        let scale = Norm::scale_for(norm);
        let scaled = norm / scale;
        self.norm = Norm { scaled, scale };
        self.reported = self.norm;
        self.squares = self.norm.squared();
    }
}

/// The orders of the norms to compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Orders {
    pub(crate) rule: NormOrder,
    pub(crate) report: NormOrder,
}

/// Reads the elements once, and again for each order other than 2 and infinity.
///
/// `f32` is read by `scan`, unless the caller already has its result, `scanned`.
pub(crate) fn measure_tensor(
    gradient: &Gradient<'_>,
    orders: Orders,
    threads: usize,
    scan: Scan,
    scanned: Option<Scanned>,
) -> Measure {
    let single = match &gradient.elements {
        Elements::F32(values) => scanned.or_else(|| scan(&[values], threads).pop()),
        _ => None,
    };
    for_each_type!(Elements, &gradient.elements, values => {
        let sums = single.map_or_else(|| sums_of(values, threads), Sums::of);
        let norm = norm_of(values, &sums, orders.rule, threads);
        let reported = match orders.report == orders.rule {
            true => norm,
            false => norm_of(values, &sums, orders.report, threads),
        };
        Measure {
            name: gradient.name.to_owned(),
            group: gradient.group().to_owned(),
            elements: values.len(),
            non_finite: sums.non_finite,
            squares: sums.squares,
            max_magnitude: sums.max_magnitude,
            round: rounding_of(values),
            largest: largest_of(values),
            norm,
            reported,
            units: None,
        }
    })
}

/// The norm of the finite elements.
pub(crate) fn norm_of_elements(elements: &Elements<'_>, order: NormOrder, threads: usize) -> Norm {
    for_each_type!(Elements, elements, values => {
        norm_of(values, &sums_of(values, threads), order, threads)
    })
}

/// The norm of all tensors, in the order of the rule.
pub(crate) fn norm_of_all(measures: &[Measure], order: NormOrder) -> Norm {
    combined(measures, order, |measure| measure.norm)
}

/// The norm of all tensors, in the order of the report.
pub(crate) fn reported_norm_of_all(measures: &[Measure], order: NormOrder) -> Norm {
    combined(measures, order, |measure| measure.reported)
}

fn combined(measures: &[Measure], order: NormOrder, norm: fn(&Measure) -> Norm) -> Norm {
    match order {
        // Adds the sums of squares directly instead of squaring roots.
        NormOrder::TWO => add_squares(measures.iter().map(|measure| measure.squares)).root(),
        order => combine_norms(measures.iter().map(norm), order),
    }
}

fn largest_of<E: Element>(_: &[E]) -> f64 {
    E::LARGEST
}

fn rounding_of<E: Element>(_: &[E]) -> fn(f64) -> f64 {
    |value| E::from_f64(value).to_f64()
}

/// The sums of a whole tensor.
struct Sums {
    squares: Squares,
    max_magnitude: f64,
    non_finite: u64,
}

impl Sums {
    /// The sums of a scan whose squares fit an `f64`.
    fn of<Magnitude: Into<f64>>(scanned: Scanned<Magnitude>) -> Sums {
        Sums {
            squares: Squares {
                sum: scanned.sum_of_squares,
                scale: 1.0,
            },
            max_magnitude: scanned.max_magnitude.into(),
            non_finite: scanned.non_finite,
        }
    }
}

fn sums_of<E: Element>(values: &[E], threads: usize) -> Sums {
    let mut sums = Sums::of(scan_any(values, threads));
    let scale = match E::SQUARES_FIT {
        true => 1.0,
        false => Norm::scale_for(sums.max_magnitude),
    };
    if scale != 1.0 {
        let sum = sum_over_blocks(values, threads, |value| {
            let scaled = value * (1.0 / scale);
            scaled * scaled
        });
        sums.squares = Squares { sum, scale };
    }
    sums
}

fn norm_of<E: Element>(values: &[E], sums: &Sums, order: NormOrder, threads: usize) -> Norm {
    match order {
        NormOrder::INFINITY => Norm::of(sums.max_magnitude),
        NormOrder::TWO => sums.squares.root(),
        order => {
            let scale = sums.squares.scale;
            Norm {
                scaled: power_norm(values, sums.max_magnitude, scale, order.get(), threads),
                scale,
            }
        }
    }
}

/// `max * (sum (|g| / max)^p)^(1/p)` in units of `scale`: dividing by the maximum keeps every
/// power inside [0, 1], where a plain `|g|^p` overflows for a large p and large gradients.
fn power_norm<E: Element>(
    values: &[E],
    max_magnitude: f64,
    scale: f64,
    power: f64,
    threads: usize,
) -> f64 {
    if max_magnitude == 0.0 {
        return 0.0;
    }
    let power_sum = sum_over_blocks(values, threads, |value| {
        powf(value.abs() / max_magnitude, power)
    });
    root_of_power_sum(max_magnitude * (1.0 / scale), power_sum, power)
}

/// Sums a function of the finite elements in the fixed order of blocks and lanes.
fn sum_over_blocks<E: Element>(
    values: &[E],
    threads: usize,
    term: impl Fn(f64) -> f64 + Sync,
) -> f64 {
    let block_sum = |block: &[E]| {
        let mut sums = [0.0_f64; LANES];
        for chunk in block.chunks(LANES) {
            for (value, sum) in chunk.iter().zip(&mut sums) {
                if value.is_finite() {
                    *sum += term(value.to_f64());
                }
            }
        }
        add_pairwise(sums)
    };
    let partials: Vec<f64> = map_blocks(values.chunks(BLOCK_ELEMENTS), threads, block_sum);
    partials.into_iter().fold(0.0, |sum, partial| sum + partial)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::{BLOCK_ELEMENTS, Measure, Orders, measure_tensor};
    use crate::element::AsElements;
    use crate::gradients::Gradient;
    use crate::norm::combine_norms;
    use crate::threshold::NormOrder;

    fn order(power: f64) -> NormOrder {
        NormOrder::new(power).unwrap()
    }

    fn measure(mut values: impl AsElements, order: NormOrder) -> Measure {
        let orders = Orders {
            rule: order,
            report: order,
        };
        let gradient = Gradient::new("w", values.as_elements());
        measure_tensor(&gradient, orders, 1, crate::scan, None)
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
            let measure = measure(vec![2.0_f32; length], NormOrder::TWO);
            assert_eq!(measure.squares.sum, 4.0 * length as f64);
            assert_eq!((measure.elements, measure.non_finite), (length, 0));
        }
    }

    #[test]
    fn non_finite_elements_are_counted_and_ignored_at_any_position() {
        for position in [
            0,
            16,
            99,
            BLOCK_ELEMENTS - 1,
            BLOCK_ELEMENTS,
            BLOCK_ELEMENTS + 20,
        ] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0_f32; BLOCK_ELEMENTS + 21];
                values[position] = bad;
                let measure = measure(values, NormOrder::TWO);
                assert_eq!(measure.non_finite, 1);
                assert_eq!(measure.squares.sum, (BLOCK_ELEMENTS + 20) as f64);
                assert_eq!(measure.max_magnitude, 1.0);
            }
        }
    }

    #[test]
    fn double_precision_counts_non_finite_elements_when_squares_overflow() {
        let measure = measure(vec![1e300, f64::NAN, -1e300, f64::INFINITY], NormOrder::TWO);
        assert_eq!(measure.non_finite, 2);
        let error = measure.norm.value() / (2.0_f64.sqrt() * 1e300) - 1.0;
        assert!(error.abs() < 1e-15, "{error}");
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
            let norm = measure(values, order(power)).norm.value();
            assert!(
                norm.is_finite() && norm >= f64::from(f32::MAX),
                "p = {power}: {norm}"
            );
        }
    }

    #[test]
    fn the_norm_of_norms_is_the_norm_of_the_whole() {
        for unit in [1.0, 1e-300, 1e300] {
            for power in [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, f64::INFINITY] {
                let order = order(power);
                let whole = measure([unit, 2.0 * unit, 3.0 * unit, 4.0 * unit], order).norm;
                let left = measure([unit, 2.0 * unit], order).norm;
                let right = measure([3.0 * unit, 4.0 * unit], order).norm;
                let combined = combine_norms([left, right].into_iter(), order);
                let error = combined.value() / whole.value() - 1.0;
                assert!(error.abs() < 1e-14, "p = {power}: {error}");
            }
        }
    }
}
