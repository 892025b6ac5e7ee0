//! The state of a clipper: it round-trips, and invalid states are refused.

use gradclip::{ClipAction, Clipper, ClipperState, NonFinite, Unscaled};

use crate::fuzzing::Random;
use crate::model::Model;
use crate::support::{POLICIES, clipper, parts};

/// Everything that a step decided, bit for bit.
fn step(clipper: &mut Clipper, index: u64) -> String {
    let spike = if index % 17 == 16 { 50.0 } else { 1.0 };
    let model = Model::random(&mut Random(index), spike);
    let loss = f64::from(Random(index).value()) + 3.0 * spike;
    let outcome = clipper.clip_with_loss(Unscaled::single(model), loss);
    let (after, report) = parts(outcome.expect("finite gradients"));
    format!("{:?} {report:?}", after.bits())
}

/// Round-trips a state through the text of a checkpoint.
fn saved_and_read(state: &ClipperState) -> ClipperState {
    let text = serde_json::to_string(state).expect("plain numbers");
    serde_json::from_str(&text).expect("what was written")
}

#[test]
fn fifty_steps_and_fifty_after_restoring_equal_a_hundred() {
    let more = [
        "global-norm:2..0.1@80",
        "skip:3,window=8,limit=1",
        "autoclip:50+median:2",
    ];
    for policy in POLICIES.into_iter().chain(more) {
        let mut whole = clipper(policy, NonFinite::Skip);
        let mut first = clipper(policy, NonFinite::Skip);
        for index in 0..50 {
            assert_eq!(step(&mut whole, index), step(&mut first, index));
        }
        let state = saved_and_read(&first.state());
        assert_eq!(state, first.state(), "{policy}");
        let mut second = clipper(policy, NonFinite::Skip);
        second
            .restore(&state)
            .unwrap_or_else(|error| panic!("{policy}: {error}"));
        assert_eq!(
            (second.state(), second.steps()),
            (state, whole.steps()),
            "{policy}"
        );
        for index in 50..100 {
            assert_eq!(
                step(&mut second, index),
                step(&mut whole, index),
                "{policy} at {index}"
            );
        }
        assert_eq!(second.state(), whole.state(), "{policy}");
    }
}

#[test]
fn the_state_can_be_saved_at_any_step() {
    // During warm-ups, between skipped steps, and before the first step.
    for policy in [
        "zclip:warmup=5",
        "adagc:warmup=5",
        "median:2,window=4",
        "skip:1,window=4,limit=2",
    ] {
        let mut whole = clipper(policy, NonFinite::Skip);
        let mut interrupted = clipper(policy, NonFinite::Skip);
        for index in 0..40 {
            let mut next = clipper(policy, NonFinite::Skip);
            next.restore(&saved_and_read(&interrupted.state()))
                .expect("its own state");
            interrupted = next;
            let (found, expected) = (step(&mut interrupted, index), step(&mut whole, index));
            assert_eq!(found, expected, "{policy} at step {index}");
        }
    }
}

#[test]
fn a_long_history_is_saved_in_buckets() {
    let mut whole = clipper("autoclip:50", NonFinite::Error);
    let mut random = Random(3);
    for _ in 0..10_050 {
        let gradient = [f64::from(random.value())];
        let outcome = whole.clip(Unscaled::single(Model::vector(&gradient)));
        assert_ne!(outcome.expect("finite").report().action, ClipAction::Skip);
    }
    let state = saved_and_read(&whole.state());
    assert!(state.contains_key("0.autoclip.buckets") && !state.contains_key("0.autoclip.norms"));
    let mut restored = clipper("autoclip:50", NonFinite::Error);
    restored.restore(&state).expect("its own state");
    for index in 0..50 {
        assert_eq!(step(&mut restored, index), step(&mut whole, index));
    }
    assert_eq!(restored.state(), whole.state());
}

/// The state of a policy after enough steps to have learned something.
fn learned(policy: &str) -> ClipperState {
    let mut clipper = clipper(policy, NonFinite::Skip);
    (0..30).for_each(|index| drop(step(&mut clipper, index)));
    clipper.state()
}

/// Asserts that the state is refused without effect, with one line that names the list.
#[track_caller]
fn assert_refused(policy: &str, state: &ClipperState, list: &str, words: &str) {
    let mut clipper = clipper(policy, NonFinite::Skip);
    (0..5).for_each(|index| drop(step(&mut clipper, index)));
    let before = clipper.state();
    let error = clipper.restore(state).expect_err(list);
    assert_eq!(error.list, list, "{policy}: {error}");
    let message = error.to_string();
    assert!(
        message.contains(words) && message.contains(list),
        "{policy}: {message}"
    );
    assert!(!message.contains('\n'), "{message}");
    assert_eq!(clipper.state(), before, "{policy}");
}

