//! Huge, tiny and unusual magnitudes: norms of finite gradients are finite and correct.

use gradclip::{ClipAction, NonFinite, Unscaled};
use half::{bf16, f16};

use crate::fuzzing::Random;
use crate::support::{
    Named, assert_all_close, assert_close, bits, clip, clip_one, clipper, parts, reference_norm,
    try_clip,
};

#[test]
fn huge_and_tiny_norms_match_the_reference() {
    for scale in [1e30_f32, 1e19, 1.0, 1e-25, 1e-38] {
        let values: Vec<f32> = Random(1)
            .values(100_000)
            .into_iter()
            .map(|v| v * scale)
            .collect();
        let expected = reference_norm(values.iter().map(|value| f64::from(*value)), 2.0);
        let (after, report) = clip_one("global-norm:1e-3", &values);
        assert_close(report.norm_before, expected, 1e-12);
        if expected > 1e-3 {
            let stored = reference_norm(after.iter().map(|value| f64::from(*value)), 2.0);
            assert_close(stored, 1e-3, 1e-6);
        } else {
            assert_eq!(bits(&after), bits(&values));
        }
    }
}

#[test]
fn the_largest_and_the_smallest_f32() {
    let (values, report) = clip_one("global-norm:2", &[f32::MAX; 4]);
    assert_close(report.norm_before, 2.0 * f64::from(f32::MAX), 1e-15);
    assert_eq!(values, [1.0; 4]);
    let smallest = f32::from_bits(1);
    let (values, report) = clip_one("global-norm:1", &[smallest; 4]);
    assert_eq!(report.norm_before, 2.0 * f64::from(smallest));
    assert_eq!(bits(&values), [1; 4]);
    // A threshold below the smallest f32 gives zeros, not NaN.
    let (values, report) = clip_one("value:1e-60", &[1.0, -1.0, 0.0]);
    assert_eq!((values, report.cosine), (vec![0.0; 3], Some(1.0)));
    assert_eq!(
        clip_one("value:1e60", &[f32::MAX]).1.action,
        ClipAction::Keep
    );
    let (values, _) = clip_one("global-norm:5e-324", &[f32::MAX, 1.0]);
    assert_eq!(values, [0.0; 2]);
}

#[test]
fn subnormals_are_scaled_like_other_values() {
    let tiny = f32::MIN_POSITIVE / 8.0;
    let (values, report) = clip_one(&format!("global-norm:{:e}", f64::from(tiny)), &[tiny; 4]);
    assert_eq!(report.coefficient, 0.5);
    assert_eq!(values, [tiny / 2.0; 4]);
}

#[test]
fn every_order_at_every_size() {
    for order in ["0.5", "1", "1.5", "2", "3", "4", "inf"] {
        let power: f64 = order.parse().unwrap();
        for scale in [1e-30, 1.0, 1e30] {
            let values: Vec<f32> = Random(2)
                .values(5000)
                .into_iter()
                .map(|v| v * scale)
                .collect();
            let unit = values
                .iter()
                .map(|value| f64::from(*value) / f64::from(scale));
            let expected = reference_norm(unit, power) * f64::from(scale);
            let (_, report) = clip_one(&format!("norm:1,p={order}"), &values);
            assert_close(report.norm_before, expected, 1e-12);
        }
    }
}

#[test]
fn huge_and_tiny_orders_are_finite() {
    let gradients: Named = vec![("a", vec![1e30, -3.0, 0.0]), ("b", vec![1e-40, f32::MAX])];
    for order in ["1e-300", "0.001", "0.1", "50", "1e4", "1e300"] {
        for policy in ["norm", "global-norm"] {
            let (after, report) = clip(&format!("{policy}:1,p={order}"), gradients.clone());
            let values = [
                report.norm_before,
                report.norm_after,
                report.coefficient,
                report.cosine.unwrap(),
            ];
            assert!(
                values.iter().all(|number| number.is_finite()),
                "p={order}: {values:?}"
            );
            assert!(report.norm_before >= f64::from(f32::MAX));
            assert!(
                after
                    .iter()
                    .flat_map(|(_, values)| values)
                    .all(|value| value.is_finite())
            );
        }
    }
    let (after, _) = clip("global-norm:1,p=1e300", gradients);
    assert_eq!(after[1].1[1], 1.0);
}

