//! The verdict on a run and the flow of gradients, in numbers and in words.

use gradclip::{Clipper, NonFinite, Unscaled};
use gradclip_judge::{Assessment, GradientFlow, StepRecord, Verdict};

#[track_caller]
fn assert_close(actual: f64, expected: f64, relative: f64) {
    let error = (actual - expected).abs();
    assert!(
        error <= relative * expected.abs(),
        "{actual} is not {expected} to {relative}"
    );
}

fn step(norm_before: f64, threshold: Option<f64>) -> StepRecord {
    let clipped = threshold.is_some_and(|threshold| norm_before > threshold);
    StepRecord {
        norm_before,
        threshold,
        coefficient: threshold.map_or(1.0, |threshold| (threshold / norm_before).min(1.0)),
        clipped,
        skipped: false,
        outlier: false,
    }
}

fn verdict(norms: &[f64], threshold: Option<f64>) -> Verdict {
    Verdict::of(norms.iter().map(|norm| step(*norm, threshold))).expect("there are steps")
}

#[test]
fn a_healthy_run_in_words() {
    let mut norms = vec![0.5; 363];
    norms.extend([12.44; 37]);
    let verdict = verdict(&norms, Some(5.0));
    assert_eq!(
        (verdict.steps, verdict.clipped, verdict.skipped),
        (400, 37, 0)
    );
    assert_eq!(verdict.assessment, Assessment::Healthy);
    assert_eq!(
        verdict.to_string(),
        "clipping engaged at 37 of 400 steps (9.25 %)\n\
         gradient norm before clipping: p10 0.5, median 0.5, p90 0.5, max 12.4\n\
         the threshold 5 looks healthy: it cuts the spikes and leaves ordinary steps alone\n\
         for global-norm this run suggests thresholds from 0.802 to 16 (half to ten times the mean \
         norm, Pascanu et al. 2013)"
    );
}

#[test]
fn assessments_at_their_borders() {
    assert_eq!(verdict(&[1.0; 4], None).assessment, Assessment::Off);
    assert_eq!(
        verdict(&[1.0; 4], Some(f64::INFINITY)).assessment,
        Assessment::Inactive
    );
    let with_spikes = |spikes: usize, steps: usize, spike: f64| {
        let norms: Vec<f64> = (0..steps)
            .map(|index| if index < spikes { spike } else { 0.5 })
            .collect();
        verdict(&norms, Some(1.0)).assessment
    };
    assert_eq!(with_spikes(9, 1000, 2.0), Assessment::Inactive);
    // However rare: one gradient nine times too long can end a run.
    assert_eq!(with_spikes(1, 1000, 9.0), Assessment::Healthy);
    assert_eq!(with_spikes(10, 1000, 9.0), Assessment::Healthy);
    assert_eq!(with_spikes(50, 100, 9.0), Assessment::Healthy);
    assert_eq!(with_spikes(51, 100, 9.0), Assessment::Throttling);
    assert_eq!(with_spikes(100, 100, 2.0), Assessment::Healthy);
    assert_eq!(with_spikes(100, 100, 2.1), Assessment::Throttling);
}

#[test]
fn distribution_and_suggestion() {
    let norms: Vec<f64> = (0..=100).rev().map(f64::from).collect();
    let verdict = verdict(&norms, Some(1000.0));
    let norms = verdict.norms.unwrap();
    assert_eq!(
        (norms.p10, norms.p50, norms.p90, norms.max),
        (10.0, 50.0, 90.0, 100.0)
    );
    assert_close(norms.mean, 50.0, 1e-14);
    let suggested = verdict.suggested.unwrap();
    assert_close(*suggested.start(), 25.0, 1e-14);
    assert_close(*suggested.end(), 500.0, 1e-14);
}

