//! A run of a million steps; the timed test is run by hand:
//!
//! `cargo test --release -p shears-dash million -- --ignored --nocapture`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use axum::Router;
use axum::body::to_bytes;
use axum::http::Method;
use gradclip::ClipAction;
use serde_json::Value;
use shears_run::{Event, EventLog, FORMAT, Header, Parameter};

use crate::asking::send;
use crate::run_folder::{Runs, step_line};

async fn get(app: &Router, path: &str) -> Value {
    let response = send(app, Method::GET, "localhost", path).await;
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Extends a line to the eleven tensors of a recurrent model of two layers.
fn with_tensors(line: &str) -> String {
    let more: String = (0..8)
        .map(|tensor| format!(",\"layers.1.part_{tensor}\":0.0{tensor}1234"))
        .collect();
    line.replacen("}}", &format!("{more}}}}}"), 1)
}

/// Writes the log of a run of a million steps and eleven tensors, with a spike.
fn write_a_million_steps(path: &Path) {
    let names = |step: u64, norm: f64| -> BTreeMap<String, f64> {
        let line = with_tensors(&step_line(step, norm));
        let line: Value = serde_json::from_str(&line).unwrap();
        let tensors = line["clip"]["tensors"].as_object().unwrap();
        let tensors = tensors.iter();
        tensors
            .map(|(name, norm)| (name.clone(), norm.as_f64().unwrap()))
            .collect()
    };
    let parameter = |name: &String| Parameter {
        name: name.clone(),
        layer: name.rsplit_once('.').unwrap().0.to_string(),
        shape: vec![2, 3],
    };
    let tensors = names(1, 0.5);
    let header = Header {
        format: FORMAT,
        parameters: tensors.keys().map(parameter).collect(),
        device: "cpu".to_string(),
        precision: "f32".to_string(),
    };
    let mut log = EventLog::open(path, 0, &header).unwrap();
    let line = step_line(1, 0.5);
    let Ok(Event::Step(mut event)) = serde_json::from_str::<Event>(&line) else {
        panic!("{line}");
    };
    for step in 1..=1_000_000_u64 {
        let norm = match step {
            654_321 => 90.0,
            _ => 0.5 + (step as f64 / 5e4).sin() / 4.0,
        };
        (event.step, event.clip.norm_before) = (step, norm);
        event.clip.norm_after = norm.min(1.0);
        event.clip.coefficient = event.clip.norm_after / norm;
        event.clip.action = match norm > 1.0 {
            true => ClipAction::Clip,
            false => ClipAction::Keep,
        };
        event.loss = Some(1.5 + 2.5 / (1.0 + step as f64 / 4e4));
        let scaled = tensors
            .iter()
            .map(|(name, one)| (name.clone(), one * norm / 0.5));
        event.clip.tensors = scaled.collect();
        event.update_ratios.clear();
        if step.is_multiple_of(10) {
            event
                .update_ratios
                .extend(tensors.keys().map(|name| (name.clone(), 0.0011)));
        }
        log.append(&Event::Step(event.clone())).unwrap();
    }
}

/// Prints and bounds the time of a request.
async fn timed(app: &Router, path: &str) -> Value {
    let started = Instant::now();
    let answer = get(app, &format!("/api/{path}")).await;
    let taken = started.elapsed();
    println!("{path}: {taken:?}");
    assert!(taken.as_secs_f64() < 1.0, "{path}: {taken:?}");
    answer
}

#[tokio::test]
#[ignore = "writes more than half a gigabyte"]
async fn a_million_steps_open_in_under_a_second() {
    let runs = Runs::new();
    let run = runs.run("million", "");
    let path = run.path.join("events.jsonl");
    std::fs::remove_file(&path).unwrap();
    write_a_million_steps(&path);
    println!("{} MB", path.metadata().unwrap().len() / 1_000_000);

    // Never read.
    let app = runs.app();
    let started = Instant::now();
    let list = timed(&app, "runs").await;
    assert_eq!(list["runs"][0]["step"], 1_000_000);
    let first = timed(&app, "run?run=million").await;
    assert_eq!(first["reach"]["complete"], false);
    let series = timed(&app, "series?run=million&points=1600").await;
    assert_eq!(series["whole"], serde_json::json!([1, 1_000_000]));
    assert!(series["step"].as_array().unwrap().len() > 400);
    timed(&app, "maps?run=million&points=240").await;
    println!(
        "list and run, one request after the other: {:?}",
        started.elapsed()
    );
    while get(&app, "/api/run?run=million").await["reach"]["complete"] != true {}
    println!("all of it is read after {:?}", started.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("{}", memory.unwrap_or("memory unknown"));

    for path in [
        "series?run=million&points=1600",
        "maps?run=million&points=240",
        "run?run=million",
        "series?run=million&from=654000&to=655000",
        "step?run=million&step=654321",
    ] {
        let answer = timed(&app, path).await;
        if path.starts_with("series") {
            let max = answer["norm"]["max"].as_array().unwrap();
            assert!(max.iter().any(|max| *max == 90.0), "{path}");
        }
    }
}

/// A log that was never read is shown from a sample at first, and in full later. Bytes read are
/// counted instead of seconds, because they do not depend on the machine.
#[tokio::test]
async fn a_long_log_that_was_never_read_is_shown_at_once() {
    const STEPS: u64 = 60_000;
    let runs = Runs::new();
    let run = runs.run("long", "");
    let mut log = BufWriter::new(File::create(run.path.join("events.jsonl")).unwrap());
    for step in 1..=STEPS {
        let line = step_line(step, 0.5 + (step as f64 / 5e3).sin() / 4.0);
        log.write_all(with_tensors(&line).as_bytes()).unwrap();
    }
    log.flush().unwrap();
    let path = run.path.join("events.jsonl");
    let length = path.metadata().unwrap().len();
    assert!(length > 16 << 20, "{length} bytes are not sampled");
    let sample = shears_run::LogSample::of(&path, 512).unwrap();
    assert!(sample.bytes < 5 << 20, "{} bytes were read", sample.bytes);

    let app = runs.app();
    let first = get(&app, "/api/series?run=long&points=500").await;
    let whole = serde_json::json!([1, STEPS]);
    assert_eq!(first["whole"], whole, "from the first step to the last");
    if first["reach"]["complete"] == false {
        assert!(first["rows"].as_u64().unwrap() < STEPS / 4, "a sample");
    }
    while get(&app, "/api/series?run=long").await["reach"]["complete"] != true {}
    let all = get(&app, "/api/series?run=long&points=500").await;
    assert_eq!((&all["whole"], &all["rows"]), (&whole, &STEPS.into()));
}