#[test]
fn nothing_to_clip() {
    for policy in [
        "none",
        "value:1",
        "norm:1",
        "global-norm:1",
        "global-norm:1,p=3",
    ] {
        for gradients in [
            vec![],
            vec![("empty", vec![])],
            vec![("zero", vec![0.0; 3])],
        ] {
            let (_, report) = clip(policy, gradients);
            assert_eq!(report.action, ClipAction::Keep);
            assert_eq!(report.norm_before.to_bits(), 0.0_f64.to_bits());
            assert_eq!(
                (report.norm_after, report.coefficient, report.cosine),
                (0.0, 1.0, Some(1.0))
            );
            assert_eq!((report.clipped_share, report.dominant()), (0.0, None));
        }
    }
}

#[test]
fn an_infinite_threshold_never_clips() {
    for policy in [
        "value:inf",
        "norm:inf",
        "global-norm:inf",
        "global-norm:inf,p=0.001",
    ] {
        let (values, report) = clip_one(policy, &[f32::MAX, -1.0]);
        assert_eq!(
            (values, report.action),
            (vec![f32::MAX, -1.0], ClipAction::Keep)
        );
    }
}

#[test]
fn one_huge_element_leaves_the_rest_in_proportion() {
    let (values, _) = clip_one("global-norm:1e30", &[3e37, 1.0, -2.0]);
    assert_all_close(&values, &[1e30, 1e30 / 3e37, -2e30 / 3e37], 1e-7);
    let outcome = try_clip(
        "global-norm:1",
        NonFinite::Zero,
        vec![("w", vec![f32::MAX; 9])],
    );
    assert_eq!(outcome.unwrap().report().non_finite, 0);
}

#[test]
fn ferx_core_vectors() {
    // A naive sum of squares is infinite or zero for each, which turns clipping off or divides by
    // zero. The last has subnormal squares.
    let tiny = f64::MIN_POSITIVE.sqrt() / 16.0;
    let cases = [
        (vec![f64::MAX, 1.0], f64::MAX),
        (vec![1e160; 8], 8.0_f64.sqrt() * 1e160),
        (vec![tiny; 4], 2.0 * tiny),
        (vec![5e-324; 4], 1e-323),
    ];
    for (gradient, norm) in cases {
        for factor in [0.5, 2.0] {
            let threshold = norm * factor;
            let policy = format!("global-norm:{threshold:e}");
            let (after, report) = clip(&policy, vec![("w", gradient.clone())]);
            assert_close(report.norm_before, norm, 1e-14);
            if factor > 1.0 {
                assert_eq!((&after[0].1, report.action), (&gradient, ClipAction::Keep));
            } else {
                assert_eq!(
                    (report.norm_after, report.action),
                    (threshold, ClipAction::Clip)
                );
                let stored = clip("none", after).1.norm_before;
                assert_close(stored, threshold, if norm > 1e-300 { 1e-14 } else { 1.0 });
            }
        }
    }
    // The norm of two elements of `f64::MAX` overflows. It is reported as `f64::MAX`, and the
    // result is still correct.
    let (after, report) = clip("global-norm:1", vec![("w", vec![f64::MAX; 2])]);
    assert_eq!(report.norm_before, f64::MAX);
    assert_close(after[0].1[0], 0.5_f64.sqrt(), 1e-14);
}

#[test]
fn lengthening_to_the_largest_value_gives_no_nan() {
    // The ratio overflows, and infinity times zero would be NaN.
    let (after, report) = clip("normalize:1e308", vec![("w", vec![1e-300_f64, 0.0, -0.0])]);
    assert!(
        after[0].1.iter().all(|value| value.is_finite()),
        "{after:?}"
    );
    assert_eq!(after[0].1[1..], [0.0, -0.0]);
    assert!(report.coefficient.is_finite() && report.tensors[0].coefficient.is_finite());
}

