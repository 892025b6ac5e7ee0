//! Bitwise guarantees: what is kept, and independence of threads.

use gradclip::{ClipAction, Gradient, NonFinite, Outcome, Unscaled};

use crate::fuzzing::Random;
use crate::support::{Named, assert_close, bits, clip, clip_one, clipper};

#[test]
fn a_norm_equal_to_the_threshold_keeps_its_bits() {
    for policy in [
        "global-norm:5",
        "norm:5",
        "value:4",
        "norm:7,p=1",
        "global-norm:4,p=inf",
    ] {
        let values = [3.0, -4.0, 0.0, -0.0];
        let (after, report) = clip_one(policy, &values);
        assert_eq!(
            (report.action, bits(&after)),
            (ClipAction::Keep, bits(&values)),
            "{policy}"
        );
        assert_eq!((report.coefficient, report.cosine), (1.0, Some(1.0)));
    }
    let below = 5.0_f64.next_down();
    assert_eq!(
        clip_one(&format!("global-norm:{below}"), &[3.0, 4.0])
            .1
            .action,
        ClipAction::Clip
    );
}

#[test]
fn value_at_the_rounded_bound_is_kept() {
    // 0.1 as f32 is larger than 0.1 as f64; the bound is rounded to storage.
    let (after, report) = clip_one("value:0.1", &[0.1, 0.1_f32.next_up(), -5.0]);
    assert_eq!(after, [0.1, 0.1, -0.1]);
    assert_close(report.clipped_share, 2.0 / 3.0, 1e-15);
    assert_eq!(clip_one("value:0.1", &after).1.action, ClipAction::Keep);
}

#[test]
fn the_kept_tensors_of_a_clipped_step_keep_their_bits() {
    let small = vec![f32::from_bits(1), -0.0, 0.1, f32::MIN_POSITIVE];
    for policy in ["norm:1", "value:1"] {
        let gradients: Named = vec![("small", small.clone()), ("large", vec![7.0, 9.0])];
        let (after, report) = clip(policy, gradients);
        assert_eq!(report.action, ClipAction::Clip);
        assert_eq!(bits(&after[0].1), bits(&small));
    }
}

#[test]
fn scaling_rounds_once() {
    let values = Random(3).values(1000);
    let (after, report) = clip_one("global-norm:0.7", &values);
    for (before, after) in values.iter().zip(after) {
        assert_eq!(after, (f64::from(*before) * report.coefficient) as f32);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Values over many orders of magnitude make sums sensitive to the order of additions.
    let mut values = Random(4).values(1_500_001);
    for (index, value) in values.iter_mut().enumerate() {
        *value *= 10.0_f32.powi((index % 13) as i32 - 6);
    }
    values[1_234_567] = f32::NAN;
    for policy in [
        "none",
        "value:0.5",
        "norm:3",
        "global-norm:3",
        "global-norm:3,p=1.5",
    ] {
        let run = |threads: usize| {
            let mut clipper = clipper(policy, NonFinite::Zero).with_threads(threads);
            let gradients = vec![("large", values.clone()), ("small", vec![1.0, 2.0])];
            let Ok(Outcome::Apply(clipped)) = clipper.clip(Unscaled::single(gradients)) else {
                panic!("NonFinite::Zero always applies");
            };
            let (gradients, report) = clipped.into_parts();
            (bits(&gradients[0].1), format!("{report:?}"))
        };
        let one = run(1);
        for threads in (2..=8).chain([0, 1000]) {
            assert!(
                run(threads) == one,
                "{policy} differs with {threads} threads"
            );
        }
    }
}

#[test]
fn the_norm_does_not_depend_on_how_elements_are_grouped() {
    let values = Random(5).values(300_000);
    let whole = clip_one("none", &values).1.norm_before;
    for order in ["1", "2", "3", "inf"] {
        let policy = format!("global-norm:1,p={order}");
        let whole = clip_one(&policy, &values).1;
        for size in [1000, 65_536, 99_999] {
            let parts: Vec<(String, Vec<f32>)> = values
                .chunks(size)
                .enumerate()
                .map(|(index, part)| (index.to_string(), part.to_vec()))
                .collect();
            let report = clip(&policy, parts).1;
            assert_close(report.norm_before, whole.norm_before, 1e-13);
            assert_close(report.coefficient, whole.coefficient, 1e-13);
        }
    }
    assert!(whole > 100.0);
}

#[test]
#[should_panic(expected = "same tensors in the same order")]
fn an_inconsistent_visit_panics() {
    struct Fickle(bool, Vec<f32>);
    impl gradclip::Gradients for Fickle {
        fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
            self.0 = !self.0;
            let name = if self.0 { "first" } else { "second" };
            visitor(Gradient::new(name, self.1.as_mut_slice()));
        }
    }
    clip("global-norm:1", Fickle(false, vec![9.0]));
}
