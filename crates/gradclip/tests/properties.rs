//! Properties of clipping, measured on stored values.

use gradclip::{ClipAction, ClipReport, NonFinite, Outcome};
use proptest::prelude::*;

use crate::model::{Buffer, Model, Stored, Tensor};
use crate::support::{bits, clip, reference_norm, try_clip, without_files};

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

/// Thresholds below and above the norms of `gradients`. The lower end keeps scaled elements above
/// the subnormals, where f32 loses relative precision.
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
    #![proptest_config(without_files())]

    #[test]
    fn global_norm_bounds_the_stored_norm_and_keeps_direction(
        before in gradients(), threshold in threshold(),
    ) {
        let (after, report) = clip(&format!("global-norm:{threshold:e}"), before.clone());
        let (before_values, after_values) = (all(&before), all(&after));
        prop_assert!(norm(&after_values) <= threshold * (1.0 + 1e-6));
        let reference = norm(&before_values);
        prop_assert!((report.norm_before - reference).abs() <= 1e-13 * reference);
        prop_assert_eq!(report.cosine, Some(1.0));
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
            prop_assert!((cosine(&before, &after) - report.cosine.unwrap()).abs() < 1e-6);
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
            prop_assert!((cosine(&before_values, &after_values) - report.cosine.unwrap()).abs() < 1e-7);
        }
        // The report is from before the bound was rounded to f32.
        prop_assert!((norm(&after_values) - report.norm_after).abs() <= 1e-7 * report.norm_after);
        let exact = before_values.iter().map(|value| value.clamp(-threshold, threshold));
        let exact: Vec<f64> = exact.collect();
        prop_assert!((norm(&exact) - report.norm_after).abs() <= 1e-7 * report.norm_after);
        let (twice, second) = clip(&policy, after.clone());
        prop_assert_eq!(all_bits(&twice), all_bits(&after));
        prop_assert_eq!(second.action, ClipAction::Keep);
    }

    #[test]
    fn other_orders_bound_the_stored_norm(
        before in gradients(), exponent in -1.0..3.0_f64, power in 0.5..8.0_f64,
    ) {
        // Relative to the norm of the gradients, so that about half of the cases clip.
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
    fn the_result_is_always_finite(
        values in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..200),
        policy in prop::sample::select(vec!["none", "value:1", "norm:1", "global-norm:1,p=0.1"]),
    ) {
        let outcome = try_clip(policy, NonFinite::Zero, vec![("w", values)]);
        let Ok(Outcome::Apply(clipped)) = outcome else { panic!("NonFinite::Zero applies") };
        let (gradients, report) = clipped.into_parts();
        prop_assert!(gradients[0].1.iter().all(|value| value.is_finite()));
        prop_assert!((0.0..=1.0).contains(&report.cosine.unwrap()));
        prop_assert!((0.0..=1.0).contains(&report.coefficient));
        prop_assert!(report.norm_before.is_finite() && report.norm_after <= report.norm_before);
    }
}

/// Values of a storage type over its whole range of magnitudes, with a few zeros.
fn wide(least: f64, largest: f64) -> impl Strategy<Value = Vec<f64>> {
    let exponents = least.log10()..largest.log10();
    let number = (exponents.clone(), any::<bool>()).prop_map(|(exponent, negative)| {
        let magnitude = 10.0_f64.powf(exponent);
        if negative { -magnitude } else { magnitude }
    });
    // Within one vector magnitudes are similar, or a single value would dominate.
    let like =
        (exponents, prop::collection::vec(-1.0..1.0_f64, 1..60)).prop_map(|(exponent, values)| {
            let scale = 10.0_f64.powf(exponent);
            values
                .into_iter()
                .map(|number| number * scale)
                .collect::<Vec<f64>>()
        });
    let mixed = prop::collection::vec(prop_oneof![number, Just(0.0)], 1..60);
    prop_oneof![like, mixed]
}

/// Gradients of each storage type with enough digits, with parameters of the same shape. Far enough
/// from subnormals and infinity that scaling loses nothing.
fn matrix() -> impl Strategy<Value = (Model, f64)> {
    let size = (1..6_usize, 1..6_usize);
    let storage = prop::sample::select(vec![("f32", 1e-20_f64, 1e34_f64), ("f64", 1e-280, 1e300)]);
    (size, storage).prop_flat_map(|((rows, columns), (storage, least, largest))| {
        let elements = rows * columns;
        let values = || prop::collection::vec(-1.0..1.0_f64, elements);
        let scale = (least.log10()..largest.log10()).prop_map(|exponent| 10.0_f64.powf(exponent));
        (values(), values(), scale).prop_map(move |(gradient, parameter, scale)| {
            let gradient: Vec<f64> = gradient.iter().map(|number| number * scale).collect();
            let tensor = |name: &str, shape: Vec<usize>, gradient: &[f64]| Tensor {
                name: name.to_owned(),
                shape,
                gradient: Buffer::of(storage, gradient),
                parameter: Some(Buffer::of(storage, &parameter[..gradient.len()])),
            };
            let model = Model(vec![
                tensor("layer.weight", vec![rows, columns], &gradient),
                tensor("layer.bias", vec![columns], &gradient[..columns]),
                tensor("head.weight", vec![columns, rows], &gradient),
            ]);
            (model, scale)
        })
    })
}