#[test]
fn small_elements_of_a_huge_gradient_survive() {
    // Divided by a scale near the norm first, the second element would underflow.
    let (after, _) = clip("global-norm:1e130", vec![("w", vec![1e140_f64, 1e-150])]);
    assert_close(after[0].1[1], 1e-160, 1e-12);
}

#[test]
fn excess_threads_are_not_started() {
    // More than one thread always takes.
    let gradient = vec![("w", vec![0.5_f32; 1_000_000])];
    let mut clipper = clipper("global-norm:1", NonFinite::Error).with_threads(usize::MAX);
    let outcome = clipper.clip(Unscaled::single(gradient.clone())).unwrap();
    assert_eq!(parts(outcome).0, clip("global-norm:1", gradient).0);
}

/// The target cannot be reached, and the report has the actual norm.
#[test]
fn lengthening_that_saturates_is_reported() {
    let largest = f64::from(f16::MAX);
    let (after, report) = clip(
        "normalize:1e6",
        vec![("w", vec![f16::ONE, -f16::ONE, f16::ZERO])],
    );
    assert_eq!(after[0].1, [f16::MAX, f16::MIN, f16::ZERO]);
    assert_close(report.norm_after, 2.0_f64.sqrt() * largest, 1e-14);
    assert_close(report.coefficient, largest, 1e-14);
    assert_eq!(report.tensors[0].norm_after, report.norm_after);
    assert_close(report.clipped_share, 2.0 / 3.0, 1e-14);
    // Only one element saturates: the direction turns.
    let (after, report) = clip(
        "normalize:1e5",
        vec![("w", vec![3.0_f32, 4.0]), ("b", vec![0.0])],
    );
    assert_eq!(
        (after[0].1[1], report.norm_after, report.cosine),
        (8e4, 1e5, Some(1.0))
    );
    let values = vec![f16::from_f32(0.03), f16::from_f32(4.0)];
    let (after, report) = clip("normalize:1e5", vec![("w", values)]);
    assert_eq!(after[0].1[1], f16::MAX);
    assert!(report.cosine.unwrap() < 1.0 - 1e-6, "{report:?}");
    // A ratio of 1e608.
    let (after, report) = clip("normalize:1e308", vec![("w", vec![1e-300_f64])]);
    assert_close(report.norm_after, after[0].1[0], 1e-14);
}

#[test]
fn underflow_is_counted() {
    let tiny = f16::from_bits(1);
    let values = vec![
        f16::from_f32(2.0),
        tiny,
        -tiny,
        f16::from_bits(3),
        f16::ZERO,
    ];
    for (policy, lost) in [
        ("none", 0),
        ("global-norm:4", 0),
        // Half of the smallest value rounds to even, which is zero.
        ("global-norm:1", 2),
        ("norm:0.25", 3),
        ("value:1", 0),
        ("value:1e-9", 4),
        ("normalize:1", 2),
        ("global-norm:1+global-norm:0.25", 3),
        ("value:1e-9+global-norm:1e-10", 4),
    ] {
        let (after, report) = clip(policy, vec![("w", values.clone())]);
        let zeros = after[0]
            .1
            .iter()
            .filter(|value| **value == f16::ZERO)
            .count();
        assert_eq!(zeros as u64, lost + 1, "{policy}");
        assert_eq!(report.rounded_to_zero, Some(lost), "{policy}");
    }
    let all = vec![bf16::from_f32(1e-38); 1000];
    let (after, report) = clip("global-norm:1e-41", vec![("w", all)]);
    assert_eq!(after[0].1, vec![bf16::ZERO; 1000]);
    assert_eq!(
        (report.rounded_to_zero, report.norm_after),
        (Some(1000), 1e-41)
    );
}
