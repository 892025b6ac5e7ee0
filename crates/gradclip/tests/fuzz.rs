//! The fuzz targets of policies and of states of clippers.

use std::collections::BTreeMap;

use gradclip::{
    ClipPolicy, ClipReport, Clipper, Gradient, Gradients, NonFinite, Outcome, Unscaled,
};

use crate::fuzzing::Target;

/// Replacements for numbers and values.
const EXTREMES: [&str; 18] = [
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "0.1",
    "1.5",
    "1e-25",
    "1e308",
    "1.7976931348623157e308",
    "5e-324",
    "1e999",
    "nan",
    "inf",
    "4294967295",
    "4294967296",
    "9007199254740992",
    "1..1e300@3",
];

/// A matrix, a vector and values near both ends of the range, with parameters.
struct Tiny {
    single: [f32; 6],
    double: [f64; 2],
    small: [f64; 2],
}

const SINGLE: [f32; 6] = [3.0, -4.0, 0.0, 1e-30, 0.5, -0.25];
const DOUBLE: [f64; 2] = [1e10, -0.0];
const SMALL: [f64; 2] = [1e-300, 0.0];

impl Tiny {
    fn times(factor: f64) -> Tiny {
        Tiny {
            single: SINGLE.map(|value| (f64::from(value) * factor) as f32),
            double: DOUBLE.map(|value| value * factor),
            small: SMALL.map(|value| value * factor),
        }
    }

    fn is_finite(&self) -> bool {
        let doubles = self.double.iter().chain(&self.small);
        self.single.iter().all(|value| value.is_finite())
            && doubles.clone().all(|value| value.is_finite())
    }
}

impl Gradients for Tiny {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        let single = Gradient::new("layer.weight", self.single.as_mut_slice());
        visitor(single.with_shape(&[2, 3]).with_parameter(&SINGLE[..]));
        let double = Gradient::new("layer.bias", self.double.as_mut_slice());
        visitor(double.with_parameter(&DOUBLE[..]));
        let small = Gradient::new("head", self.small.as_mut_slice());
        visitor(small.with_parameter(&SMALL[..]));
    }
}

/// Clips, and checks that the result is finite.
fn clip_tiny(clipper: &mut Clipper, tiny: Tiny) {
    let step = Unscaled::single(tiny);
    match clipper
        .clip_with_loss(step, 2.5)
        .expect("an error under NonFinite::Skip")
    {
        Outcome::Apply(clipped) => {
            let (tiny, report) = clipped.into_parts();
            assert!(tiny.is_finite(), "the result is not finite");
            assert_report(&report);
        }
        Outcome::Skip { gradients, report } => {
            assert!(gradients.is_finite() || report.non_finite > 0);
            assert_eq!((report.norm_after, report.coefficient), (0.0, 0.0));
        }
    }
}

fn assert_report(report: &ClipReport) {
    let numbers = [
        report.norm_before,
        report.norm_after,
        report.coefficient,
        report.cosine.unwrap_or(1.0),
    ];
    let of_tensors = report.tensors.iter().flat_map(|tensor| {
        [
            tensor.norm_before,
            tensor.norm_after,
            tensor.coefficient,
            tensor.square_share,
        ]
    });
    for number in numbers.into_iter().chain(of_tensors) {
        assert!(number.is_finite() && number >= 0.0, "{report:?}");
    }
    assert!(
        report.cosine.is_none_or(|cosine| cosine <= 1.0) && report.clipped_share <= 1.0,
        "{report:?}"
    );
    assert!(
        report.threshold.is_none_or(|threshold| threshold >= 0.0),
        "{report:?}"
    );
}

/// Any text is a policy that round-trips and clips, or is refused in one line.
fn check_policy(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let policy = match text.parse::<ClipPolicy>() {
        Ok(policy) => policy,
        Err(error) => {
            let message = error.to_string();
            assert!(
                !message.contains('\n') && message.contains("accepted: "),
                "{message}"
            );
            return;
        }
    };
    let printed = policy.to_string();
    assert_eq!(printed.parse(), Ok(policy.clone()), "{printed}");
    let mut clipper = Clipper::for_adam(policy, NonFinite::Skip);
    for factor in [1.0, 1e-3, 100.0] {
        clip_tiny(&mut clipper, Tiny::times(factor));
    }
}

/// The first line is a policy, the rest the state of a clipper as JSON. Any state is refused, or
/// round-trips and lets the clipper continue.
fn check_state(data: &[u8]) {
    let Some((policy, state)) = core::str::from_utf8(data)
        .ok()
        .and_then(|t| t.split_once('\n'))
    else {
        return;
    };
    let Ok(policy) = policy.parse::<ClipPolicy>() else {
        return;
    };
    let Ok(state) = serde_json::from_str::<BTreeMap<String, Vec<f64>>>(state) else {
        return;
    };
    let mut clipper = Clipper::for_adam(policy, NonFinite::Skip);
    let fresh = clipper.state();
    if let Err(error) = clipper.restore(&state) {
        assert!(!error.to_string().is_empty());
        assert_eq!(
            clipper.state(),
            fresh,
            "a refused state changed the clipper"
        );
        return;
    }
    assert_round_trips(&clipper);
    for factor in [1.0, f64::NAN, 1e5] {
        clip_tiny(&mut clipper, Tiny::times(factor));
        assert_round_trips(&clipper);
    }
}

fn assert_round_trips(clipper: &Clipper) {
    let state = clipper.state();
    let mut restored = Clipper::for_adam(clipper.policy().clone(), NonFinite::Skip);
    if let Err(error) = restored.restore(&state) {
        panic!("{error}: {state:?}");
    }
    assert_eq!(restored.state(), state);
}

pub(crate) fn policy_text() -> Target {
    target("policy_text", check_policy)
}

pub(crate) fn clipper_state() -> Target {
    target("clipper_state", check_state)
}

fn target(name: &'static str, body: fn(&[u8])) -> Target {
    let target = Target::new("gradclip", name, Vec::new(), body).with_values(&EXTREMES);
    assert!(
        target.seeds.len() >= 20,
        "{name}: the corpus has lost files"
    );
    target
}

#[test]
fn policy_texts() {
    policy_text().run();
}

#[test]
fn clipper_states() {
    clipper_state().run();
}
