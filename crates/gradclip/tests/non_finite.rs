//! NaN and infinity under each rule.

use gradclip::{ClipAction, ClipError, NonFinite, Outcome, SkipReason, TensorReport, Unscaled};

use crate::model::{Buffer, Model, STORAGES, Stored, Tensor};
use crate::support::{Named, POLICIES as ALL_POLICIES, bits, clipper, try_clip};

const POLICIES: [&str; 6] = [
    "none",
    "value:1",
    "norm:1",
    "global-norm:1",
    "norm:1,p=3",
    "global-norm:1,p=inf",
];
const BAD: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn gradients(bad: f32) -> Named {
    vec![
        ("fine", vec![6.0, -0.0]),
        ("bad", vec![bad, 8.0, bad]),
        ("worse", vec![bad]),
    ]
}

fn all_bits(gradients: &Named) -> Vec<Vec<u32>> {
    gradients.iter().map(|(_, values)| bits(values)).collect()
}

#[test]
fn error_names_every_affected_tensor_and_keeps_every_bit() {
    for (policy, bad) in POLICIES
        .into_iter()
        .flat_map(|policy| BAD.map(|bad| (policy, bad)))
    {
        let mut kept = gradients(bad);
        let error = try_clip(policy, NonFinite::Error, &mut kept).unwrap_err();
        assert_eq!(
            error,
            ClipError::NonFinite {
                tensors: vec![("bad".to_owned(), 2), ("worse".to_owned(), 1)],
            }
        );
        assert_eq!(all_bits(&kept), all_bits(&gradients(bad)));
    }
    let error = ClipError::NonFinite {
        tensors: vec![("layers.0.weight".to_owned(), 3), ("head".to_owned(), 1)],
    };
    assert_eq!(
        error.to_string(),
        "gradient of `layers.0.weight` has 3 non-finite values, gradient of `head` has 1 \
         non-finite value (NaN or infinity); no gradient was changed"
    );
}

#[test]
fn skip_keeps_every_bit_and_reports_it() {
    for (policy, bad) in POLICIES
        .into_iter()
        .flat_map(|policy| BAD.map(|bad| (policy, bad)))
    {
        let outcome = try_clip(policy, NonFinite::Skip, gradients(bad)).unwrap();
        let Outcome::Skip {
            gradients: kept,
            report,
        } = outcome
        else {
            panic!("{policy} was not skipped");
        };
        assert_eq!(all_bits(&kept), all_bits(&gradients(bad)));
        assert_eq!((report.action, report.non_finite), (ClipAction::Skip, 3));
        assert_eq!(report.first_non_finite.as_deref(), Some("bad"));
        assert_eq!(report.skip_reason, Some(SkipReason::NonFinite));
        assert!(report.norm_before.is_nan());
        let unknown = |tensor: &TensorReport| tensor.norm_before.is_nan();
        assert_eq!(
            report.tensors.iter().map(unknown).collect::<Vec<bool>>(),
            [false, true, true]
        );
        assert_eq!(
            (report.norm_after, report.coefficient, report.cosine),
            (0.0, 0.0, Some(1.0))
        );
        assert!(
            report
                .tensors
                .iter()
                .all(|tensor| tensor.coefficient == 0.0)
        );
    }
}

#[test]
fn zero_clips_as_if_non_finite_elements_were_zero() {
    for (policy, bad) in POLICIES
        .into_iter()
        .flat_map(|policy| BAD.map(|bad| (policy, bad)))
    {
        let Ok(Outcome::Apply(clipped)) = try_clip(policy, NonFinite::Zero, gradients(bad)) else {
            panic!("{policy} was not applied");
        };
        let Ok(Outcome::Apply(expected)) = try_clip(policy, NonFinite::Error, gradients(0.0))
        else {
            panic!("{policy} refused finite gradients");
        };
        let (after, report) = clipped.into_parts();
        let (expected_after, expected_report) = expected.into_parts();
        assert_eq!(all_bits(&after), all_bits(&expected_after));
        assert_eq!((report.non_finite, expected_report.non_finite), (3, 0));
        assert_eq!(report.first_non_finite.as_deref(), Some("bad"));
        assert_eq!(report.norm_before, expected_report.norm_before);
        assert_eq!(report.norm_after, expected_report.norm_after);
        assert_eq!(report.cosine, expected_report.cosine);
        assert_eq!(report.clipped_share, expected_report.clipped_share);
    }
}

#[test]
fn zero_below_the_threshold_keeps_the_finite_bits() {
    let outcome = try_clip("global-norm:99", NonFinite::Zero, gradients(f32::NAN)).unwrap();
    assert_eq!(
        (outcome.report().action, outcome.report().norm_before),
        (ClipAction::Keep, 10.0)
    );
    let Outcome::Apply(clipped) = outcome else {
        panic!("not applied")
    };
    assert_eq!(all_bits(clipped.gradients()), all_bits(&gradients(0.0)));
}

