//! Detectors: nothing poisons them, and none stops training forever.

use gradclip::{ClipAction, ClipReport, Clipper, NonFinite, SkipReason, Unscaled};

use crate::fuzzing::Random;
use crate::model::{Model, Stored, step};
use crate::support::{POLICIES, assert_close, clipper, parts};

const BAD: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// Everything that a step decided, bit for bit; NaN equals itself.
fn step_in_words(clipper: &mut Clipper, model: Model) -> String {
    let (after, report) = step(clipper, model);
    format!("{:?} {report:?}", after.bits())
}

fn gradients_of_step(index: u64) -> Model {
    let spike = if index % 17 == 16 { 50.0 } else { 1.0 };
    Model::random(&mut Random(1000 + index), spike)
}

#[test]
fn skipped_non_finite_steps_do_not_change_the_state() {
    for policy in POLICIES {
        let mut undisturbed = clipper(policy, NonFinite::Skip);
        let mut disturbed = clipper(policy, NonFinite::Skip);
        for index in 0..60 {
            if [0, 1, 3, 7, 8, 20, 21, 22, 23, 24, 40].contains(&index) {
                let mut bad = Model::random(&mut Random(index), 1e4);
                let tensor = &mut bad.0[index as usize % 6];
                tensor.gradient.set(0, BAD[index as usize % 3]);
                let before = bad.bits();
                let state = disturbed.state();
                let (after, report) = step(&mut disturbed, bad);
                assert_eq!(report.skip_reason, Some(SkipReason::NonFinite), "{policy}");
                assert_eq!(after.bits(), before, "{policy}");
                assert_eq!(disturbed.state(), state, "{policy}");
            }
            let expected = step_in_words(&mut undisturbed, gradients_of_step(index));
            let found = step_in_words(&mut disturbed, gradients_of_step(index));
            assert_eq!(found, expected, "{policy} at step {index}");
        }
        assert_eq!(disturbed.state(), undisturbed.state(), "{policy}");
    }
}

#[test]
fn zeroed_values_are_clipped_as_zeros_without_learning() {
    for policy in POLICIES {
        let mut zeroing = clipper(policy, NonFinite::Zero);
        for index in 0..60 {
            let (mut zeros, mut bad) = (gradients_of_step(index), gradients_of_step(index));
            if index % 4 == 1 {
                let place = index as usize % 6;
                zeros.0[place].gradient.set(0, 0.0);
                bad.0[place].gradient.set(0, BAD[index as usize % 3]);
            }
            let learned = |clipper: &Clipper| {
                let mut state = clipper.state();
                state.remove("steps");
                state
            };
            let before = learned(&zeroing);
            let mut expecting = zeroing.clone();
            let (expected, expected_report) = step(&mut expecting, zeros);
            let (found, report) = step(&mut zeroing, bad);
            if report.action == ClipAction::Skip {
                continue;
            }
            let after = match report.non_finite {
                0 => learned(&expecting),
                _ => before,
            };
            assert_eq!(learned(&zeroing), after, "{policy} at step {index}");
            assert_eq!(found.bits(), expected.bits(), "{policy} at step {index}");
            assert_eq!(report.non_finite, u64::from(index % 4 == 1));
            let numbers = |report: &ClipReport| {
                let numbers = [report.norm_before, report.norm_after];
                let cosine = report.cosine.map(f64::to_bits);
                (
                    report.action,
                    report.threshold,
                    numbers.map(f64::to_bits),
                    cosine,
                )
            };
            assert_eq!(
                numbers(&report),
                numbers(&expected_report),
                "{policy} at {index}"
            );
        }
    }
}

/// Norms 5, non-finite, 5: the third is not clipped to the second.
#[test]
fn a_non_finite_step_does_not_lower_adagc() {
    let mut clipper = clipper("adagc:abs=100,warmup=3", NonFinite::Zero);
    for gradient in [[3.0, 4.0], [f64::NAN, 1e-6], [3.0, 4.0]] {
        let (after, _) = step(&mut clipper, Model::vector(&gradient));
        if gradient[0] == 3.0 {
            assert_eq!(after.flat(), gradient);
        }
    }
}

#[test]
fn steps_of_zeros_do_not_make_spikes_ordinary() {
    for policy in [
        "autoclip:50",
        "median:2",
        "zclip:warmup=10,max=inf",
        "skip:3,window=10",
    ] {
        let mut clipper = clipper(policy, NonFinite::Error);
        let mut passed = 0;
        for index in 0..150 {
            let norm = match index {
                0..50 => 0.0,
                100.. if index % 3 == 0 => 1000.0,
                _ => 1.0 + 0.01 * f64::from(index % 7),
            };
            let report = step(&mut clipper, Model::vector(&[norm])).1;
            assert!(
                norm == 1000.0 || report.action != ClipAction::Skip,
                "{policy} {index}"
            );
            passed += u32::from(norm == 1000.0 && report.norm_after == norm);
        }
        assert_eq!(passed, 0, "{policy}");
    }
}

