//! Reading arbitrary files never panics or allocates absurd amounts of memory.

use std::fs;
use std::path::Path;

use shears_data::sha256_hex;
use shears_model::{Architecture, RecurrentModel, gru};
use shears_run::{Columns, Event, EventLog, Glance, Log, LogSample, Subject};
use shears_train::{CheckpointStore, Plan};

use crate::fuzzing::Target;
use crate::tiny;

fn header() -> shears_run::Header {
    let plan = tiny::plan(Architecture::Gru);
    let trainer = tiny::trainer::<RecurrentModel>(gru, &plan);
    shears_train::header(&plan, &shears_model::parameters(trainer.model()))
}

/// A log can be judged, whatever it holds.
fn assert_judged(columns: &Columns, path: &Path) {
    let subject = Subject {
        folder: path.to_path_buf(),
        ..Subject::default()
    };
    let judgement = columns.judge(&subject);
    for line in judgement.lines() {
        assert!(!line.contains('\n'), "{line}");
    }
    assert!(judgement.json().is_object());
    assert!(judgement.without_end(false, &subject).next.is_some());
    for (_, norms) in columns.layer_norms(0..columns.rows()).unwrap_or_default() {
        assert_eq!(norms.len(), columns.rows());
    }
    let said = columns.exchanged().map(|exchanged| exchanged.to_string());
    assert!(!said.is_some_and(|said| said.contains('\n')));
    for ranks in &columns.ranks {
        assert!(!ranks.words().is_empty());
    }
}

/// A log in any partially written state can be read, judged and continued.
pub(crate) fn log() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let header = header();
    let mut log = EventLog::open(&path, 0, &header).unwrap();
    log.append(&tiny::step_event(1)).unwrap();
    let evaluation = shears_run::Evaluation {
        step: 1,
        val_loss: 2.5,
        bits_per_char: f64::NAN,
        perplexity: f64::INFINITY,
    };
    log.append(&Event::Evaluation(evaluation)).unwrap();
    log.append(&Event::StateGradients {
        step: 1,
        layers: [("layers.0".to_string(), vec![Some(0.5), None])].into(),
    })
    .unwrap();
    let text = "a \u{1b}[31m sample".to_string();
    let sample = shears_run::Sample { step: 1, text };
    log.append(&Event::Sample(sample)).unwrap();
    log.append(&tiny::step_event(2)).unwrap();
    log.append(&Event::End {
        step: 2,
        how: shears_run::EndReason::Finished,
        message: Some("in words".to_string()),
    })
    .unwrap();
    drop(log);
    let seed = fs::read(&path).unwrap();
    Target::new("shears-train", "log", vec![seed], move |input| {
        let path = folder.path().join("events.jsonl");
        fs::write(&path, input).unwrap();
        Glance::at(&path);
        if let Ok(log) = Log::read(path.clone()) {
            let events = log.events().unwrap();
            assert!(events.map(Result::unwrap).count() < 1000);
            assert_judged(&log.columns, &path);
        }
        if let Ok(sample) = LogSample::of(&path, 3) {
            assert_judged(&sample.columns, &path);
        }
        match EventLog::open(&path, 1, &header) {
            // The continued log is complete.
            Ok(log) => drop(log),
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                return;
            }
        }
        let log = Log::read(path.clone()).unwrap();
        assert_eq!(log.damage, None);
        assert!(log.columns.step.iter().all(|step| *step <= 1));
        let _ = fs::remove_file(path.with_file_name(shears_run::DAMAGED));
    })
}

/// Any text is a valid plan or is refused.
pub(crate) fn plan() -> Target {
    let seeds: Vec<Vec<u8>> = Architecture::ALL
        .iter()
        .map(|&model| toml::to_string(&tiny::plan(model)).unwrap().into_bytes())
        .collect();
    Target::new("shears-train", "plan", seeds, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let Ok(plan) = toml::from_str::<Plan>(text) else {
            return;
        };
        if plan.validate().is_ok() {
            assert!(plan.layers >= 1 && plan.keep >= 2 && plan.lr > 0.0);
            let again: Plan = toml::from_str(&toml::to_string(&plan).unwrap()).unwrap();
            assert_eq!(again, plan);
        }
    })
}

/// Corrects the manifest's hash of a file.
fn sign(folder: &Path, file: &str, content: &[u8]) {
    let path = folder.join("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["sha256"][file] = sha256_hex(content).into();
    fs::write(folder.join(file), content).unwrap();
    fs::write(path, manifest.to_string()).unwrap();
}

/// The content with a control character after each occurrence of a word.
fn with_control(content: &[u8], word: &str) -> Vec<u8> {
    let content = String::from_utf8_lossy(content);
    content.replace(word, &format!("{word}\u{7f}")).into_bytes()
}

/// A checkpoint, one file of which is fuzzed, with a correct hash in the manifest.
fn checkpoint_with(name: &'static str, file: &'static str) -> Target {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path());
    let plan = tiny::plan(Architecture::Gru);
    let mut trainer = tiny::trainer::<RecurrentModel>(gru, &plan);
    trainer.step().unwrap();
    let path = store.save(&trainer.checkpoint()).unwrap();
    store.load(&path).unwrap();
    let seeds = vec![
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}".to_vec(),
        b"\0\0\0\0\0\0\0\x80{}".to_vec(),
        [&[0x10, 0x27, 0, 0, 0, 0, 0, 0], &b"[".repeat(10_000)[..]].concat(),
        [&[2, 0, 0, 0, 0, 0, 0, 0], &b"{}trailing"[..]].concat(),
        b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
        fs::read(path.join(file)).unwrap(),
        // Names and values of settings are quoted in errors.
        with_control(&fs::read(path.join(file)).unwrap(), "tokenizer"),
        with_control(&fs::read(path.join(file)).unwrap(), "gru"),
    ];
    Target::new("shears-train", name, seeds, move |input| {
        match file {
            "manifest.json" => fs::write(path.join(file), input).unwrap(),
            _ => sign(&path, file, input),
        }
        let loaded = CheckpointStore::new(folder.path()).load(&path);
        if let Err(error) = loaded {
            assert!(error.path.starts_with(&path), "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    })
}

pub(crate) fn checkpoint_manifest() -> Target {
    checkpoint_with("checkpoint_manifest", "manifest.json")
}

pub(crate) fn checkpoint_state() -> Target {
    checkpoint_with("checkpoint_state", "state.json")
}

pub(crate) fn checkpoint_tensors() -> Target {
    checkpoint_with("checkpoint_tensors", "carried.safetensors")
}

#[test]
fn no_log_panics() {
    log().run();
}

#[test]
fn no_plan_panics() {
    plan().run();
}

#[test]
fn no_manifest_of_a_checkpoint_panics() {
    checkpoint_manifest().run();
}

#[test]
fn no_state_of_a_checkpoint_panics() {
    checkpoint_state().run();
}

#[test]
fn no_header_of_a_checkpoint_panics() {
    checkpoint_tensors().run();
}
