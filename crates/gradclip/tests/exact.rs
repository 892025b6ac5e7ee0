//! Exact vectors: first our own, then those from the tests of other frameworks.

use std::collections::BTreeMap;

use gradclip::{ClipAction, Gradients};

use crate::support::{Named, assert_all_close, assert_close, bits, clip, clip_one, reference_norm};

const ORDERS: [&str; 7] = ["0.5", "1", "1.5", "2", "3", "4", "inf"];

fn torch_large() -> Named {
    vec![
        ("weight", (1_u8..=100).map(f32::from).collect()),
        ("bias", vec![0.001; 10]),
    ]
}

#[test]
fn three_four_is_scaled_to_length_one() {
    let (values, report) = clip_one("global-norm:1", &[3.0, 4.0]);
    assert_eq!(values, [0.6, 0.8]);
    assert_eq!(report.action, ClipAction::Clip);
    assert_eq!(
        (report.norm_before, report.norm_after, report.coefficient),
        (5.0, 1.0, 0.2)
    );
    assert_eq!(
        (report.threshold, report.cosine, report.clipped_share),
        (Some(1.0), Some(1.0), 0.0)
    );
    assert_eq!(report.tensors[0].norm_after, 1.0);
    assert_eq!(report.tensors[0].elements, 2);
}

#[test]
fn a_chain_that_lengthens_reports_it_in_the_order_of_its_norm() {
    let (values, report) = clip_one("normalize:100+global-norm:1000,p=inf", &[3.0, 4.0]);
    assert_eq!(values, [60.0, 80.0]);
    assert_close(report.norm_before, 4.0, 1e-14);
    assert_close(report.norm_after, 80.0, 1e-14);
    assert_close(report.coefficient, 20.0, 1e-14);
    assert_close(report.tensors[0].coefficient, 20.0, 1e-14);
}

#[test]
fn the_default_policy_off_measures_and_keeps() {
    let (values, report) = clip_one("none", &[3.0, -4.0]);
    assert_eq!(values, [3.0, -4.0]);
    assert_eq!(
        (report.norm_before, report.norm_after, report.coefficient),
        (5.0, 5.0, 1.0)
    );
    assert_eq!((report.action, report.threshold), (ClipAction::Keep, None));
}

#[test]
fn torch_norms_land_on_the_threshold_with_one_scale() {
    for order in ORDERS {
        let power: f64 = order.parse().unwrap();
        let before = torch_large();
        let all = |gradients: &Named| -> Vec<f64> {
            gradients
                .iter()
                .flat_map(|(_, values)| values)
                .map(|v| f64::from(*v))
                .collect()
        };
        let (after, report) = clip(&format!("global-norm:2,p={order}"), before.clone());
        assert_close(
            report.norm_before,
            reference_norm(all(&before).into_iter(), power),
            1e-13,
        );
        let stored = reference_norm(all(&after).into_iter(), power);
        assert!(
            (stored - 2.0).abs() < 1e-6 && report.norm_after == 2.0,
            "p={order}: {stored}"
        );
        for (before, after) in all(&before).into_iter().zip(all(&after)) {
            assert_close(after / before, report.coefficient, 1e-7);
        }
    }
}

#[test]
fn torch_small_gradients_keep_their_bits() {
    let weight: Vec<f32> = (0_u8..100).map(|i| f32::from(i) / 1e6).collect();
    for policy in ["global-norm", "norm"] {
        for order in &ORDERS[1..] {
            let before: Named = vec![("weight", weight.clone()), ("bias", vec![1.0 / 500.0; 10])];
            let (after, report) = clip(&format!("{policy}:2,p={order}"), before.clone());
            assert_eq!(bits(&after[0].1), bits(&weight));
            assert_eq!((after, report.coefficient), (before, 1.0));
        }
    }
}

#[test]
fn torch_overflow_table() {
    let (values, report) = clip_one("global-norm:1", &[1.0; 100]);
    assert_eq!((values, report.norm_before), (vec![0.1; 100], 10.0));
    // Where f32 squares overflow to infinity, PyTorch sets all gradients to zero.
    let (values, report) = clip_one("global-norm:1", &[1e20; 100]);
    assert_close(report.norm_before, 10.0 * f64::from(1e20_f32), 1e-15);
    assert_all_close(&values, &[0.1; 100], 1e-7);
}

