//! The direction of the gradient: what keeps it, and the cosine otherwise.

use gradclip::{ClipAction, ClipReport, NonFinite};

use crate::fuzzing::Random;
use crate::model::{Model, Stored, step};
use crate::support::{assert_close, clip_one, clipper};

fn once(policy: &str, model: Model) -> (Model, ClipReport) {
    step(&mut clipper(policy, NonFinite::Error), model)
}

fn cosine(left: &[f64], right: &[f64]) -> f64 {
    let inner = |left: &[f64], right: &[f64]| -> f64 {
        left.iter()
            .zip(right)
            .map(|(left, right)| left * right)
            .sum()
    };
    inner(left, right) / (inner(left, left) * inner(right, right)).sqrt()
}

#[test]
fn rules_for_all_tensors_keep_the_direction() {
    let policies = [
        "global-norm:1",
        "global-norm:1,p=1",
        "global-norm:1,p=inf",
        "global-norm:2..1@16",
        "normalize:1",
        "autoclip:10",
        "zclip:warmup=3",
        "median:1,window=4",
        "normalize:3+global-norm:1",
    ];
    for policy in policies {
        let mut clipper = clipper(policy, NonFinite::Error);
        let mut clipped = 0;
        for index in 0..40 {
            let model = Model::random(&mut Random(index), 10.0);
            let before = model.flat();
            let (after, report) = step(&mut clipper, model);
            assert_eq!(report.cosine, Some(1.0), "{policy}");
            // Allow for the rounding of half precision.
            assert!(cosine(&before, &after.flat()) > 1.0 - 1e-5, "{policy}");
            clipped += u32::from(report.action == ClipAction::Clip);
        }
        assert!(clipped > 10, "{policy}: {clipped}");
    }
}

#[test]
fn a_chain_has_the_cosine_of_its_only_rotation() {
    for policy in [
        "global-norm:20+value:0.2",
        "block-rms:0.1+normalize:3+global-norm:1",
        "agc:0.01+global-norm:0.02",
        // Rules that never clip do not turn.
        "norm:1e9+value:0.2+block-rms:1e9",
    ] {
        for seed in 0..50 {
            let model = Model::random(&mut Random(seed), 10.0).stored_as("f64");
            let before = model.flat();
            let (after, report) = once(policy, model);
            let found = report.cosine.expect("one rule turns");
            assert_close(found, cosine(&before, &after.flat()), 1e-12);
            assert!(found < 1.0, "{policy}");
        }
    }
}

#[test]
fn the_cosine_of_two_rotations_is_unknown() {
    for policy in [
        "norm:1+value:0.2",
        "value:5+block-rms:0.1",
        "agc:0.01+norm:0.01",
    ] {
        let model = Model::random(&mut Random(3), 10.0);
        assert_eq!(once(policy, model).1.cosine, None, "{policy}");
    }
}

#[test]
fn the_cosine_with_zeros_and_extreme_values() {
    let tensor = |name: &str, gradient: &[f64]| {
        let mut tensor = Model::vector(gradient).0.remove(0);
        tensor.name = name.to_owned();
        tensor
    };
    for (unit, policy) in [
        (1e-200, "value:1e-200"),
        (1e200, "value:1e200"),
        (1.0, "value:1"),
    ] {
        let model = Model(vec![
            tensor("zero", &[0.0, 0.0]),
            tensor("w", &[3.0 * unit, unit]),
        ]);
        let (_, report) = once(policy, model);
        assert_close(report.cosine.unwrap(), 4.0 / 20.0_f64.sqrt(), 1e-12);
        assert_close(report.norm_before, 10.0_f64.sqrt() * unit, 1e-12);
        assert_eq!(
            (
                report.tensors[0].square_share,
                report.tensors[1].square_share
            ),
            (0.0, 1.0)
        );
    }
}

#[test]
fn the_cosine_is_accurate_at_every_scale() {
    for exponent in (-300..=300).step_by(10) {
        let unit = 10.0_f64.powi(exponent);
        for (policy, factor) in [("norm", 1.0), ("value", 0.3), ("agc", 0.5), ("norm", 1e-5)] {
            let mut model = Model::random(&mut Random(5), 1.0).stored_as("f64");
            for tensor in &mut model.0 {
                for (index, number) in tensor.gradient.to_f64().into_iter().enumerate() {
                    tensor.gradient.set(index, number * unit);
                }
            }
            let relative = |model: &Model| -> Vec<f64> {
                model
                    .flat()
                    .into_iter()
                    .map(|number| number / unit)
                    .collect()
            };
            let before = relative(&model);
            let (after, report) = once(&format!("{policy}:{:e}", unit * factor), model);
            assert_eq!(report.action, ClipAction::Clip, "{policy} {unit:e}");
            let found = report.cosine.unwrap();
            assert_close(found, cosine(&before, &relative(&after)), 1e-12);
            let alone = Model::vector(&[3.3 * unit, 0.7 * unit, 9.1 * unit]);
            assert_eq!(
                once(&format!("norm:{unit:e}"), alone).1.cosine,
                Some(1.0),
                "{unit:e}"
            );
        }
    }
}

/// The reported norm has the order of the report, whatever orders the rules use.
#[test]
fn norms_of_different_orders_are_not_mixed() {
    for (policy, before, after) in [
        ("normalize:100+global-norm:1000,p=inf", 4.0, 80.0),
        ("global-norm:1000,p=inf+normalize:100", 4.0, 80.0),
        ("normalize:100+global-norm:40,p=inf", 4.0, 40.0),
        ("global-norm:1,p=inf+normalize:100", 4.0, 80.0),
        ("normalize:100+global-norm:1000,p=1", 7.0, 140.0),
        ("norm:1,p=inf+global-norm:100,p=1", 4.0, 1.0),
        ("global-norm:100,p=1+norm:1,p=inf", 7.0, 1.75),
        ("value:2+global-norm:1000,p=inf", 4.0, 2.0),
        ("global-norm:1000,p=inf+value:3.5", 4.0, 3.5),
    ] {
        let report = clip_one(policy, &[3.0, 4.0]).1;
        assert_eq!(report.norm_before, before, "{policy}");
        assert_close(report.norm_after, after, 1e-14);
        assert_close(report.coefficient, after / before, 1e-14);
        assert_close(report.tensors[0].norm_after, after, 1e-14);
        assert_close(report.tensors[0].coefficient, after / before, 1e-14);
    }
}