/// The most that rounding to f32 can lengthen a vector.
const ROUNDED: f64 = 1.0 + 1e-6;

fn norm_of(values: impl IntoIterator<Item = f64> + Clone) -> f64 {
    let largest = values
        .clone()
        .into_iter()
        .fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * reference_norm(values.into_iter().map(|value| value / largest), 2.0)
}

/// The largest ratio of the norm of a unit to that of its weights.
fn largest_unit_ratio(tensor: &Tensor, epsilon: f64, last: bool) -> f64 {
    let (gradient, parameter) = (tensor.gradient.to_f64(), tensor.parameter.as_ref());
    let parameter = parameter.expect("a parameter").to_f64();
    let long_axes = tensor.shape.iter().filter(|length| **length > 1).count();
    let columns = tensor.shape[tensor.shape.len() - 1];
    let unit_of = |index: usize| match (long_axes > 1, last) {
        (false, _) => 0,
        (true, true) => index % columns,
        (true, false) => index / columns,
    };
    let unit_norm = |values: &[f64], unit: usize| {
        let own: Vec<f64> = values
            .iter()
            .enumerate()
            .filter(|(index, _)| unit_of(*index) == unit)
            .map(|(_, value)| *value)
            .collect();
        norm_of(own)
    };
    let ratio = |unit| unit_norm(&gradient, unit) / unit_norm(&parameter, unit).max(epsilon);
    (0..gradient.len())
        .map(unit_of)
        .map(ratio)
        .fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(without_files())]

    #[test]
    fn group_norm_bounds_each_group((model, scale) in matrix(), factor in 0.01..10.0_f64) {
        let threshold = scale * factor;
        let (after, report) = clip(&format!("group-norm:{threshold:e}"), model.clone());
        for group in ["layer", "head"] {
            let values = |model: &Model| -> Vec<f64> {
                let members = model.0.iter().filter(|tensor| tensor.name.starts_with(group));
                members.flat_map(|tensor| tensor.gradient.to_f64()).collect()
            };
            let (before, after) = (norm_of(values(&model)), norm_of(values(&after)));
            prop_assert!(after <= threshold * ROUNDED, "{} > {}", after, threshold);
            if before > threshold * ROUNDED {
                prop_assert!((after / threshold - 1.0).abs() < 1e-6);
            }
        }
        prop_assert!((norm_of(after.flat()) / report.norm_after - 1.0).abs() < 1e-6);
    }

    #[test]
    fn block_rms_bounds_each_root_mean_square((model, scale) in matrix(), factor in 0.01..3.0_f64) {
        let threshold = scale * factor;
        let (after, report) = clip(&format!("block-rms:{threshold:e}"), model.clone());
        for ((before, after), entry) in model.0.iter().zip(&after.0).zip(&report.tensors) {
            let rms = |tensor: &Tensor| {
                norm_of(tensor.gradient.to_f64()) / (entry.elements as f64).sqrt()
            };
            prop_assert!(rms(after) <= threshold * ROUNDED);
            if rms(before) <= threshold * (1.0 - 1e-12) {
                prop_assert_eq!(after.gradient.bits(), before.gradient.bits());
            }
            prop_assert_eq!(entry.threshold, Some(threshold));
        }
    }

    #[test]
    fn agc_bounds_each_unit(
        (model, scale) in matrix(), factor in 0.01..3.0_f64, last in any::<bool>(),
        epsilon in prop::sample::select(vec![1e-3, 0.5]),
    ) {
        let lambda = scale * factor;
        let unit = if last { "last" } else { "first" };
        let policy = format!("agc:{lambda:e},eps={epsilon},unit={unit}");
        let (after, report) = clip(&policy, model.clone());
        for (before, after) in model.0.iter().zip(&after.0) {
            let bound = lambda * ROUNDED;
            prop_assert!(largest_unit_ratio(after, epsilon, last) <= bound);
            if largest_unit_ratio(before, epsilon, last) <= lambda * (1.0 - 1e-12) {
                prop_assert_eq!(after.gradient.bits(), before.gradient.bits());
            }
        }
        prop_assume!(norm_of(model.flat()) > 0.0);
        let units = |values: Vec<f64>| -> Vec<f64> {
            values.into_iter().map(|value| value / scale).collect()
        };
        let direct = cosine(&units(model.flat()), &units(after.flat()));
        prop_assert!((direct - report.cosine.unwrap()).abs() < 1e-6, "{} {:?}", direct, report.cosine);
    }

    #[test]
    fn normalize_reaches_its_norm((model, scale) in matrix(), factor in 1e-3..1e3_f64) {
        prop_assume!(norm_of(model.flat()) > 0.0);
        let target = scale * factor;
        let (after, report) = clip(&format!("normalize:{target:e}"), model.clone());
        prop_assert_eq!(report.norm_after, target);
        prop_assert!((norm_of(after.flat()) / target - 1.0).abs() < 1e-6);
        prop_assert_eq!(report.cosine, Some(1.0));
    }

    #[test]
    fn clipping_twice_changes_at_most_the_last_place(
        (model, scale) in matrix(), factor in 0.01..3.0_f64,
        rule in prop::sample::select(vec![
            "value", "norm", "global-norm", "group-norm", "block-rms", "normalize", "agc",
        ]),
    ) {
        let policy = format!("{rule}:{:e}", scale * factor);
        let (once, _) = clip(&policy, model);
        let (twice, _) = clip(&policy, once.clone());
        let digits = match once.0[0].gradient {
            Buffer::F32(_) => f64::from(f32::EPSILON),
            // The norm is no more precise than the elements here.
            _ => 4.0 * f64::EPSILON,
        };
        for (first, second) in once.flat().into_iter().zip(twice.flat()) {
            prop_assert!((first - second).abs() <= digits * first.abs(), "{} {}", first, second);
        }
    }

    #[test]
    fn scaling_by_a_power_of_two_scales_every_rule(
        (model, scale) in matrix(), factor in 0.01..3.0_f64, exponent in -8..8_i32,
        rule in prop::sample::select(vec![
            "value", "norm", "global-norm", "group-norm", "block-rms", "normalize", "agc",
        ]),
    ) {
        let threshold = match model.0[0].gradient {
            // The bound of `value` is rounded to storage, as the gradient is.
            Buffer::F32(_) => f64::from((scale * factor) as f32),
            _ => scale * factor,
        };
        let by = 2.0_f64.powi(exponent);
        let times = |model: &Model| {
            let mut scaled = model.clone();
            for tensor in &mut scaled.0 {
                for (index, value) in tensor.gradient.to_f64().into_iter().enumerate() {
                    tensor.gradient.set(index, value * by);
                }
            }
            scaled
        };
        let (once, _) = clip(&format!("{rule}:{threshold:e}"), model.clone());
        let (scaled, _) = clip(&format!("{rule}:{:e}", threshold * by), times(&model));
        prop_assert_eq!(scaled.bits(), times(&once).bits());
    }

    #[test]
    fn the_order_of_tensors_does_not_matter(
        (model, scale) in matrix(), factor in 0.01..3.0_f64,
        order in Just([0_usize, 1, 2]).prop_shuffle(),
        rule in prop::sample::select(vec![
            "value", "norm", "global-norm", "group-norm", "block-rms", "normalize", "agc",
        ]),
    ) {
        let policy = format!("{rule}:{:e}", scale * factor);
        let (expected, report) = clip(&policy, model.clone());
        let shuffled = Model(order.map(|place| model.0[place].clone()).into());
        let (found, other_report) = clip(&policy, shuffled);
        for (place, tensor) in order.into_iter().zip(&found.0) {
            prop_assert_eq!(tensor.gradient.bits(), expected.0[place].gradient.bits());
        }
        let values = |report: &ClipReport| {
            ([report.norm_before, report.norm_after, report.coefficient], report.cosine)
        };
        prop_assert_eq!(values(&report), values(&other_report));
    }

    #[test]
    fn splitting_a_tensor_keeps_its_norm(
        doubles in wide(1e-307, 1e307), singles in wide(1e-37, 1e37), parts in 1..8_usize,
    ) {
        for (storage, values) in [("f64", doubles), ("f32", singles)] {
            let part = |(index, values): (usize, &[f64])| Tensor {
                name: format!("part{index}"),
                shape: vec![values.len()],
                gradient: Buffer::of(storage, values),
                parameter: None,
            };
            let size = values.len().div_ceil(parts);
            let split = || Model(values.chunks(size).enumerate().map(part).collect());
            let whole = || Model(vec![part((0, &values))]);
            for order in ["1", "2", "3", "inf"] {
                let policy = format!("global-norm:inf,p={order}");
                let expected = clip(&policy, whole()).1.norm_before;
                let found = clip(&policy, split()).1.norm_before;
                let error = (found / expected - 1.0).abs();
                prop_assert!(error <= 1e-14 || found == expected, "{}: {} {}", order, found, expected);
            }
            let direct = norm_of(whole().flat());
            let found = clip("none", split()).1.norm_before;
            prop_assert!((found / direct - 1.0).abs() <= 1e-14 || found == direct);
        }
    }
}
