//! Decisions from measures, for tensors that are not in host memory.

use gradclip::{
    ClipAction, ClipError, Gradient, Gradients, Measure, NonFinite, Scan, SkipReason, Unscaled,
    scan,
};

use crate::fuzzing::Random;
use crate::support::{Named, POLICIES, bits, clip, clipper, parts, try_clip};

fn measures(gradients: &Named) -> Vec<Measure> {
    let tensors: Vec<&[f32]> = gradients.iter().map(|(_, values)| &values[..]).collect();
    let named = gradients.iter().zip(scan(&tensors, 1));
    named
        .map(|((name, values), found)| Measure::from_scan(*name, values.len(), found))
        .collect()
}

/// Applies a decision, as a device would.
fn apply_decision(gradients: &mut Named, factors: &[f64], clamps: &[Option<f64>]) {
    for (((_, values), factor), clamp) in gradients.iter_mut().zip(factors).zip(clamps) {
        let bound = clamp.unwrap_or(f64::INFINITY);
        for value in values {
            *value = (f64::from(*value) * factor).clamp(-bound, bound) as f32;
        }
    }
}

fn gradients(random: &mut Random, size: f32) -> Named {
    let mut values = |count| {
        let values = random.values(count).into_iter();
        values.map(|value| size * value).collect()
    };
    vec![
        ("a.weight", values(40)),
        ("a.bias", values(5)),
        ("b", values(3)),
    ]
}

#[test]
fn decisions_equal_clipping_bit_for_bit() {
    let decidable = |policy: &&&str| {
        let clipped_elsewhere = policy.contains("agc") || policy.contains(",p=");
        !clipped_elsewhere && !policy.contains('+')
    };
    let mut decided = 0;
    for policy in POLICIES.iter().filter(decidable) {
        let mut here = clipper(policy, NonFinite::Skip);
        let mut elsewhere = clipper(policy, NonFinite::Skip);
        let mut random = Random(3);
        for index in 0..40 {
            let size = [0.05, 1.0, 40.0][index % 3];
            let mut given = gradients(&mut random, size);
            if index % 7 == 5 {
                given[1].1[2] = f32::NAN;
            }
            let decision = elsewhere.decide(&measures(&given), Some(1.0)).unwrap();
            let mut carried = given.clone();
            match decision.skip {
                Some(_) => assert_eq!(decision.report.action, ClipAction::Skip),
                None => apply_decision(&mut carried, &decision.factors, &decision.clamps),
            }
            elsewhere.learn(&decision);
            let (clipped, report) =
                parts(here.clip_with_loss(Unscaled::single(given), 1.0).unwrap());
            for ((name, carried), (_, clipped)) in carried.iter().zip(&clipped) {
                assert_eq!(
                    bits(carried),
                    bits(clipped),
                    "{policy}, step {index}, {name}"
                );
            }
            assert_eq!(decision.report.action, report.action, "{policy}");
            assert_eq!(decision.report.threshold, report.threshold, "{policy}");
            if !policy.contains("value") {
                let known = [decision.report.norm_before, decision.report.norm_after];
                let told = [report.norm_before, report.norm_after];
                assert_eq!(known.map(f64::to_bits), told.map(f64::to_bits), "{policy}");
            }
            decided += u32::from(report.action == ClipAction::Clip);
        }
        assert_eq!(elsewhere.state(), here.state(), "{policy}");
    }
    assert!(decided > 100, "{decided}");
}

#[test]
fn a_decision_changes_nothing_until_it_is_learned() {
    let clipper = clipper("autoclip:10+skip:3,window=8", NonFinite::Skip);
    let before = clipper.state();
    let measures = [Measure::from_norm("w", 4, 2.0)];
    let first = clipper.decide(&measures, None).unwrap();
    let second = clipper.decide(&measures, None).unwrap();
    assert_eq!(first.report, second.report);
    assert_eq!(clipper.state(), before);
}

