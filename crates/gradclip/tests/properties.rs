//! Properties of clipping, measured on what is stored.

use gradclip::{ClipAction, NonFinite, Outcome};
use proptest::prelude::*;

use crate::support::{bits, clip, reference_norm, try_clip};

type Owned = Vec<(String, Vec<f32>)>;

fn gradients() -> impl Strategy<Value = Owned> {
    let element = prop_oneof![-10.0..10.0_f32, -1e-3..1e-3_f32, Just(0.0_f32)];
    let scale = prop_oneof![Just(1.0_f32), Just(1e25), Just(1e-25)];
    let tensor = prop::collection::vec(element, 0..40);
    (prop::collection::vec(tensor, 0..6), scale).prop_map(|(tensors, scale)| {
        let named = |(index, values): (usize, Vec<f32>)| {
            (
                format!("layer{index}"),
                values.into_iter().map(|value| value * scale).collect(),
            )
        };
        tensors.into_iter().enumerate().map(named).collect()
    })
}

/// Thresholds on both sides of the norms above. The lower end keeps scaled elements out of the
/// denormals, where f32 has no relative precision left.
fn threshold() -> impl Strategy<Value = f64> {
    (-20.0..30.0_f64).prop_map(|exponent| 10.0_f64.powf(exponent))
}

fn all(gradients: &Owned) -> Vec<f64> {
    gradients
        .iter()
        .flat_map(|(_, values)| values)
        .map(|value| f64::from(*value))
        .collect()
}

fn norm(values: &[f64]) -> f64 {
    reference_norm(values.iter().copied(), 2.0)
}

fn cosine(left: &[f64], right: &[f64]) -> f64 {
    let inner_product: f64 = left
        .iter()
        .zip(right)
        .map(|(left, right)| left * right)
        .sum();
    inner_product / (norm(left) * norm(right))
}

fn all_bits(gradients: &Owned) -> Vec<Vec<u32>> {
    gradients.iter().map(|(_, values)| bits(values)).collect()
}

proptest! {
    #[test]
    fn global_norm_bounds_the_stored_norm_and_keeps_direction(
        before in gradients(), threshold in threshold(),
    ) {
        let (after, report) = clip(&format!("global-norm:{threshold:e}"), before.clone());
        let (before_values, after_values) = (all(&before), all(&after));
        prop_assert!(norm(&after_values) <= threshold * (1.0 + 1e-6));
        let reference = norm(&before_values);
        prop_assert!((report.norm_before - reference).abs() <= 1e-13 * reference);
        prop_assert_eq!(report.cosine, 1.0);
        if report.action == ClipAction::Clip {
            prop_assert!(report.norm_before > threshold && report.coefficient < 1.0);
            prop_assert!((norm(&after_values) / threshold - 1.0).abs() < 1e-6);
            prop_assert!(cosine(&before_values, &after_values) > 1.0 - 1e-12);
        } else {
            prop_assert!(report.norm_before <= threshold);
            prop_assert_eq!(all_bits(&before), all_bits(&after));
        }
    }

    #[test]
    fn norm_bounds_each_tensor(before in gradients(), threshold in threshold()) {
        let (after, report) = clip(&format!("norm:{threshold:e}"), before.clone());
        for ((_, after), tensor) in after.iter().zip(&report.tensors) {
            let after: Vec<f64> = after.iter().map(|value| f64::from(*value)).collect();
            prop_assert!(norm(&after) <= threshold * (1.0 + 1e-6));
            prop_assert!((norm(&after) - tensor.norm_after).abs() <= 1e-6 * tensor.norm_after);
        }
        let (before, after) = (all(&before), all(&after));
        prop_assert!((norm(&after) - report.norm_after).abs() <= 1e-6 * report.norm_after);
        if norm(&after) > 0.0 {
            prop_assert!((cosine(&before, &after) - report.cosine).abs() < 1e-6);
        }
    }

    #[test]
    fn value_bounds_each_element_and_is_idempotent(
        before in gradients(), threshold in threshold(),
    ) {
        let policy = format!("value:{threshold:e}");
        let (after, report) = clip(&policy, before.clone());
        let (before_values, after_values) = (all(&before), all(&after));
        prop_assert!(after_values.iter().all(|value| value.abs() <= threshold * (1.0 + 1e-7)));
        let changed = before_values.iter().zip(&after_values).filter(|(b, a)| b != a).count();
        let share = changed as f64 / before_values.len().max(1) as f64;
        prop_assert_eq!(report.clipped_share, share);
        if norm(&after_values) > 0.0 {
            prop_assert!((cosine(&before_values, &after_values) - report.cosine).abs() < 1e-9);
        }
        prop_assert!((norm(&after_values) - report.norm_after).abs() <= 1e-12 * report.norm_after);
        let (twice, second) = clip(&policy, after.clone());
        prop_assert_eq!(all_bits(&twice), all_bits(&after));
        prop_assert_eq!(second.action, ClipAction::Keep);
    }

    #[test]
    fn other_orders_bound_the_stored_norm(
        before in gradients(), exponent in -1.0..3.0_f64, power in 0.5..8.0_f64,
    ) {
        // Relative to the gradients' own norm, so that about half of the cases clip.
        let own = clip(&format!("global-norm:inf,p={power}"), before.clone()).1.norm_before;
        prop_assume!(own > 0.0);
        let threshold = own * 10.0_f64.powf(-exponent);
        let (after, report) = clip(&format!("global-norm:{threshold:e},p={power}"), before);
        let measured = clip(&format!("global-norm:inf,p={power}"), after).1.norm_before;
        prop_assert!(measured <= threshold * (1.0 + 1e-6), "{} > {}", measured, threshold);
        prop_assert!((measured - report.norm_after).abs() <= 1e-6 * report.norm_after);
    }

    #[test]
    fn scaling_the_input_by_a_power_of_two_scales_the_output(
        before in gradients(), exponent in -8..8_i32,
    ) {
        let factor = 2.0_f32.powi(exponent);
        let scale = |gradients: &Owned| -> Owned {
            let scaled = |values: &Vec<f32>| values.iter().map(|value| value * factor).collect();
            gradients.iter().map(|(name, values)| (name.clone(), scaled(values))).collect()
        };
        let (once, _) = clip("global-norm:0.5", before.clone());
        let policy = format!("global-norm:{}", 0.5 * f64::from(factor));
        let (scaled, _) = clip(&policy, scale(&before));
        prop_assert_eq!(all_bits(&scaled), all_bits(&scale(&once)));
    }

    #[test]
    fn whatever_comes_in_nothing_non_finite_comes_out(
        values in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..200),
        policy in prop::sample::select(vec!["none", "value:1", "norm:1", "global-norm:1,p=0.1"]),
    ) {
        let outcome = try_clip(policy, NonFinite::Zero, vec![("w", values)]);
        let Ok(Outcome::Apply(clipped)) = outcome else { panic!("NonFinite::Zero applies") };
        let (gradients, report) = clipped.into_parts();
        prop_assert!(gradients[0].1.iter().all(|value| value.is_finite()));
        prop_assert!((0.0..=1.0).contains(&report.cosine));
        prop_assert!((0.0..=1.0).contains(&report.coefficient));
        prop_assert!(report.norm_before.is_finite() && report.norm_after <= report.norm_before);
    }
}