#[test]
fn torch_value_and_tensorflow_value() {
    let before: Vec<f32> = (-50_i8..50).map(|i| f32::from(i) / 5.0).collect();
    let (after, report) = clip_one("value:2.5", &before);
    let expected: Vec<f32> = before.iter().map(|value| value.clamp(-2.5, 2.5)).collect();
    assert_eq!(after, expected);
    assert_eq!(report.clipped_share, 0.75);
    assert_eq!(
        clip_one("value:4.4", &[-5., 2., 3., 4., 5., 6.]).0,
        [-4.4, 2., 3., 4., 4.4, 4.4]
    );
}

#[test]
fn tensorflow_by_norm() {
    let values = [-3.0, 0.0, 0.0, 4.0, 0.0, 0.0];
    assert_eq!(
        clip_one("norm:4", &values).0,
        [-2.4, 0.0, 0.0, 3.2, 0.0, 0.0]
    );
    assert_eq!(clip_one("norm:6", &values).0, values);
    assert_eq!(clip_one("norm:4", &[0.0; 6]).0, [0.0; 6]);
}

#[test]
fn tensorflow_by_global_norm() {
    let before: Named = vec![
        ("x0", vec![-2.0, 0.0, 0.0, 4.0, 0.0, 0.0]),
        ("x1", vec![1.0, -2.0]),
    ];
    let (after, report) = clip("global-norm:4", before.clone());
    assert_eq!(after[0].1, [-1.6, 0.0, 0.0, 3.2, 0.0, 0.0]);
    assert_eq!(after[1].1, [0.8, -1.6]);
    assert_eq!(report.norm_before, 5.0);
    assert_eq!(report.dominant(), Some(("x0", 0.8)));
    assert_eq!(clip("global-norm:6", before.clone()).0, before);
}

#[test]
fn tch_gradient_clip_test() {
    let before: Named = vec![
        ("a", vec![2.0, 2.0]),
        ("b", vec![8.0]),
        ("c", vec![-8.0, -8.0]),
    ];
    let (after, report) = clip("value:4", before.clone());
    assert_eq!(
        after,
        vec![
            ("a", vec![2.0, 2.0]),
            ("b", vec![4.0]),
            ("c", vec![-4.0, -4.0])
        ]
    );
    assert_eq!(report.clipped_share, 3.0 / 5.0);
    let (after, report) = clip("global-norm:1", before);
    assert_close(report.norm_before, 200.0_f64.sqrt(), 1e-15);
    assert_all_close(&after[0].1, &[0.02_f64.sqrt(); 2], 1e-7);
    assert_all_close(&after[1].1, &[0.32_f64.sqrt()], 1e-7);
    assert_all_close(&after[2].1, &[-(0.32_f64.sqrt()); 2], 1e-7);
}

#[test]
fn keras_optimizer_test() {
    assert_all_close(
        &clip_one("norm:1", &[100.0; 2]).0,
        &[0.5_f64.sqrt(); 2],
        1e-7,
    );
    assert_eq!(clip_one("value:1", &[100.0; 2]).0, [1.0; 2]);
    let expected = [0.2_f64.sqrt(), 0.8_f64.sqrt()];
    assert_all_close(
        &clip_one("global-norm:1", &[50.0, 100.0]).0,
        &expected,
        1e-7,
    );
}