const LISTS: [(&str, &str); 9] = [
    ("global-norm:1", "steps"),
    ("autoclip:10", "0.autoclip.norms"),
    ("zclip:warmup=5", "0.zclip.mean-and-variance"),
    ("zclip:warmup=99", "0.zclip.norms"),
    ("value:5+adagc:warmup=5", "1.adagc.steps"),
    ("median:2,window=40", "0.median.norms"),
    ("skip:3,window=40", "0.skip.norms"),
    ("skip:3,window=40", "0.skip.losses"),
    ("skip:3,window=40", "0.skip.skipped"),
];

#[test]
fn a_missing_list_is_named() {
    for (policy, list) in LISTS {
        let mut state = learned(policy);
        assert!(state.remove(list).is_some(), "{list}");
        // Without mean and variance, ZClip is still in its warm-up.
        let missing = list.replace("mean-and-variance", "norms");
        assert_refused(policy, &state, &missing, "is missing");
    }
    // A tensor without an AdaGC norm is new, not an error.
    let mut state = learned("adagc:warmup=5");
    state.remove("0.adagc.norm.norm");
    assert_eq!(
        clipper("adagc:warmup=5", NonFinite::Skip).restore(&state),
        Ok(())
    );
}

#[test]
fn an_unexpected_list_is_named() {
    for (policy, _) in LISTS {
        let mut state = learned(policy);
        state.insert("7.other.norms".to_owned(), vec![1.0]);
        assert_refused(
            policy,
            &state,
            "7.other.norms",
            "does not belong to this policy",
        );
    }
}

#[test]
fn invalid_values_are_refused() {
    for (policy, list) in LISTS {
        let good = learned(policy);
        let length = good[list].len();
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            if bad == -1.0 && list == "0.skip.losses" {
                continue;
            }
            for place in [0, length - 1] {
                let mut state = good.clone();
                state.get_mut(list).expect("a list")[place] = bad;
                assert_refused(policy, &state, list, "must");
            }
        }
        if ["steps", "0.skip.skipped", "1.adagc.steps"].contains(&list) {
            for bad in [vec![], vec![1.0, 2.0], vec![1.5], vec![1e300]] {
                let mut state = good.clone();
                state.insert(list.to_owned(), bad);
                assert_refused(policy, &state, list, "must be");
            }
        }
    }
    for bad in [
        vec![],
        vec![1.0, 1.0],
        vec![0.0],
        vec![-1.0],
        vec![f64::NAN],
        vec![f64::INFINITY],
    ] {
        let mut state = learned("adagc:warmup=5");
        state.insert("0.adagc.norm.head.weight".to_owned(), bad);
        assert_refused(
            "adagc:warmup=5",
            &state,
            "0.adagc.norm.head.weight",
            "greater than 0",
        );
    }
}

#[test]
fn lists_of_the_wrong_length_are_refused() {
    let too_long = [
        ("zclip:warmup=5", "0.zclip.mean-and-variance", vec![1.0; 3]),
        ("zclip:warmup=5", "0.zclip.mean-and-variance", vec![]),
        ("zclip:warmup=99", "0.zclip.norms", vec![1.0; 99]),
        ("median:2,window=40", "0.median.norms", vec![1.0; 41]),
        ("skip:3,window=40", "0.skip.norms", vec![1.0; 41]),
        ("skip:3,window=40", "0.skip.losses", vec![1.0; 41]),
        ("autoclip:10", "0.autoclip.norms", vec![1.0; 10_001]),
        ("autoclip:10", "0.autoclip.norms", vec![2.0, 1.0]),
        ("skip:3,window=40", "0.skip.skipped", vec![11.0]),
    ];
    for (policy, list, numbers) in too_long {
        let mut state = learned(policy);
        state.insert(list.to_owned(), numbers);
        assert_refused(policy, &state, list, "must");
    }
}

#[test]
fn the_state_of_another_policy_is_refused() {
    let policies = [
        "none",
        "autoclip:10",
        "zclip:warmup=5",
        "adagc:warmup=5",
        "median:2,window=40",
        "skip:3,window=40",
        "value:5+median:2,window=40",
        "median:2,window=40+value:5+median:2,window=40",
    ];
    for (own, policy) in policies.into_iter().enumerate() {
        for (other, other_policy) in policies.into_iter().enumerate() {
            let result = clipper(policy, NonFinite::Skip).restore(&learned(other_policy));
            assert_eq!(
                result.is_ok(),
                own == other,
                "{policy} accepts the state of {other_policy}"
            );
        }
    }
    let smaller = clipper("median:2,window=4", NonFinite::Skip);
    assert!(
        smaller
            .clone()
            .restore(&learned("median:2,window=40"))
            .is_err()
    );
}