#[test]
fn errors_do_not_change_the_state() {
    for policy in POLICIES {
        let mut clipper = clipper(policy, NonFinite::Error);
        for index in 0..20 {
            step(&mut clipper, gradients_of_step(index));
        }
        let state = clipper.state();
        let mut bad = gradients_of_step(20);
        bad.0[2].gradient.set(4, f64::NAN);
        let before = bad.bits();
        assert!(clipper.clip(Unscaled::single(&mut bad)).is_err());
        assert_eq!((clipper.state(), bad.bits()), (state, before), "{policy}");
    }
}

#[test]
fn a_non_finite_loss_is_ignored() {
    let mut without = clipper("skip:3,window=8", NonFinite::Skip);
    let mut with = clipper("skip:3,window=8", NonFinite::Skip);
    for index in 0..40 {
        step(&mut without, gradients_of_step(index));
        let gradients = Unscaled::single(gradients_of_step(index));
        let _ = with
            .clip_with_loss(gradients, BAD[index as usize % 3])
            .expect("finite");
        assert_eq!(with.state(), without.state());
    }
}

#[test]
fn skips_in_a_row_are_bounded_and_a_new_level_is_followed() {
    let mut clipper = clipper("skip:3,window=8,limit=4", NonFinite::Skip);
    let mut sign = 1.0;
    let mut level = |level: f64| {
        sign = -sign;
        Model::vector(&[level * (1.0 + sign / 20.0)])
    };
    for _ in 0..20 {
        assert_eq!(step(&mut clipper, level(1.0)).1.action, ClipAction::Keep);
    }
    for skipped in 1..=4 {
        let mut expected = clipper.state();
        let spike = level(100.0);
        let before = spike.bits();
        let (after, report) = step(&mut clipper, spike);
        assert!(
            matches!(report.skip_reason, Some(SkipReason::Norm { .. })),
            "{report:?}"
        );
        assert_eq!(after.bits(), before);
        expected.insert("0.skip.skipped".to_owned(), vec![f64::from(skipped)]);
        assert_eq!(clipper.state(), expected);
    }
    for _ in 0..20 {
        assert_eq!(step(&mut clipper, level(100.0)).1.action, ClipAction::Keep);
    }
    let spike = step(&mut clipper, level(1e4)).1;
    let Some(SkipReason::Norm { norm, limit }) = spike.skip_reason else {
        panic!("{spike:?}")
    };
    assert!(
        (9e3..1.1e4).contains(&norm) && (100.0..200.0).contains(&limit),
        "{norm} {limit}"
    );
    assert_eq!(step(&mut clipper, level(1.0)).1.action, ClipAction::Keep);
}

#[test]
fn skip_judges_the_raw_gradient_at_any_position() {
    for other in [
        "global-norm:1",
        "value:0.01",
        "normalize:100",
        "norm:0.1",
        "autoclip:10",
    ] {
        let mut first = clipper(&format!("skip:3,window=8,limit=4+{other}"), NonFinite::Skip);
        let mut last = clipper(&format!("{other}+skip:3,window=8,limit=4"), NonFinite::Skip);
        let mut skipped = 0;
        for index in 0..60 {
            let (expected, expected_report) = step(&mut first, gradients_of_step(index));
            let (found, report) = step(&mut last, gradients_of_step(index));
            assert_eq!(found.bits(), expected.bits(), "{other} at step {index}");
            assert_eq!(
                report.skip_reason, expected_report.skip_reason,
                "{other} at {index}"
            );
            let (first, last) = (first.state(), last.state());
            assert_eq!(
                first["0.skip.norms"], last["1.skip.norms"],
                "{other} at {index}"
            );
            skipped += u32::from(report.action == ClipAction::Skip);
        }
        assert_eq!(skipped, 3, "{other}");
    }
}

#[test]
fn an_outlier_loss_is_skipped_as_in_llm_c() {
    // llm.c: 256 uniform values are not outliers, and then 10 is more than 5 deviations away.
    let mut clipper = clipper("skip:5", NonFinite::Error);
    let mut random = Random(1337);
    for _ in 0..256 {
        let loss = f64::from(random.value());
        let gradients = Unscaled::single(Model::vector(&[1.0]));
        let outcome = clipper.clip_with_loss(gradients, loss).expect("finite");
        assert_eq!(outcome.report().action, ClipAction::Keep);
    }
    let gradients = Unscaled::single(Model::vector(&[1.0]));
    let outcome = clipper.clip_with_loss(gradients, 10.0).expect("finite");
    let reason = outcome.report().skip_reason;
    assert!(
        matches!(reason, Some(SkipReason::Loss { loss: 10.0, .. })),
        "{reason:?}"
    );
}

