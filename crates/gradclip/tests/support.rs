//! Helpers shared by the tests: short forms of clipping, and seeded random values.

use gradclip::{ClipError, ClipReport, Clipper, Gradients, NonFinite, Outcome, Unscaled};

pub(crate) type Named = Vec<(&'static str, Vec<f32>)>;

/// One policy of each kind, with short warm-ups.
pub(crate) const POLICIES: [&str; 22] = [
    "value:0.5",
    "norm:1",
    "norm:1,p=1",
    "global-norm:1",
    "global-norm:1,p=3",
    "global-norm:1,p=inf",
    "global-norm:2..1@40",
    "group-norm:1",
    "block-rms:0.1",
    "normalize:1",
    "agc:0.01",
    "agc:0.01,unit=first",
    "autoclip:10",
    "autoclip:90",
    "zclip:warmup=3",
    "zclip:z=2,alpha=0.9,warmup=4,max=inf",
    "adagc:warmup=3",
    "median:2,window=4",
    "skip:3,window=8,limit=4",
    "value:5+global-norm:1",
    "norm:1+value:0.2+agc:0.01",
    "global-norm:3+skip:3,window=8+adagc:warmup=3+value:0.5",
];

pub(crate) fn clipper(policy: &str, non_finite: NonFinite) -> Clipper {
    Clipper::new(policy.parse().expect("a valid policy"), non_finite).expect("no rule inside Adam")
}

/// The gradients after a step, and the report.
pub(crate) fn parts<G>(outcome: Outcome<G>) -> (G, ClipReport) {
    match outcome {
        Outcome::Apply(clipped) => clipped.into_parts(),
        Outcome::Skip { gradients, report } => (gradients, report),
    }
}

/// Clips finite gradients.
pub(crate) fn clip<G: Gradients>(policy: &str, gradients: G) -> (G, ClipReport) {
    match try_clip(policy, NonFinite::Error, gradients) {
        Ok(Outcome::Apply(clipped)) => clipped.into_parts(),
        Ok(Outcome::Skip { .. }) => panic!("skipped under NonFinite::Error"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn try_clip<G: Gradients>(
    policy: &str,
    non_finite: NonFinite,
    gradients: G,
) -> Result<Outcome<G>, ClipError> {
    clipper(policy, non_finite).clip(Unscaled::single(gradients))
}

/// Clips a single tensor.
pub(crate) fn clip_one(policy: &str, values: &[f32]) -> (Vec<f32>, ClipReport) {
    let (mut gradients, report) = clip(policy, vec![("w", values.to_vec())]);
    (gradients.remove(0).1, report)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[track_caller]
pub(crate) fn assert_close(actual: f64, expected: f64, relative: f64) {
    let error = (actual - expected).abs();
    assert!(
        error <= relative * expected.abs(),
        "{actual} is not {expected} to {relative}"
    );
}

#[track_caller]
pub(crate) fn assert_all_close(actual: &[f32], expected: &[f64], relative: f64) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert_close(f64::from(*actual), *expected, relative);
    }
}

/// An independent reference: a plain f64 loop with compensated summation, without scaling.
pub(crate) fn reference_norm(values: impl Iterator<Item = f64>, power: f64) -> f64 {
    if power == f64::INFINITY {
        return values.fold(0.0, |largest, value| value.abs().max(largest));
    }
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let term = value.abs().powf(power) - lost;
        let next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    sum.powf(1.0 / power)
}

/// Property tests print failing inputs, but write no files beside the sources.
pub(crate) fn without_files() -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        failure_persistence: None,
        ..Default::default()
    }
}
