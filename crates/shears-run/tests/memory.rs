//! The memory for reading a long log. A binary of its own, because its size is part of the peak.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};

use gradclip::ClipAction;
use gradclip_judge::StepRecord;
use shears_run::{
    ClipEvent, Columns, Event, EventLog, FORMAT, Header, Log, Parameter, StepEvent, Subject,
};

const STEPS: u64 = 200_000;
const TENSORS: usize = 12;

/// The peak memory of this process; `None` where the system does not report it.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn name(tensor: usize) -> String {
    format!("layers.{}.weight_{}", tensor / 4, tensor % 4)
}

fn header() -> Header {
    let parameter = |tensor| Parameter {
        name: name(tensor),
        layer: format!("layers.{}", tensor / 4),
        shape: vec![16, 16],
    };
    Header {
        format: FORMAT,
        parameters: (0..TENSORS).map(parameter).collect(),
        device: "cpu".to_string(),
        precision: "f32".to_string(),
    }
}

fn step(step: u64) -> Event {
    let norm = 1.0 + (step % 7) as f64;
    let tensors: BTreeMap<String, f64> = (0..TENSORS).map(|t| (name(t), 0.25 * norm)).collect();
    Event::Step(StepEvent {
        step,
        loss: Some(2.0),
        lr: 0.01,
        tokens_per_second: 1e5,
        clip: ClipEvent {
            action: ClipAction::Clip,
            norm_before: norm,
            norm_after: 1.0,
            coefficient: 1.0 / norm,
            threshold: Some(1.0),
            skip_reason: None,
            non_finite: 0,
            first_non_finite: None,
            clipped_share: 0.0,
            rounded_to_zero: None,
            cosine: Some(1.0),
            tensors,
        },
        update_ratios: BTreeMap::new(),
        exchange: None,
    })
}

#[test]
fn a_long_log_is_read_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    drop(EventLog::open(&path, 0, &header()).unwrap());
    let file = File::options().append(true).open(&path).unwrap();
    let mut file = BufWriter::new(file);
    for number in 1..=STEPS {
        writeln!(file, "{}", serde_json::to_string(&step(number)).unwrap()).unwrap();
    }
    file.flush().unwrap();

    let before = peak();
    let log = Log::read(path.clone()).unwrap();
    let columns = &log.columns;
    assert_eq!(columns.rows() as u64, STEPS);
    assert_eq!(
        columns.records().filter(StepRecord::clipped).count() as u64,
        STEPS
    );
    assert!(columns.gradient_flow().unwrap().vanishing.is_none());
    let judgement = columns.judge(&Subject::of(folder.path()));
    assert_eq!(judgement.verdict.numbers.clipped as u64, STEPS);
    let events = log.events().unwrap().map(Result::unwrap);
    let sum: u64 = events.map(|event| event.step()).sum();
    assert_eq!(sum, STEPS * (STEPS + 1) / 2);
    // A resumed run reads the log too.
    drop(EventLog::open(&path, STEPS, &header()).unwrap());
    let (Some(before), Some(after)) = (before, peak()) else {
        println!("skipped: this system does not tell what a process takes");
        return;
    };
    let estimate = Columns::estimate(STEPS, TENSORS);
    let ratio = (after - before) as f64 / estimate as f64;
    println!(
        "{} MB before, {} MB after: {ratio:.2} of the estimate",
        before >> 20,
        after >> 20
    );
    assert!((0.8..=1.2).contains(&ratio));
}