#[test]
fn only_non_finite_values() {
    for policy in POLICIES {
        let outcome = try_clip(policy, NonFinite::Zero, vec![("w", vec![f32::NAN; 40])]).unwrap();
        let report = outcome.report();
        assert_eq!(
            (report.norm_before, report.coefficient, report.cosine),
            (0.0, 1.0, Some(1.0))
        );
        assert_eq!((report.non_finite, report.action), (40, ClipAction::Keep));
        let Outcome::Apply(clipped) = outcome else {
            panic!("not applied")
        };
        assert_eq!(clipped.gradients()[0].1, [0.0; 40]);
    }
}

#[test]
fn all_rules_agree_on_finite_gradients() {
    for policy in POLICIES {
        let run = |rule| try_clip(policy, rule, gradients(2.0)).unwrap();
        assert_eq!(run(NonFinite::Error), run(NonFinite::Skip));
        assert_eq!(run(NonFinite::Error), run(NonFinite::Zero));
    }
}

/// The layouts of PyTorch's `test_clip_grad_norm_error_if_nonfinite`: all elements or one element,
/// alone or after a finite tensor.
fn torch_layouts(storage: &str, special: f64) -> Vec<Model> {
    let tensor = |name: &str, gradient: Vec<f64>| Tensor {
        name: name.to_owned(),
        shape: vec![gradient.len()],
        gradient: Buffer::of(storage, &gradient),
        parameter: Some(Buffer::of(storage, &vec![1.0; gradient.len()])),
    };
    let all = vec![special; 10];
    let mut single = vec![1.0; 10];
    single[7] = special;
    let mut layouts = Vec::new();
    for gradient in [all, single] {
        let finite = tensor("finite", vec![1.0; 10]);
        let special = tensor("special", gradient);
        layouts.push(Model(vec![special.clone()]));
        layouts.push(Model(vec![finite.clone(), special.clone()]));
        layouts.push(Model(vec![special, finite]));
    }
    layouts
}

#[test]
fn torch_non_finite_layouts_fail_by_name_and_keep_every_bit() {
    let orders = ["0.1", "1", "2", "3.5", "inf"];
    let norms = ["norm", "global-norm"]
        .into_iter()
        .flat_map(|rule| orders.map(|order| format!("{rule}:1,p={order}")));
    let policies: Vec<String> = norms.chain(ALL_POLICIES.map(str::to_owned)).collect();
    for policy in &policies {
        for storage in STORAGES {
            for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for mut model in torch_layouts(storage, special) {
                    let before = model.bits();
                    let mut clipper = clipper(policy, NonFinite::Error);
                    let state = clipper.state();
                    let result = clipper.clip(Unscaled::single(&mut model));
                    let Err(ClipError::NonFinite { tensors }) = result else {
                        panic!("{policy} accepts {special} in {storage}: {result:?}")
                    };
                    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
                    assert_eq!(names, ["special"]);
                    assert!([1, 10].contains(&tensors[0].1));
                    assert_eq!((model.bits(), clipper.state()), (before, state), "{policy}");
                }
            }
        }
    }
}

#[test]
fn torch_huge_but_finite_gradients_are_clipped_for_every_order() {
    // PyTorch refuses 2e200 for p = 2 and 3.5, whose powers overflow f64. Here the norm is scaled
    // and finite: no error, and a bounded result.
    for special in [2e22, -2e22, 2e200, -2e200, f64::MAX] {
        for order in ["0.1", "1", "2", "3.5", "inf"] {
            for model in torch_layouts("f64", special) {
                let largest = special.abs();
                let policy = format!("global-norm:1,p={order}");
                let outcome = try_clip(&policy, NonFinite::Error, model).expect("finite");
                let Outcome::Apply(clipped) = outcome else {
                    panic!("{policy} skipped {special}")
                };
                let report = clipped.report();
                assert!(report.norm_before.is_finite() && report.norm_before >= largest);
                assert_eq!((report.norm_after, report.action), (1.0, ClipAction::Clip));
                let after = clipped.gradients().clone();
                assert!(after.is_finite() && after.flat().iter().any(|value| *value != 0.0));
                let again = try_clip(&policy, NonFinite::Error, after).expect("finite");
                let norm = again.report().norm_before;
                // At p = 0.1 the tenth power of a sum amplifies rounding errors, and a norm above
                // f64::MAX saturates.
                let saturated = report.norm_before == f64::MAX;
                assert!(
                    (norm - 1.0).abs() < 1e-12 || saturated,
                    "{policy} {special}: {norm}"
                );
            }
        }
    }
}

#[test]
fn tensorflow_value_does_not_hide_an_infinity() {
    // TensorFlow clamps [NaN, inf, -inf] at 4 to [NaN, 4, -4]. Here an infinity is not a large
    // gradient but a broken step, handled by the rule for non-finite values.
    let values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 5.0];
    let broken = || vec![("w", values.clone())];
    let error = try_clip("value:4", NonFinite::Error, broken()).unwrap_err();
    let tensors = vec![("w".to_owned(), 3)];
    assert_eq!(error, ClipError::NonFinite { tensors });
    let outcome = try_clip("value:4", NonFinite::Skip, broken()).unwrap();
    assert!(matches!(outcome, Outcome::Skip { .. }));
    let Ok(Outcome::Apply(clipped)) = try_clip("value:4", NonFinite::Zero, broken()) else {
        panic!("NonFinite::Zero applies")
    };
    assert_eq!(clipped.gradients()[0].1, [0.0, 0.0, 0.0, 4.0]);
}