#[test]
fn bad_steps_do_not_spoil_the_statistics() {
    assert_eq!(Verdict::of([]), None);
    let skipped = StepRecord {
        skipped: true,
        outlier: false,
        ..step(1e30, Some(5.0))
    };
    let steps = [
        step(1.0, Some(5.0)),
        skipped,
        step(f64::NAN, Some(5.0)),
        step(3.0, Some(5.0)),
    ];
    let verdict = Verdict::of(steps).unwrap();
    assert_eq!((verdict.steps, verdict.skipped, verdict.clipped), (4, 1, 0));
    assert_eq!(
        verdict.norms.map(|norms| (norms.max, norms.mean)),
        Some((3.0, 2.0))
    );
    assert!(
        verdict
            .to_string()
            .contains("1 of 4 steps skipped for non-finite gradients")
    );

    let all_skipped = Verdict::of([skipped]).unwrap();
    assert_eq!(
        (all_skipped.norms, all_skipped.suggested.clone()),
        (None, None)
    );
    assert!(
        all_skipped.to_string().contains("1 of 1 step skipped"),
        "{all_skipped}"
    );

    let saturated = Verdict::of([step(f64::MAX, Some(1.0)); 3]).unwrap();
    assert!(saturated.suggested.unwrap().end().is_finite());
}

#[test]
fn a_report_becomes_a_record() {
    let mut clipper = Clipper::new("global-norm:1".parse().unwrap(), NonFinite::Error)
        .expect("no rule inside Adam");
    let gradients = Unscaled::single([("w", [3.0_f32, 4.0])]);
    let outcome = clipper.clip(gradients).unwrap();
    let record = StepRecord::from(outcome.report());
    assert_eq!(record, step(5.0, Some(1.0)));
    assert!(record.clipped);
}

#[test]
fn throttling_and_off_in_words() {
    let text = verdict(&[10.0; 10], Some(1.0)).to_string();
    assert!(text.contains("throttles training"), "{text}");
    assert!(
        verdict(&[10.0; 10], None)
            .to_string()
            .starts_with("clipping was off for 10 steps")
    );
    let text = verdict(&[1.5; 10], Some(1.0)).to_string();
    assert!(text.contains("close to what is ordinary"), "{text}");
}

fn flow(layers: &[(&str, f64)]) -> GradientFlow {
    let layers: Vec<(String, f64)> = layers
        .iter()
        .map(|(name, rms)| ((*name).to_owned(), *rms))
        .collect();
    GradientFlow::of(&layers)
}

#[test]
fn vanishing_gradients_are_named_and_not_promised_a_cure() {
    let flow = flow(&[("in", 1e-9), ("mid", 1e-5), ("out", 0.01), ("head", 0.001)]);
    let found = flow.vanishing.clone().unwrap();
    assert_eq!(found.layer, "in");
    assert_close(found.ratio, 1e-7, 1e-12);
    assert_close(flow.first_to_last.unwrap(), 1e-6, 1e-12);
    assert_eq!(flow.exploding, None);
    let text = flow.to_string();
    assert!(
        text.contains("`in` receives 1e-7") && text.contains("clipping cannot cure"),
        "{text}"
    );
}

#[test]
fn exploding_gradients_and_the_borders() {
    let exploding = flow(&[("in", 2000.0), ("out", 1.0)]);
    assert_eq!(exploding.exploding.clone().unwrap().layer, "in");
    assert!(
        exploding
            .to_string()
            .contains("gradients explode toward the input")
    );
    assert_eq!(flow(&[("in", 1000.0), ("out", 1.0)]).exploding, None);
    assert_eq!(flow(&[("in", 0.001), ("out", 1.0)]).vanishing, None);
    assert!(flow(&[("in", 0.000_999), ("out", 1.0)]).vanishing.is_some());
}

#[test]
fn even_flow_and_layers_without_a_number() {
    let even = flow(&[("in", 0.5), ("bad", f64::NAN), ("out", 1.0)]);
    let sentence = "gradients reach every layer: the first layer's are 0.5 times as large as the last \
         layer's (below 0.001 they would vanish)";
    assert_eq!(even.to_string(), sentence);
    for layers in [&[][..], &[("only", 1.0)], &[("a", 0.0), ("b", 0.0)]] {
        assert!(flow(layers).to_string().starts_with("too few layers"));
    }
    assert_eq!(
        flow(&[("dead", 0.0), ("out", 1.0)])
            .vanishing
            .unwrap()
            .ratio,
        0.0
    );
}

#[test]
fn a_rare_but_long_gradient_is_told() {
    let mut norms = vec![0.5; 999];
    norms.push(836.0);
    let words = verdict(&norms, Some(1.0)).to_string();
    assert!(words.contains("seldom needed, but it mattered"), "{words}");
    assert!(words.contains("was 836 times as long"), "{words}");
}
