//! Every policy round-trips through its text form, and no text panics.

use gradclip::{
    ClipPolicy, ClipRule, Decay, FiniteThreshold, NormOrder, Percentile, Positive, Steps,
    Threshold, UnitAxis,
};
use proptest::prelude::*;

use crate::support::without_files;

fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>()
            .prop_map(f64::abs)
            .prop_filter("greater than zero", |value| *value > 0.0),
        1e-6..1e6_f64,
        Just(2.0),
        Just(f64::INFINITY),
        Just(5e-324),
    ]
}

fn threshold() -> impl Strategy<Value = Threshold> {
    let finite = || positive().prop_map(|value| value.min(f64::MAX));
    let steps = prop_oneof![1..10_u32, Just(u32::MAX)];
    prop_oneof![
        positive().prop_map(|value| Threshold::new(value).expect("positive")),
        (finite(), finite(), steps).prop_map(|(from, to, steps)| {
            let steps = Steps::new(steps).expect("at least 1");
            Threshold::linear(from, to, steps).expect("positive and finite")
        }),
    ]
}

fn constant_threshold() -> impl Strategy<Value = Threshold> {
    positive().prop_map(|value| Threshold::new(value).expect("positive"))
}

fn decay() -> impl Strategy<Value = Decay> {
    let value = prop_oneof![
        Just(0.0),
        0.0..1.0_f64,
        Just(1.0_f64.next_down()),
        Just(0.97)
    ];
    value.prop_map(|value| Decay::new(value).expect("below 1"))
}

fn count() -> impl Strategy<Value = Steps<1>> {
    let counts = prop_oneof![1..200_u32, Just(u32::MAX), Just(100), Just(128)];
    counts.prop_map(|count| Steps::new(count).expect("at least 1"))
}

fn any_fixed_rule() -> impl Strategy<Value = ClipRule> {
    let order = positive().prop_map(|order| NormOrder::new(order).expect("positive"));
    let unit = prop_oneof![
        Just(None),
        Just(Some(UnitAxis::First)),
        Just(Some(UnitAxis::Last))
    ];
    (0..7, threshold(), order, any_positive(), unit).prop_map(
        |(kind, threshold, order, epsilon, unit)| match kind {
            0 => ClipRule::Value { threshold },
            1 => ClipRule::Norm { threshold, order },
            2 => ClipRule::GlobalNorm { threshold, order },
            3 => ClipRule::GroupNorm { threshold },
            4 => ClipRule::BlockRms { threshold },
            5 => ClipRule::UpdateRms { threshold },
            _ => ClipRule::Agc {
                lambda: threshold,
                epsilon,
                unit,
            },
        },
    )
}

fn any_positive() -> impl Strategy<Value = Positive> {
    positive().prop_map(|value| Positive::new(value).expect("positive"))
}

fn any_adaptive_rule() -> impl Strategy<Value = ClipRule> {
    let percentile = prop_oneof![Just(0.0), 0.0..100.0_f64, Just(100.0)];
    let warmup = prop_oneof![Just(0), any::<u32>(), Just(100), Just(150)];
    let numbers = (any_positive(), decay(), count(), count(), warmup);
    (0..7, threshold(), constant_threshold(), percentile, numbers).prop_map(
        |(kind, threshold, constant, percentile, (positive, decay, window, limit, warmup))| {
            match kind {
                0 => ClipRule::AutoClip {
                    percentile: Percentile::new(percentile).expect("up to 100"),
                },
                1 => ClipRule::ZClip {
                    z: positive,
                    alpha: decay,
                    warmup: window,
                    max: threshold,
                },
                2 => ClipRule::AdaGc {
                    absolute: threshold,
                    relative: constant,
                    beta: decay,
                    warmup,
                },
                3 => ClipRule::Median {
                    factor: threshold,
                    window,
                },
                4 => ClipRule::Skip {
                    sigma: positive,
                    window: Steps::new(window.get().max(2)).expect("at least 2"),
                    limit,
                },
                5 => ClipRule::Spam {
                    theta: positive,
                    reset: Steps::new(window.get().max(21)).expect("at least 21"),
                    warmup,
                },
                _ => ClipRule::Normalize {
                    threshold: Threshold::new(constant.at(0).min(f64::MAX))
                        .and_then(FiniteThreshold::new)
                        .expect("positive and finite"),
                },
            }
        },
    )
}

fn any_policy() -> impl Strategy<Value = ClipPolicy> {
    let rule = prop_oneof![any_fixed_rule(), any_adaptive_rule()];
    let chain = |rules: Vec<ClipRule>| rules.into_iter().fold(ClipPolicy::none(), ClipPolicy::then);
    prop::collection::vec(rule, 0..5).prop_map(chain)
}

proptest! {
    #![proptest_config(without_files())]

    #[test]
    fn every_policy_round_trips(policy in any_policy()) {
        prop_assert_eq!(policy.to_string().parse::<ClipPolicy>(), Ok(policy));
    }

    #[test]
    fn no_text_panics(
        text in "(none|value|norm|zclip|adagc|skip|agc)?[:,=pz0-9.@e +é-]{0,16}(window|alpha)?.{0,3}",
    ) {
        if let Ok(policy) = text.parse::<ClipPolicy>() {
            prop_assert_eq!(policy.to_string().parse::<ClipPolicy>(), Ok(policy));
        }
    }

    #[test]
    fn no_other_text_panics(text in ".{0,40}") {
        if let Err(error) = text.parse::<ClipPolicy>() {
            prop_assert!(error.to_string().starts_with("cannot read "));
        }
    }
}
