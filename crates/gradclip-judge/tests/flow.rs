//! The flow of gradients, in numbers and in words.

use gradclip_judge::GradientFlow;

#[track_caller]
fn assert_close(actual: f64, expected: f64, relative: f64) {
    let error = (actual - expected).abs();
    assert!(
        error <= relative * expected.abs(),
        "{actual} is not {expected} to {relative}"
    );
}

fn flow(layers: &[(&str, f64)]) -> GradientFlow {
    let layers: Vec<(String, f64)> = layers
        .iter()
        .map(|(name, rms)| ((*name).to_owned(), *rms))
        .collect();
    GradientFlow::of(&layers)
}

#[test]
fn vanishing_gradients_are_named_without_promising_a_cure() {
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
    let sentence = "gradients reach every layer: the first layer's are 0.5 times as large as the \
         last layer's (below 0.001 they would vanish)";
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
