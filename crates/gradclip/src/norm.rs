//! Norms that neither overflow nor underflow, and how to combine them.

use alloc::vec::Vec;

use crate::math::{powf, sqrt};
use crate::threshold::NormOrder;

/// Large enough to bring any `f64` near 1 from either side, with room for its square.
const FAR: f64 = f64::from_bits((1023 + 600) << 52);

/// A norm as `scaled * scale`, where the scale is a power of two.
///
/// The norm of finite gradients can overflow `f64` (two elements of `f64::MAX` suffice), and
/// squares overflow long before. The scale is 1 unless squares would leave the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Norm {
    pub(crate) scaled: f64,
    pub(crate) scale: f64,
}

/// A scale factor for gradients, in two parts because one could leave the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coefficient {
    /// A power of two, 1 unless the norm is out of the range of squares.
    pub(crate) first: f64,
    pub(crate) second: f64,
}

impl Coefficient {
    pub(crate) const ONE: Coefficient = Coefficient::of(1.0);

    pub(crate) const fn of(factor: f64) -> Coefficient {
        Coefficient {
            first: 1.0,
            second: factor,
        }
    }

    pub(crate) fn value(self) -> f64 {
        self.first * self.second
    }

    /// Scales a norm.
    pub(crate) fn scale(self, norm: Norm) -> Norm {
        Norm {
            scaled: norm.scaled * self.second,
            scale: norm.scale * self.first,
        }
    }
}

impl Norm {
    pub(crate) const ZERO: Norm = Norm::of(0.0);
    pub(crate) const UNKNOWN: Norm = Norm::of(f64::NAN);

    pub(crate) const fn of(value: f64) -> Norm {
        Norm {
            scaled: value,
            scale: 1.0,
        }
    }

    /// The scale that keeps squares of values up to `max_magnitude` in range.
    pub(crate) fn scale_for(max_magnitude: f64) -> f64 {
        const HUGE: f64 = f64::from_bits((1023 + 450) << 52);
        const TINY: f64 = f64::from_bits((1023 - 400) << 52);
        if max_magnitude > HUGE {
            FAR
        } else if max_magnitude > 0.0 && max_magnitude < TINY {
            1.0 / FAR
        } else {
            1.0
        }
    }

    /// The norm as an `f64`, saturated at `f64::MAX`.
    pub(crate) fn value(self) -> f64 {
        // `min` would turn an unknown norm (NaN) into the largest.
        let value = self.scaled * self.scale;
        if value == f64::INFINITY {
            f64::MAX
        } else {
            value
        }
    }

    /// Strictly: equality does not exceed.
    pub(crate) fn exceeds(self, bound: f64) -> bool {
        self.scaled > bound / self.scale
    }

    pub(crate) fn is_unknown(self) -> bool {
        self.scaled.is_nan()
    }

    pub(crate) fn is_zero(self) -> bool {
        self.scaled == 0.0
    }

    /// The coefficient that scales this norm to `target`.
    pub(crate) fn coefficient_to(self, target: f64) -> Coefficient {
        // One factor if possible: with two, a small element could underflow in between.
        let whole = target / self.scaled / self.scale;
        if whole.is_normal() {
            return Coefficient::of(whole);
        }
        Coefficient {
            first: 1.0 / self.scale,
            // Infinity times a zero element would be NaN.
            second: (target / self.scaled).min(f64::MAX),
        }
    }

    pub(crate) fn squared(self) -> Squares {
        Squares {
            sum: self.scaled * self.scaled,
            scale: self.scale,
        }
    }

    fn scaled_to(self, scale: f64) -> f64 {
        self.scaled * (self.scale / scale)
    }
}

/// A sum of squares as `sum * scale * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Squares {
    pub(crate) sum: f64,
    pub(crate) scale: f64,
}

impl Squares {
    pub(crate) fn root(self) -> Norm {
        Norm {
            scaled: sqrt(self.sum),
            scale: self.scale,
        }
    }
}

/// Adds sums of squares. The result does not depend on their order.
pub(crate) fn add_squares(squares: impl Iterator<Item = Squares> + Clone) -> Squares {
    let scale = common_scale(
        squares
            .clone()
            .filter(|s| s.sum > 0.0 && s.scale > 0.0)
            .map(|s| s.scale),
    );
    let rescaled = squares.map(|squares| {
        let ratio = squares.scale / scale;
        squares.sum * ratio * ratio
    });
    Squares {
        sum: sum_sorted(rescaled),
        scale,
    }
}

/// The norm of the concatenation of vectors with the given norms: the p-norm of the p-norms. The
/// result does not depend on their order.
pub(crate) fn combine_norms(norms: impl Iterator<Item = Norm> + Clone, order: NormOrder) -> Norm {
    let scale = common_scale(norms.clone().filter(|n| !n.is_zero()).map(|n| n.scale));
    let scaled = norms.map(|norm| norm.scaled_to(scale));
    let largest = scaled.clone().fold(0.0, f64::max);
    let combined = match order {
        NormOrder::INFINITY => largest,
        _ if largest == 0.0 => 0.0,
        order => {
            let power = order.get();
            let powers = scaled.map(|norm| powf(norm / largest, power));
            root_of_power_sum(largest, sum_sorted(powers), power)
        }
    };
    Norm {
        scaled: combined,
        scale,
    }
}

impl NormOrder {
    /// The norm of tensors taken together, from the norm of each, in any order; 0 for none. If it
    /// overflows, the largest `f64`.
    ///
    /// ```
    /// use gradclip::NormOrder;
    ///
    /// assert_eq!(NormOrder::TWO.combine([3.0, 4.0]), 5.0);
    /// assert_eq!(NormOrder::INFINITY.combine([3.0, 4.0]), 4.0);
    /// ```
    #[must_use]
    pub fn combine(self, norms: impl IntoIterator<Item = f64, IntoIter: Clone>) -> f64 {
        combine_norms(norms.into_iter().map(Norm::of), self).value()
    }
}

/// Saturates, because for a tiny p the norm of finite gradients can overflow `f64`.
pub(crate) fn root_of_power_sum(max_magnitude: f64, power_sum: f64, power: f64) -> f64 {
    (max_magnitude * powf(power_sum, power.recip())).min(f64::MAX)
}

fn common_scale(scales: impl Iterator<Item = f64>) -> f64 {
    scales.reduce(f64::max).unwrap_or(1.0)
}

/// Sums from the smallest to the largest, so that the order of tensors does not matter.
pub(crate) fn sum_sorted(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    // Starts at 0.0, because `sum` of an empty iterator is -0.0.
    values.into_iter().fold(0.0, |sum, value| sum + value)
}