#[test]
fn optax_global_norm_and_clipping_twice() {
    let gradients: Named = vec![("a", vec![500.0, 5.0]), ("b", vec![300.0, 3.0])];
    assert_eq!(clip("value:1000000", gradients.clone()).0, gradients);
    assert_eq!(
        clip("value:1", gradients.clone()).0,
        vec![("a", vec![1.0; 2]), ("b", vec![1.0; 2])]
    );
    for divisor in 1..=50 {
        let policy = format!("global-norm:{}", 1.0 / f64::from(divisor));
        let (once, _) = clip(&policy, gradients.clone());
        let stored = once
            .iter()
            .flat_map(|(_, values)| values)
            .map(|value| f64::from(*value));
        assert_close(reference_norm(stored, 2.0), 1.0 / f64::from(divisor), 1e-6);
        // The stored norm may exceed the threshold by the rounding to f32, so clipping again may
        // change the last bit, but no more.
        for ((_, once), (_, twice)) in once.iter().zip(clip(&policy, once.clone()).0) {
            let once: Vec<f64> = once.iter().map(|value| f64::from(*value)).collect();
            assert_all_close(&twice, &once, 1.2e-7);
        }
    }
}

#[test]
fn metaseq_norm_then_second_call_returns_one() {
    let gradients: Named = ["a", "b", "c"]
        .map(|name| (name, vec![1., 2., 3., 4.]))
        .to_vec();
    let (after, report) = clip("global-norm:1", gradients.clone());
    assert_close(report.norm_before, 90.0_f64.sqrt(), 1e-15);
    assert_close(clip("none", after).1.norm_before, 1.0, 1e-7);
    assert_eq!(clip("global-norm:9,p=inf", gradients).1.norm_before, 4.0);
}

#[test]
fn norm_clips_each_tensor_separately() {
    let before: Named = vec![("large", vec![30.0, 40.0]), ("small", vec![0.3, 0.4])];
    let (after, report) = clip("norm:5", before.clone());
    assert_eq!(
        after,
        vec![("large", vec![3.0, 4.0]), ("small", vec![0.3, 0.4])]
    );
    assert_eq!(
        (report.tensors[0].coefficient, report.tensors[1].coefficient),
        (0.1, 1.0)
    );
    assert_eq!(
        (report.tensors[0].norm_after, report.threshold),
        (5.0, Some(5.0))
    );
    assert_close(report.norm_after, 25.25_f64.sqrt(), 1e-7);
    assert!(
        report
            .cosine
            .is_some_and(|cosine| cosine < 1.0 - 1e-6 && cosine > 0.99),
        "{:?}",
        report.cosine
    );
    assert_eq!(clip("global-norm:5", before).1.cosine, Some(1.0));
    // One tensor, or tensors scaled alike, keep the direction exactly.
    assert_eq!(clip_one("norm:1", &[3.3, 0.7, 9.1]).1.cosine, Some(1.0));
}

#[test]
fn value_loses_direction() {
    let (values, report) = clip_one("value:1", &[3.0, 1.0]);
    assert_eq!(values, [1.0, 1.0]);
    assert_close(report.cosine.unwrap(), 4.0 / 20.0_f64.sqrt(), 1e-15);
    assert_close(report.norm_after, 2.0_f64.sqrt(), 1e-15);
    assert_close(report.coefficient, (2.0 / 10.0_f64).sqrt(), 1e-15);
    assert_eq!(clip_one("value:4", &[3.0, 1.0]).1.cosine, Some(1.0));
}

#[test]
fn every_collection_is_clipped_in_place() {
    let (mut first, mut second) = ([3.0_f32], [4.0_f32]);
    clip(
        "global-norm:1",
        vec![("a", first.as_mut_slice()), ("b", second.as_mut_slice())],
    );
    assert_eq!((first, second), ([0.6], [0.8]));

    let mut slices = [("a", first.as_mut_slice()), ("b", second.as_mut_slice())];
    clip("value:0.5", slices.as_mut_slice());
    clip("value:0.25", &mut slices);
    assert_eq!((first, second), ([0.25], [0.25]));

    let mut owned = vec![("a".to_owned(), vec![3.0_f32]), ("b".to_owned(), vec![4.0])];
    clip("global-norm:1", &mut owned);
    let mut map: BTreeMap<String, Vec<f32>> = owned.into_iter().collect();
    assert_eq!(map["b"], [0.8]);
    let dynamic: &mut dyn Gradients = &mut map;
    assert_eq!(clip("value:0.5", dynamic).1.tensors[1].name, "b");
    assert_eq!(map["b"], [0.5]);
}
