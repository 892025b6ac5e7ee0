//! Deferred scaling: what is written, what is not, and the factors.

use gradclip::{ClipReport, Clipper, NonFinite, Outcome, Unscaled};

use crate::fuzzing::Random;
use crate::support::{Named, POLICIES, bits, clipper, parts};

fn deferred(clipper: &mut Clipper, gradients: Named) -> (Named, Option<Vec<f64>>, ClipReport) {
    match clipper.clip_deferred(Unscaled::single(gradients), Some(1.0)) {
        Ok(Outcome::Apply(deferred)) => {
            let scaled = deferred.clone().scale().report().clone();
            let (gradients, factors, mut report) = deferred.into_parts();
            // Elements lost to rounding are only counted when scaling.
            report.rounded_to_zero = report.rounded_to_zero.or(scaled.rounded_to_zero);
            assert_eq!(report, scaled);
            (gradients, Some(factors), report)
        }
        Ok(Outcome::Skip { gradients, report }) => (gradients, None, report),
        Err(error) => panic!("{error}"),
    }
}

/// Whether a policy defers all writing to the optimizer for the gradients of the test.
fn needs_no_write(policy: &str) -> bool {
    let writes = ["value", "agc", "+"];
    !writes.iter().any(|part| policy.contains(part))
}

#[test]
fn factors_times_gradients_equal_clipping_in_place() {
    for policy in POLICIES.iter().filter(|policy| !policy.contains("agc")) {
        let mut in_place = clipper(policy, NonFinite::Zero);
        let mut deferring = clipper(policy, NonFinite::Zero);
        let mut random = Random(7);
        for step in 0..30 {
            let size = [0.01, 1.0, 30.0][step % 3];
            let mut values = |count| {
                let values = random.values(count).into_iter();
                values.map(|value| size * value).collect()
            };
            let given: Named = vec![("a.weight", values(40)), ("b", values(3))];
            let loss = Unscaled::single(given.clone());
            let wanted = parts(in_place.clip_with_loss(loss, 1.0).unwrap());
            let (mut gradients, factors, report) = deferred(&mut deferring, given.clone());
            assert_eq!(report, wanted.1, "{policy}, step {step}");
            if needs_no_write(policy) {
                assert_eq!(gradients, given, "{policy}, step {step}");
            }
            for ((_, values), factor) in gradients.iter_mut().zip(factors.iter().flatten()) {
                for value in values {
                    *value = (f64::from(*value) * factor) as f32;
                }
            }
            for ((name, given), (_, wanted)) in gradients.iter().zip(&wanted.0) {
                assert_eq!(bits(given), bits(wanted), "{policy}, step {step}, {name}");
            }
        }
        assert_eq!(deferring.state(), in_place.state(), "{policy}");
    }
}

#[test]
fn factors_that_overflow_are_applied_in_place() {
    // The factor is far above the largest f32, and no product is.
    let (gradients, factors, _) = deferred(
        &mut clipper("normalize:3e38", NonFinite::Error),
        vec![("w", vec![3e-30, 4e-30]), ("b", vec![-3e-30])],
    );
    assert_eq!(gradients[0].1, [3e-30, 4e-30]);
    assert!(factors.unwrap()[0] > 1e67);
    // One product overflows and saturates.
    let huge = vec![("w", vec![1.0, f32::MIN_POSITIVE])];
    let policy = "normalize:1e39";
    let (gradients, factors, _) = deferred(&mut clipper(policy, NonFinite::Error), huge);
    assert_eq!(gradients[0].1[0], f32::MAX);
    assert_eq!(factors, Some(vec![1.0]));
}

#[test]
fn a_chain_writes_all_changes_except_the_last() {
    let mut clipper = clipper("value:2+global-norm:1", NonFinite::Error);
    let (gradients, factors, _) = deferred(&mut clipper, vec![("w", vec![3.0, 0.0])]);
    assert_eq!(gradients[0].1, [2.0, 0.0]);
    assert_eq!(factors, Some(vec![0.5]));
}

#[test]
fn underflow_is_counted_when_scaling() {
    let tiny = 2.0 * f32::from_bits(1);
    for (policy, before, after) in [
        ("global-norm:0.6", Some(0), 0),
        ("global-norm:0.26", None, 0),
        ("global-norm:0.125", None, 2),
        // The first rule writes, and underflows all but the largest element.
        ("global-norm:0.125+global-norm:0.01", None, 2),
    ] {
        let gradients = vec![("w", vec![1.0, tiny, -tiny, 0.0])];
        let outcome =
            clipper(policy, NonFinite::Error).clip_deferred(Unscaled::single(gradients), None);
        let Ok(Outcome::Apply(deferred)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(deferred.report().rounded_to_zero, before, "{policy}");
        assert_eq!(
            deferred.scale().report().rounded_to_zero,
            Some(after),
            "{policy}"
        );
    }
}