#[test]
fn chains_compute_measures() {
    let clipper = clipper("norm:4+global-norm:2.5", NonFinite::Skip);
    let measures = [
        Measure::from_norm("w", 4, 8.0),
        Measure::from_norm("b", 1, 3.0),
    ];
    let decision = clipper.decide(&measures, None).unwrap();
    assert_eq!(decision.factors, [0.25, 0.5]);
    assert_eq!(decision.report.norm_after, 2.5);
    assert_eq!(decision.clamps, [None, None]);
}

#[test]
fn the_effect_of_a_clamp_is_unknown() {
    let clipper = clipper("value:2", NonFinite::Skip);
    let given = vec![("w", vec![3.0, 1.0]), ("b", vec![1.0])];
    let decision = clipper.decide(&measures(&given), None).unwrap();
    assert_eq!(decision.clamps, [Some(2.0), None]);
    assert_eq!(decision.report.action, ClipAction::Clip);
    assert!(decision.report.norm_after.is_nan() && decision.report.cosine.is_none());
    assert!(decision.report.tensors[0].norm_after.is_nan());
    assert_eq!(decision.report.tensors[1].norm_after, 1.0);
}

#[test]
fn rules_that_need_more_than_measures_are_refused() {
    let norms = [Measure::from_norm("w", 4, 8.0)];
    for (policy, rule, problem) in [
        ("agc:0.01", "agc", "needs the elements"),
        ("norm:1,p=3", "norm", "needs norms of its own order"),
        ("value:1", "value", "needs the largest magnitude"),
    ] {
        let error = clipper(policy, NonFinite::Skip)
            .decide(&norms, None)
            .unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains(&format!("`{rule}`")) && words.contains(problem),
            "{words}"
        );
    }
    let scanned = measures(&vec![("w", vec![1.0])]);
    let error = clipper("value:2+norm:1", NonFinite::Skip)
        .decide(&scanned, None)
        .unwrap_err();
    assert!(matches!(error, ClipError::Measures { rule: "norm", .. }));
    let unknown = [Measure::from_norm("w", 4, f64::NAN)];
    let skipped = clipper("global-norm:1", NonFinite::Skip)
        .decide(&unknown, None)
        .unwrap();
    assert_eq!(skipped.skip, Some(SkipReason::NonFinite));
    let error = clipper("global-norm:1", NonFinite::Error)
        .decide(&unknown, None)
        .unwrap_err();
    assert!(matches!(error, ClipError::NonFinite { .. }));
}

/// One tensor that counts its visits.
#[derive(Debug)]
struct Counted {
    values: Vec<f32>,
    visits: u32,
}

impl Gradients for Counted {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        self.visits += 1;
        let gradient = Gradient::new("w", &mut self.values[..]).with_shape(&[2, 2]);
        visitor(gradient.with_parameter(&[1.0_f32; 4][..]));
    }
}

#[test]
fn a_guard_costs_no_extra_read() {
    for policy in [
        "skip:6+agc:0.9",
        "agc:0.9+skip:6",
        "skip:6+norm:9,p=3",
        "skip:6+norm:9+value:9",
    ] {
        let mut counted = Counted {
            values: vec![0.1; 4],
            visits: 0,
        };
        let mut clipper = clipper(policy, NonFinite::Error);
        let outcome = clipper.clip(Unscaled::single(&mut counted)).unwrap();
        assert_eq!(outcome.report().action, ClipAction::Keep, "{policy}");
        assert_eq!(counted.visits, 1, "{policy}");
    }
}