#[test]
fn a_spike_is_clipped_to_a_multiple_of_the_median_as_in_icefall() {
    let mut clipper = clipper("median:2", NonFinite::Error);
    for index in 0..100 {
        // With nine ordinary norms per large one the median does not move.
        let norm = if index % 10 == 9 { 30.0 } else { 3.0 };
        step(&mut clipper, Model::vector(&[norm]));
    }
    let (after, report) = step(&mut clipper, Model::vector(&[600.0, 800.0]));
    assert_eq!((report.threshold, report.norm_before), (Some(6.0), 1000.0));
    assert_eq!((report.norm_after, report.action), (6.0, ClipAction::Clip));
    for (found, expected) in after.flat().into_iter().zip([3.6, 4.8]) {
        assert_close(found, expected, 1e-15);
    }
    assert_eq!(
        step(&mut clipper, Model::vector(&[6.0])).1.action,
        ClipAction::Keep
    );
}

#[test]
fn occasional_zero_gradients_do_not_stop_adagc() {
    let mut clipper = clipper("adagc:warmup=5", NonFinite::Error);
    for index in 0..40 {
        let mut model = gradients_of_step(index % 16);
        let before = clipper.state();
        let is_zero = index % 3 == 0;
        if is_zero {
            let biases = model.0[1].gradient.to_f64().len();
            (0..biases).for_each(|place| model.0[1].gradient.set(place, 0.0));
        }
        let (after, _) = step(&mut clipper, model);
        let name = "0.adagc.norm.layers.0.bias";
        if is_zero {
            assert_eq!(clipper.state().get(name), before.get(name));
        } else {
            assert!(clipper.state()[name][0] > 1e-3 && after.0[1].gradient.to_f64()[0] != 0.0);
        }
    }
}

#[test]
fn a_warm_up_of_zeros_does_not_stop_zclip() {
    for policy in ["zclip:warmup=5", "zclip:warmup=5,max=inf"] {
        let mut clipper = clipper(policy, NonFinite::Error);
        for _ in 0..8 {
            step(&mut clipper, Model::vector(&[0.0, 0.0]));
        }
        for _ in 0..5 {
            let report = step(&mut clipper, Model::vector(&[3.0, 0.0])).1;
            assert!(report.norm_after >= 0.3, "{policy}: {report:?}");
        }
        let mean = clipper.state()["0.zclip.mean-and-variance"][0];
        assert!(mean > 0.05, "{policy}: {mean}");
    }
}

#[test]
fn a_percentile_of_zero_clips_nothing() {
    let mut clipper = clipper("autoclip:10", NonFinite::Error);
    for _ in 0..20 {
        step(&mut clipper, Model::vector(&[0.0]));
    }
    let (after, report) = step(&mut clipper, Model::vector(&[3.0]));
    // As for the first step.
    assert_eq!((after.flat(), report.action), (vec![3.0], ClipAction::Keep));
    assert_eq!(report.threshold, Some(3.0));
}

#[test]
fn infinitely_many_deviations_never_skip() {
    let mut clipper = clipper("skip:inf,window=2", NonFinite::Error);
    for norm in [0.0, 0.0, 0.0, 1.0, 1e300, 0.0] {
        let report = step(&mut clipper, Model::vector(&[norm])).1;
        assert_eq!(report.action, ClipAction::Keep);
        assert!(
            report.threshold.is_none_or(|limit| limit == f64::INFINITY),
            "{report:?}"
        );
    }
}

#[test]
fn a_step_of_zeros_resets_the_count_of_skips() {
    let spike = || vec![("w", vec![1e3_f32])];
    let mut clipper = clipper("skip:3,window=8,limit=2", NonFinite::Skip);
    let mut is_skipped = |gradients: Vec<(&'static str, Vec<f32>)>| {
        let outcome = clipper.clip(Unscaled::single(gradients)).unwrap();
        parts(outcome).1.action == ClipAction::Skip
    };
    for index in 0..16 {
        assert!(!is_skipped(vec![(
            "w",
            vec![1.0 + 0.1 * (index % 3) as f32]
        )]));
    }
    assert!(is_skipped(spike()));
    assert!(!is_skipped(vec![("w", vec![0.0])]));
    // As the third in a row it would be applied.
    assert!(is_skipped(spike()) && is_skipped(spike()));
    assert!(!is_skipped(spike()));
}
