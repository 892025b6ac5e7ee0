//! Golden values computed by the frameworks and from the publications.
//!
//! The files are written by `tools/golden/clipping.py`, which documents the format.

use std::collections::BTreeMap;
use std::path::Path;

use gradclip::{ClipAction, ClipReport, Clipper, NonFinite, Outcome, Unscaled};
use serde::Deserialize;

use crate::model::{Buffer, Model, Stored, Tensor};

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    policy: String,
    relative_tolerance: f64,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    loss: Option<Number>,
    tensors: Vec<GoldenTensor>,
    expected: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenTensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    gradient: Vec<Number>,
    parameter: Option<Vec<Number>>,
}

/// Missing values are not given by the source.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    norm_before: Option<Number>,
    threshold: Option<Number>,
    tensors: BTreeMap<String, Vec<Number>>,
    action: Option<String>,
}

/// A number, or the name of a value that JSON cannot represent.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Named(String),
}

impl Number {
    fn get(&self) -> f64 {
        match self {
            Number::Finite(number) => *number,
            Number::Named(name) => name.parse().expect("NaN, Infinity or -Infinity"),
        }
    }
}

#[test]
fn pytorch() {
    replay_file("torch.json", 61);
}

#[test]
fn tensorflow() {
    replay_file("tensorflow.json", 19);
}

#[test]
fn keras() {
    replay_file("keras.json", 9);
}

#[test]
fn optax() {
    replay_file("optax.json", 43);
}

#[test]
fn publications() {
    replay_file("published.json", 85);
}

/// Replays every case of a file and shows all mismatches. Fails if cases are missing.
fn replay_file(file: &str, least_cases: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let golden: File =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let cases = golden.cases.len();
    assert!(
        cases >= least_cases,
        "{file} has {cases} cases, and should have {least_cases}"
    );
    let mismatches: Vec<String> = golden.cases.iter().flat_map(replay_case).collect();
    let count = mismatches.len();
    assert!(
        mismatches.is_empty(),
        "{file}: {count} mismatches\n{}",
        mismatches.join("\n")
    );
}

fn replay_case(case: &Case) -> Vec<String> {
    assert!(!case.steps.is_empty(), "{} has no steps", case.name);
    let policy = case
        .policy
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let mut clipper = Clipper::new(policy, NonFinite::Error).expect("no rule inside Adam");
    let mut mismatches = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        let place = format!("{}, {}, step {index}", case.name, case.policy);
        let gradients = Unscaled::single(Model(step.tensors.iter().map(tensor).collect()));
        let outcome = match &step.loss {
            Some(loss) => clipper.clip_with_loss(gradients, loss.get()),
            None => clipper.clip(gradients),
        };
        let (model, report) = match outcome {
            Ok(Outcome::Apply(clipped)) => clipped.into_parts(),
            Ok(Outcome::Skip { gradients, report }) => (gradients, report),
            Err(error) => {
                mismatches.push(format!("{place}: {error}"));
                continue;
            }
        };
        let found = compare(step, &model, &report, case.relative_tolerance);
        mismatches.extend(
            found
                .into_iter()
                .map(|mismatch| format!("{place}: {mismatch}")),
        );
    }
    mismatches
}

fn tensor(golden: &GoldenTensor) -> Tensor {
    let values = |list: &[Number]| -> Buffer {
        let exact: Vec<f64> = list.iter().map(Number::get).collect();
        let stored = Buffer::of(&golden.dtype, &exact);
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<u64>>();
        assert_eq!(
            bits(stored.to_f64()),
            bits(exact),
            "not exact values of {}",
            golden.dtype
        );
        stored
    };
    Tensor {
        name: golden.name.clone(),
        shape: golden.shape.clone(),
        gradient: values(&golden.gradient),
        parameter: golden.parameter.as_deref().map(values),
    }
}

fn compare(step: &Step, model: &Model, report: &ClipReport, tolerance: f64) -> Vec<String> {
    let mut mismatches = Vec::new();
    let mut check = |what: String, expected: f64, found: f64| {
        if !is_close(found, expected, tolerance) {
            let error = (found / expected - 1.0).abs();
            mismatches.push(format!(
                "{what} is {found:e}, and should be {expected:e} (relative error {error:.1e}, \
                 tolerance {tolerance:e})"
            ));
        }
    };
    if let Some(norm) = &step.expected.norm_before {
        check("norm_before".to_owned(), norm.get(), report.norm_before);
    }
    if let Some(threshold) = &step.expected.threshold {
        let found = report.threshold.unwrap_or(f64::NAN);
        check("threshold".to_owned(), threshold.get(), found);
    }
    for tensor in &model.0 {
        let expected = &step.expected.tensors[&tensor.name];
        let found = tensor.gradient.to_f64();
        assert_eq!(found.len(), expected.len(), "elements of {}", tensor.name);
        for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
            check(
                format!("tensor {}, element {index}", tensor.name),
                expected.get(),
                found,
            );
        }
    }
    assert_eq!(
        model.0.len(),
        step.expected.tensors.len(),
        "expected tensors"
    );
    let action = match report.action {
        ClipAction::Keep => "keep",
        ClipAction::Clip => "clip",
        ClipAction::Skip => "skip",
    };
    if let Some(expected) = step
        .expected
        .action
        .as_deref()
        .filter(|expected| *expected != action)
    {
        mismatches.push(format!("action is {action}, and should be {expected}"));
    }
    mismatches
}

/// A tolerance of zero means bit for bit.
fn is_close(found: f64, expected: f64, tolerance: f64) -> bool {
    found.to_bits() == expected.to_bits()
        || (found - expected).abs() <= tolerance * expected.abs() && tolerance > 0.0
}

#[test]
fn a_mismatch_names_case_step_tensor_and_element() {
    let text = r#"{"name": "made_up", "policy": "global-norm:1", "relative_tolerance": 1e-6,
        "steps": [{"loss": null,
            "tensors": [{"name": "w", "shape": [2], "dtype": "f32", "gradient": [3.0, 4.0]}],
            "expected": {"norm_before": 5.0, "tensors": {"w": [0.6, 0.81]}, "action": "keep"}}]}"#;
    let case: Case = serde_json::from_str(text).expect("a case");
    let mismatches = replay_case(&case);
    assert_eq!(mismatches.len(), 2, "{mismatches:?}");
    let place = "made_up, global-norm:1, step 0: ";
    assert!(mismatches[0].starts_with(&format!("{place}tensor w, element 1 is ")));
    assert_eq!(
        mismatches[1],
        format!("{place}action is clip, and should be keep")
    );
    assert!(!is_close(0.0, -0.0, 0.0) && !is_close(f64::NAN, 1.0, 0.1));
}