#[test]
fn an_unknown_output_layer_is_refused() {
    let counted = || Counted {
        values: vec![5.0; 4],
        visits: 0,
    };
    // Before an earlier rule of the chain changes anything.
    for policy in ["agc:0.9", "global-norm:1+agc:0.9"] {
        let mut gradients = counted();
        let clipper = clipper(policy, NonFinite::Error);
        let mut clipper = clipper.with_output_layer(["w", "head"]);
        let error = clipper.clip(Unscaled::single(&mut gradients)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no gradient is named `head`"), "{error}");
        assert_eq!(gradients.values, [5.0; 4], "{policy}");
    }
    let mut clipper = clipper("agc:0.9", NonFinite::Error).with_output_layer(["w"]);
    let outcome = clipper.clip(Unscaled::single(counted())).unwrap();
    assert_eq!(outcome.report().action, ClipAction::Keep);
    // Only `agc` checks the names.
    let mut clipper = crate::support::clipper("global-norm:1", NonFinite::Error)
        .with_output_layer(["head"])
        .with_scan(scan as Scan);
    assert!(clipper.clip(Unscaled::single(counted())).is_ok());
}

#[test]
fn factors_are_never_nan() {
    let clipper = clipper("normalize:1", NonFinite::Skip);
    let decision = clipper
        .decide(&[Measure::from_norm("w", 2, 1e-310)], None)
        .unwrap();
    assert!(decision.factors[0].is_finite());
}

#[test]
fn learning_a_decision_twice_leaves_a_valid_state() {
    let mut clipper = clipper("skip:3,window=8,limit=2", NonFinite::Skip);
    let of = |norm: f64| [Measure::from_norm("w", 2, norm)];
    for norm in [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1] {
        let decision = clipper.decide(&of(norm), None).unwrap();
        clipper.learn(&decision);
    }
    let decision = clipper.decide(&of(100.0), None).unwrap();
    assert!(decision.skip.is_some());
    for _ in 0..4 {
        clipper.learn(&decision);
    }
    let state = clipper.state();
    clipper.restore(&state).unwrap();
}

/// As in clipping, which saturates elements.
#[test]
fn a_factor_that_overflows_elements_has_a_clamp() {
    let given: Named = vec![("w", vec![1.0, -1.0, 1e-10]), ("b", vec![0.5])];
    let clipper = clipper("normalize:1e39", NonFinite::Skip);
    let decision = clipper.decide(&measures(&given), None).unwrap();
    let largest = Some(f64::from(f32::MAX));
    assert_eq!(decision.clamps, [largest, None]);
    assert!(decision.report.norm_after.is_nan());
    let mut carried = given.clone();
    apply_decision(&mut carried, &decision.factors, &decision.clamps);
    assert_eq!(carried, clip("normalize:1e39", given.clone()).0);
    assert_eq!(carried[0].1[..2], [f32::MAX, f32::MIN]);
    let chain = crate::support::clipper("normalize:1e39+norm:1", NonFinite::Skip);
    let error = chain.decide(&measures(&given), None).unwrap_err();
    assert!(matches!(
        error,
        ClipError::Measures {
            rule: "normalize",
            ..
        }
    ));
}

#[test]
fn rules_that_need_more_than_measures_are_refused_for_any_step() {
    let unknown = [Measure::from_norm("w", 4, f64::NAN)];
    for non_finite in [NonFinite::Skip, NonFinite::Error, NonFinite::Zero] {
        let error = clipper("agc:0.01", non_finite).decide(&unknown, None);
        assert!(
            matches!(error, Err(ClipError::Measures { rule: "agc", .. })),
            "{error:?}"
        );
    }
}

#[test]
fn duplicate_names_are_refused_by_name() {
    let norms = ["b", "a", "b", "c", "a", "b"].map(|name| Measure::from_norm(name, 1, 8.0));
    let clipper = clipper("adagc", NonFinite::Skip);
    let error = clipper.decide(&norms, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "several gradients are named `a`, `b`; names must be unique"
    );
    let mut gradients: Named = vec![("w", vec![3.0]), ("w", vec![4.0])];
    let error = try_clip("global-norm:1", NonFinite::Zero, &mut gradients).unwrap_err();
    let tensors = vec!["w".to_owned()];
    assert_eq!(error, ClipError::EqualNames { tensors });
    assert_eq!(gradients, [("w", vec![3.0]), ("w", vec![4.0])]);
}
