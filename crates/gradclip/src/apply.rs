//! Applying: the only code of this crate that writes into gradients.

use crate::blocks::{BLOCK_ELEMENTS, LANES, add_pairwise, map_blocks};
use crate::decision::Change;

/// What clamping did, measured while it was done. Scaling needs no measuring: its effect follows
/// from the coefficient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ClampEffect {
    /// Elements that changed.
    pub(crate) clamped: u64,
    /// Sum of squares after clamping.
    pub(crate) sum_of_squares: f64,
    /// Inner product of the gradient before and after clamping.
    pub(crate) inner_product: f64,
}

/// Replaces each non-finite element by zero and leaves the others alone.
pub(crate) fn zero_non_finite(values: &mut [f32]) {
    for value in values {
        if !value.is_finite() {
            *value = 0.0;
        }
    }
}

/// Applies a change to finite values, and returns the effect when it was a clamping.
pub(crate) fn apply(values: &mut [f32], change: Change, threads: usize) -> Option<ClampEffect> {
    match change {
        Change::Keep => None,
        Change::Scale(coefficient) => {
            let scale_block = |block: &mut [f32]| {
                for value in block {
                    // One rounding, from the exact product's f64 to the storage.
                    *value = (f64::from(*value) * coefficient) as f32;
                }
            };
            map_blocks(values.chunks_mut(BLOCK_ELEMENTS), threads, scale_block);
            None
        }
        Change::Clamp(bound) => {
            let clamp = |block: &mut [f32]| clamp_block(block, bound);
            let effect = map_blocks(values.chunks_mut(BLOCK_ELEMENTS), threads, clamp)
                .into_iter()
                .fold(ClampEffect::default(), |total, next| ClampEffect {
                    clamped: total.clamped + next.clamped,
                    sum_of_squares: total.sum_of_squares + next.sum_of_squares,
                    inner_product: total.inner_product + next.inner_product,
                });
            Some(effect)
        }
    }
}

fn clamp_block(block: &mut [f32], bound: f32) -> ClampEffect {
    let mut clamped = 0;
    let mut sums = [0.0_f64; LANES];
    let mut products = [0.0_f64; LANES];
    for chunk in block.chunks_mut(LANES) {
        for ((value, sum), product) in chunk.iter_mut().zip(&mut sums).zip(&mut products) {
            let before = *value;
            let after = before.clamp(-bound, bound);
            clamped += u64::from(after != before);
            *sum += f64::from(after) * f64::from(after);
            *product += f64::from(before) * f64::from(after);
            *value = after;
        }
    }
    ClampEffect {
        clamped,
        sum_of_squares: add_pairwise(sums),
        inner_product: add_pairwise(products),
    }
}

#[cfg(test)]
mod tests {
    use super::{ClampEffect, apply, zero_non_finite};
    use crate::decision::Change;

    #[test]
    fn zeroing_touches_only_what_is_not_finite() {
        let mut values = [
            f32::NAN,
            -0.0,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::from_bits(1),
        ];
        zero_non_finite(&mut values);
        let bits = values.map(f32::to_bits);
        let expected = [0.0_f32, -0.0, 0.0, f32::MAX, f32::from_bits(1)].map(f32::to_bits);
        assert_eq!(bits, expected);
    }

    #[test]
    fn clamping_tells_what_it_did() {
        let mut values = [-3.0, 1.0, 2.0, -0.0];
        let effect = apply(&mut values, Change::Clamp(2.0), 1);
        let expected = ClampEffect {
            clamped: 1,
            sum_of_squares: 9.0,
            inner_product: 11.0,
        };
        assert_eq!((values, effect), ([-2.0, 1.0, 2.0, -0.0], Some(expected)));
        assert!(values[3].is_sign_negative());
    }
}
