//! The text forms of policies: what is read, what is refused and with which words.

use gradclip::{ClipPolicy, ClipRule, NonFinite, NormOrder, PolicyError, Threshold};
use proptest::prelude::*;

#[test]
fn accepted_forms_and_their_printed_form() {
    let cases = [
        ("none", "none"),
        ("value:1", "value:1"),
        ("value:.5", "value:0.5"),
        ("norm:inf", "norm:inf"),
        ("norm:1e-3,p=2.0", "norm:0.001"),
        ("norm:1,p=inf", "norm:1,p=inf"),
        ("global-norm:5", "global-norm:5"),
        ("global-norm:+5.0,p=1.5", "global-norm:5,p=1.5"),
        ("global-norm:1e-300,p=0.5", "global-norm:1e-300,p=0.5"),
    ];
    for (text, printed) in cases {
        let policy: ClipPolicy = text.parse().unwrap();
        assert_eq!(policy.to_string(), printed);
        assert!(policy.rules().iter().all(|rule| printed.starts_with(rule.name())));
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table reads best whole")]
fn refused_forms_say_what_where_and_what_instead() {
    let cases = [
        ("", "unknown policy ``", 1),
        ("norn", "unknown policy `norn`, did you mean `norm`?", 1),
        (
            "global_norm:1",
            "unknown policy `global_norm`, did you mean `global-norm`?",
            1,
        ),
        ("globl-norm:1", "did you mean `global-norm`?", 1),
        ("Value:1", "did you mean `value`?", 1),
        ("off", "did you mean `none`?", 1),
        ("0", "to turn clipping off use `none`", 1),
        ("1.5", "a threshold needs a policy: `global-norm:1.5`", 1),
        ("xyzzy:1", "unknown policy `xyzzy` at", 1),
        (" none", "did you mean `none`?", 1),
        ("none:1", "`none` takes no threshold", 5),
        ("norm", "`norm` needs a threshold `:C`", 5),
        ("value:", "the threshold is empty", 7),
        ("value:1 ", "the threshold `1 ` is not a number", 7),
        ("value: 1", "the threshold ` 1` is not a number", 7),
        ("value:1 0", "the threshold `1 0` is not a number", 7),
        ("value:1x", "the threshold `1x` is not a number", 7),
        ("value:1:2", "the threshold `1:2` is not a number", 7),
        (
            "value:1,p=2",
            "`value` takes only a threshold, not `p=2`",
            9,
        ),
        (
            "value:0",
            "threshold must be greater than 0, got 0 (to turn clipping off use `none`)",
            7,
        ),
        ("norm:-1", "must be greater than 0, got -1", 6),
        ("norm:nan", "must be greater than 0, got NaN", 6),
        ("norm:-inf", "must be greater than 0, got -inf", 6),
        ("norm:1e999", "the threshold `1e999` is too large", 6),
        ("norm:1e-999", "must be greater than 0, got 0", 6),
        ("norm:,p=2", "the threshold is empty", 6),
        ("norm:1,", "expected `p=P`, found ``", 8),
        ("norm:1,q=2", "expected `p=P`, found `q=2`", 8),
        ("norm:1,p=", "the norm order p is empty", 10),
        (
            "norm:1,p=0",
            "norm order p must be greater than 0, got 0",
            10,
        ),
        (
            "norm:1,p=-2",
            "norm order p must be greater than 0, got -2",
            10,
        ),
        (
            "norm:1,p=NaN",
            "norm order p must be greater than 0, got NaN",
            10,
        ),
        ("norm:1,p=two", "the norm order p `two` is not a number", 10),
        ("norm:1,p=2,p=2", "`p` is given twice", 12),
        ("norm:1,p=2,", "expected `p=P`, found ``", 12),
        ("norm:1;p=2", "the threshold `1;p=2` is not a number", 6),
        ("nörm;1:1", "unknown policy", 1),
    ];
    for (text, words, expected_position) in cases {
        let error = text.parse::<ClipPolicy>().expect_err(text);
        let message = error.to_string();
        assert!(message.contains(words), "{text:?}: {message}");
        assert!(
            message.contains("none, value:C, norm:C[,p=P], global-norm:C[,p=P]"),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message:?}");
        let PolicyError::Syntax { position, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(position, expected_position, "{text:?}");
    }
}

#[test]
fn thresholds_and_orders_are_validated() {
    for value in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
        let message = Threshold::new(value).unwrap_err().to_string();
        assert!(message.contains("`none`"), "{message}");
        assert!(NormOrder::new(value).is_err());
    }
    for value in [5e-324, 1.0, f64::MAX, f64::INFINITY] {
        assert_eq!(Threshold::new(value).unwrap().at(0), value);
        assert_eq!(NormOrder::new(value).unwrap().get(), value);
    }
    assert_eq!(NormOrder::new(2.0), Ok(NormOrder::TWO));
    assert_eq!(NormOrder::new(f64::INFINITY), Ok(NormOrder::Infinity));
    assert!("2 ".parse::<NormOrder>().is_err());
}

#[test]
fn accessors() {
    let policy: ClipPolicy = "norm:3,p=inf".parse().unwrap();
    assert_eq!(
        (policy.rules().len(), policy.order()),
        (1, NormOrder::Infinity)
    );
    assert_eq!(
        (ClipPolicy::none().is_none(), ClipPolicy::none().order()),
        (true, NormOrder::TWO)
    );
}

#[test]
fn non_finite_rules_round_trip() {
    for rule in [NonFinite::Error, NonFinite::Skip, NonFinite::Zero] {
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }
    let message = "skpi".parse::<NonFinite>().unwrap_err().to_string();
    assert!(message.contains("did you mean `skip`?"), "{message}");
    assert!(message.contains("accepted: error, skip, zero"), "{message}");
}

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

fn any_policy() -> impl Strategy<Value = ClipPolicy> {
    (0..4, positive(), positive()).prop_map(|(kind, threshold, order)| {
        let threshold = Threshold::new(threshold).expect("positive");
        let order = NormOrder::new(order).expect("positive");
        match kind {
            0 => ClipPolicy::none(),
            1 => ClipRule::Value { threshold }.into(),
            2 => ClipRule::Norm { threshold, order }.into(),
            _ => ClipRule::GlobalNorm { threshold, order }.into(),
        }
    })
}

proptest! {
    #[test]
    fn every_policy_round_trips(policy in any_policy()) {
        prop_assert_eq!(policy.to_string().parse::<ClipPolicy>(), Ok(policy));
    }

    #[test]
    fn no_text_panics(text in "(none|value|norm|global-norm)?[:,=p0-9.e é-]{0,12}") {
        if let Ok(policy) = text.parse::<ClipPolicy>() {
            prop_assert_eq!(policy.to_string().parse::<ClipPolicy>(), Ok(policy));
        }
    }
}
