//! A replay of the norms of a run is what its policy did to the gradients.

use gradclip::{ClipAction, ClipPolicy, ClipReport, Clipper, NonFinite, NormOrder, Unscaled};
use gradclip_judge::{RecordedStep, Replay};

type Named = Vec<(&'static str, Vec<f64>)>;

/// Gradients whose norm wanders, with a spike and a NaN now and then.
fn gradients(step: u32) -> Named {
    let size = (1.0 + 0.3 * f64::from(step).sin()) * if step % 23 == 22 { 50.0 } else { 1.0 };
    let number = |place: u32| size * f64::from(place * 31 + step * 17).sin();
    let tensor = |from: u32, count: u32| (from..from + count).map(number).collect::<Vec<f64>>();
    let mut gradients = vec![
        ("a.weight", tensor(0, 12)),
        ("a.bias", tensor(12, 3)),
        ("b", tensor(15, 4)),
    ];
    if step % 31 == 30 {
        gradients[1].1[0] = f64::NAN;
    }
    gradients
}

fn recorded(report: &ClipReport, loss: f64) -> RecordedStep {
    let tensors = report.tensors.iter();
    RecordedStep {
        norm: report.norm_before,
        loss: Some(loss),
        tensors: tensors
            .map(|tensor| (tensor.name.clone(), tensor.norm_before, tensor.elements))
            .collect(),
    }
}

#[test]
fn a_replay_reproduces_the_policy() {
    for text in [
        "none",
        "global-norm:1",
        "global-norm:3..1@40",
        "norm:1",
        "group-norm:1",
        "block-rms:0.3",
        "normalize:2",
        "autoclip:50",
        "zclip:warmup=5",
        "adagc:warmup=5",
        "median:1.2,window=12",
        "skip:4,window=12,limit=2",
        "skip:4,window=12+adagc:warmup=5+global-norm:1",
        "global-norm:1,p=inf",
        "global-norm:2,p=1",
        "norm:0.7,p=inf",
        "norm:0.7,p=3",
        "norm:0.9,p=3+norm:0.7,p=3",
        "global-norm:2,p=3+global-norm:1,p=3",
    ] {
        let policy: ClipPolicy = text.parse().unwrap();
        let mut replay = Replay::of_order(&policy, policy.order()).unwrap();
        let mut clipper = Clipper::new(policy, NonFinite::Skip).unwrap();
        let mut clipped = 0;
        for step in 0..100 {
            let loss = 2.0 + 0.1 * f64::from(step).cos();
            let outcome = clipper
                .clip_with_loss(Unscaled::single(gradients(step)), loss)
                .unwrap();
            let did = outcome.report();
            let replayed = replay.step(&recorded(did, loss)).unwrap();
            assert_eq!(replayed.action, did.action, "{text} at {step}");
            let close = |left: f64, right: f64| (left - right).abs() <= 1e-9 * right.abs();
            assert!(
                close(replayed.norm_after, did.norm_after),
                "{text} at {step}"
            );
            if did.action != ClipAction::Skip {
                let thresholds = replayed.threshold.zip(did.threshold);
                assert_eq!(
                    replayed.threshold.is_some(),
                    did.threshold.is_some(),
                    "{text}"
                );
                assert!(
                    thresholds.is_none_or(|(left, right)| close(left, right)),
                    "{text}"
                );
            }
            clipped += u32::from(did.action == ClipAction::Clip);
        }
        assert!(
            clipped > 3 || text == "none" || text.starts_with("skip:4,window=12,limit"),
            "{text}"
        );
    }
}

#[test]
fn rules_that_need_more_than_norms_are_refused() {
    for (text, rule) in [
        ("value:1", "value"),
        ("global-norm:1+agc:0.01", "agc"),
        ("norm:1,p=3", "norm"),
        ("global-norm:1+update-rms:1", "update-rms"),
    ] {
        let error = Replay::new(&text.parse().unwrap()).unwrap_err();
        assert_eq!(error.rule, rule);
    }
    for (text, problem) in [
        ("global-norm:1", "Euclidean"),
        ("skip:6", "Euclidean"),
        ("median:2", "Euclidean"),
        ("global-norm:1,p=3", "its own order"),
        ("norm:1,p=inf+global-norm:1,p=inf", "combined with a rule"),
    ] {
        let error = Replay::of_order(&text.parse().unwrap(), NormOrder::INFINITY).unwrap_err();
        assert!(error.problem.contains(problem), "{error}");
    }
    let mut replay = Replay::new(&"norm:1".parse().unwrap()).unwrap();
    let without_tensors = RecordedStep {
        norm: 2.0,
        loss: None,
        tensors: Vec::new(),
    };
    let error = replay.step(&without_tensors).unwrap_err();
    assert!(
        error.to_string().contains("the norm of each tensor"),
        "{error}"
    );
}
