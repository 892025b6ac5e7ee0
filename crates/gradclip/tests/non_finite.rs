//! NaN and infinity under each rule.

use gradclip::{ClipAction, ClipError, NonFinite, Outcome};

use crate::support::{Named, bits, try_clip};

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
fn error_names_the_first_tensor_and_leaves_every_bit() {
    for (policy, bad) in POLICIES
        .into_iter()
        .flat_map(|policy| BAD.map(|bad| (policy, bad)))
    {
        let mut kept = gradients(bad);
        let error = try_clip(policy, NonFinite::Error, &mut kept).unwrap_err();
        assert_eq!(
            error,
            ClipError::NonFinite {
                tensor: "bad".to_owned(),
                count: 2
            }
        );
        assert_eq!(all_bits(&kept), all_bits(&gradients(bad)));
    }
    let message = ClipError::NonFinite {
        tensor: "layers.0.weight".to_owned(),
        count: 3,
    };
    assert_eq!(
        message.to_string(),
        "gradient of `layers.0.weight` has 3 non-finite values (NaN or infinity); no gradient was \
         changed"
    );
}

#[test]
fn skip_leaves_every_bit_and_says_so() {
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
        assert!(report.norm_before.is_finite() && report.norm_before >= 8.0);
        assert_eq!(
            (report.norm_after, report.coefficient, report.cosine),
            (0.0, 0.0, 1.0)
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
fn zero_clips_the_rest_as_if_the_bad_elements_were_zero() {
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
fn nothing_but_non_finite_values() {
    for policy in POLICIES {
        let outcome = try_clip(policy, NonFinite::Zero, vec![("w", vec![f32::NAN; 40])]).unwrap();
        let report = outcome.report();
        assert_eq!(
            (report.norm_before, report.coefficient, report.cosine),
            (0.0, 1.0, 1.0)
        );
        assert_eq!((report.non_finite, report.action), (40, ClipAction::Keep));
        let Outcome::Apply(clipped) = outcome else {
            panic!("not applied")
        };
        assert_eq!(clipped.gradients()[0].1, [0.0; 40]);
    }
}

#[test]
fn every_rule_is_the_same_for_finite_gradients() {
    for policy in POLICIES {
        let run = |rule| try_clip(policy, rule, gradients(2.0)).unwrap();
        assert_eq!(run(NonFinite::Error), run(NonFinite::Skip));
        assert_eq!(run(NonFinite::Error), run(NonFinite::Zero));
    }
}
