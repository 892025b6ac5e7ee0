//! Deciding: pure scalar code that turns measures into one change per tensor.

use crate::measure::{TensorMeasure, norm_of_all};
use crate::policy::ClipPolicy;

/// What is to be done to the finite elements of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    /// Not one bit changes.
    Keep,
    /// Each element is multiplied by the coefficient.
    Scale(f64),
    /// Each element is clamped to `[-bound, bound]`.
    Clamp(f32),
}

/// Chooses a change for each tensor. A norm equal to the threshold is kept as it is.
pub(crate) fn decide(policy: &ClipPolicy, measures: &[TensorMeasure]) -> Vec<Change> {
    match policy {
        ClipPolicy::None => vec![Change::Keep; measures.len()],
        ClipPolicy::Value { threshold } => {
            // The bound is the threshold as the storage can hold it, so that a gradient that is
            // already at the bound is not changed again.
            let bound = threshold.get() as f32;
            let change = |measure: &TensorMeasure| {
                if measure.max_magnitude > bound {
                    Change::Clamp(bound)
                } else {
                    Change::Keep
                }
            };
            measures.iter().map(change).collect()
        }
        ClipPolicy::Norm { threshold, .. } => measures
            .iter()
            .map(|measure| scale_to(threshold.get(), measure.norm))
            .collect(),
        ClipPolicy::GlobalNorm { threshold, order } => {
            let change = scale_to(threshold.get(), norm_of_all(measures, *order));
            vec![change; measures.len()]
        }
    }
}

fn scale_to(threshold: f64, norm: f64) -> Change {
    if norm > threshold {
        Change::Scale(threshold / norm)
    } else {
        Change::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, scale_to};

    #[test]
    fn equality_is_kept_and_the_next_number_is_not() {
        assert_eq!(scale_to(5.0, 5.0), Change::Keep);
        assert!(matches!(scale_to(5.0, 5.0_f64.next_up()), Change::Scale(scale) if scale < 1.0));
        assert_eq!(scale_to(f64::INFINITY, f64::MAX), Change::Keep);
        assert_eq!(scale_to(f64::MIN_POSITIVE, 0.0), Change::Keep);
    }
}
