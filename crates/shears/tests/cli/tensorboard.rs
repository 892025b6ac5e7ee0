//! `shears train --tensorboard`: the event files, read by a parser of their own.
//!
//! `tools/check_tensorboard.py` reads such a run by TensorBoard itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::program::{Scratch, TINY};

/// The value of a field of a protobuf message.
#[derive(Clone, Debug)]
enum Field {
    Integer(u64),
    Double(f64),
    Float(f32),
    Bytes(Vec<u8>),
}

/// The fields of a message, by number.
#[derive(Clone, Debug, Default)]
struct Message(BTreeMap<u64, Vec<Field>>);

impl Message {
    fn parse(mut bytes: &[u8]) -> Message {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = take(bytes, 1)[0];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut message = Message::default();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Integer(varint(&mut bytes)),
                1 => Field::Double(f64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    Field::Bytes(take(&mut bytes, length).to_vec())
                }
                5 => Field::Float(f32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap())),
                other => panic!("wire type {other}"),
            };
            message.0.entry(key >> 3).or_default().push(field);
        }
        message
    }

    fn fields(&self, number: u64) -> &[Field] {
        self.0.get(&number).map_or(&[], Vec::as_slice)
    }

    fn bytes(&self, number: u64) -> Option<&[u8]> {
        match self.fields(number) {
            [Field::Bytes(bytes)] => Some(bytes),
            _ => None,
        }
    }

    fn text(&self, number: u64) -> Option<String> {
        Some(String::from_utf8(self.bytes(number)?.to_vec()).unwrap())
    }

    fn messages(&self, number: u64) -> Vec<Message> {
        let parse = |field: &Field| match field {
            Field::Bytes(bytes) => Message::parse(bytes),
            other => panic!("{other:?} is not a message"),
        };
        self.fields(number).iter().map(parse).collect()
    }

    fn integer(&self, number: u64) -> u64 {
        match self.fields(number) {
            [Field::Integer(value)] => *value,
            _ => 0,
        }
    }

    fn double(&self, number: u64) -> f64 {
        match self.fields(number) {
            [Field::Double(value)] => *value,
            other => panic!("{other:?} is not a number"),
        }
    }

    fn doubles(&self, number: u64) -> Vec<f64> {
        let bytes = self.bytes(number).unwrap();
        let values = bytes.chunks(8);
        values
            .map(|value| f64::from_le_bytes(value.try_into().unwrap()))
            .collect()
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// CRC-32C bit by bit, then TensorFlow's mask.
fn checksum(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The `Event` messages of a file.
fn records(file: &[u8]) -> Vec<Message> {
    let mut rest = file;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = take(&mut rest, 8);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(number(take(&mut rest, 4)), checksum(length));
        let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        let data = take(&mut rest, length);
        assert_eq!(number(take(&mut rest, 4)), checksum(data));
        records.push(Message::parse(data));
    }
    records
}

/// The event files of a run in the order in which TensorBoard reads them.
fn files(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch.path("run/tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What TensorBoard shows after reading all files: for each tag the step and value of each record.
type Tags = BTreeMap<String, Vec<(u64, Message)>>;

fn tags(scratch: &Scratch) -> Tags {
    let mut tags = Tags::new();
    for file in files(scratch) {
        let records = records(&fs::read(file).unwrap());
        assert_eq!(records[0].text(3).unwrap(), "brain.Event:2");
        for record in records {
            assert!(record.double(1) > 1.7e9);
            let step = record.integer(2);
            if record
                .messages(7)
                .iter()
                .any(|session| session.integer(1) == 1)
            {
                for values in tags.values_mut() {
                    values.retain(|(known, _)| *known < step);
                }
            }
            for value in record
                .messages(5)
                .iter()
                .flat_map(|summary| summary.messages(1))
            {
                tags.entry(value.text(1).unwrap())
                    .or_default()
                    .push((step, value));
            }
        }
    }
    tags
}

fn scalars(tags: &Tags, tag: &str) -> Vec<(u64, f32)> {
    let values = tags
        .get(tag)
        .unwrap_or_else(|| panic!("no {tag} in {:?}", tags.keys()));
    let number = |(step, value): &(u64, Message)| match value.fields(2) {
        [Field::Float(value)] => (*step, *value),
        other => panic!("{tag} is {other:?}"),
    };
    values.iter().map(number).collect()
}

/// The log, in the form of TensorBoard.
fn logged(scratch: &Scratch, kind: &str, pointer: &str) -> Vec<(u64, f32)> {
    let events = scratch.events("run").into_iter();
    let events = events.filter(|event| event["event"] == kind);
    let value = |event: Value| {
        let value = event.pointer(pointer)?.as_f64()?;
        Some((event["step"].as_u64()?, value as f32))
    };
    events.filter_map(value).collect()
}

#[track_caller]
fn agrees_with_the_log(scratch: &Scratch, tags: &Tags) {
    for (tag, kind, pointer) in [
        ("loss/train", "step", "/loss"),
        ("training/lr", "step", "/lr"),
        ("training/tokens_per_second", "step", "/tokens_per_second"),
        ("gradient_norm/before", "step", "/clip/norm_before"),
        ("gradient_norm/after", "step", "/clip/norm_after"),
        ("gradient_norm/threshold", "step", "/clip/threshold"),
        ("clipping/coefficient", "step", "/clip/coefficient"),
        ("loss/validation", "evaluation", "/val_loss"),
        (
            "validation/bits_per_character",
            "evaluation",
            "/bits_per_char",
        ),
        ("validation/perplexity", "evaluation", "/perplexity"),
    ] {
        assert_eq!(scalars(tags, tag), logged(scratch, kind, pointer), "{tag}");
    }
    // Share of the last hundred steps, whichever program took them.
    let events = scratch.events("run").into_iter();
    let clipped = events.filter(|event| event["event"] == "step");
    let clipped: Vec<bool> = clipped
        .map(|event| event["clip"]["action"] == "clip")
        .collect();
    let share = |end: usize| {
        let window = &clipped[end.saturating_sub(100)..end];
        window.iter().filter(|clipped| **clipped).count() as f64 / window.len() as f64
    };
    let shares: Vec<(u64, f32)> = (1..=clipped.len())
        .map(|end| (end as u64, share(end) as f32))
        .collect();
    assert_eq!(scalars(tags, "clipping/share_clipped"), shares);
}

#[test]
fn event_files_match_the_log() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 120");
    let flags = format!("{flags} --clip global-norm:0.3 --sample-every 50 --tensorboard");
    let ran = scratch.run(&format!("train {flags} --quiet --out run"));
    assert_eq!(ran.stderr, "");
    ran.succeeded();
    assert_eq!(files(&scratch).len(), 1);
    let tags = tags(&scratch);
    agrees_with_the_log(&scratch, &tags);

    let norms = logged(&scratch, "step", "/clip/tensors/layers.0.weight_hh");
    let histograms = &tags["norm/layers.0.weight_hh"];
    let steps: Vec<u64> = histograms.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [50, 100, 120]);
    for ((_, value), window) in histograms.iter().zip(norms.chunks(50)) {
        let histogram = value.messages(5).remove(0);
        let window: Vec<f64> = window.iter().map(|(_, norm)| f64::from(*norm)).collect();
        let count = window.len() as f64;
        assert_eq!(histogram.double(3), count);
        let sum: f64 = window.iter().sum();
        assert!((histogram.double(4) - sum).abs() <= 1e-6 * sum);
        let (limits, counts) = (histogram.doubles(6), histogram.doubles(7));
        assert_eq!((limits.len(), counts.len()), (30, 30));
        assert_eq!(counts.iter().sum::<f64>(), count);
        assert!(limits.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(*limits.last().unwrap(), histogram.double(2));
        let below = |limit: f64| window.iter().filter(|norm| **norm < limit).count() as f64;
        let middle = counts[..15].iter().sum::<f64>();
        assert!((below(limits[14]) - middle).abs() <= 1.0);
    }

    let events = scratch.events("run").into_iter();
    let samples: Vec<Value> = events.filter(|event| event["event"] == "sample").collect();
    assert_eq!(samples.len(), 2);
    for ((step, value), sample) in tags["sample"].iter().zip(&samples) {
        assert_eq!(*step, sample["step"]);
        let plugin = value.messages(9)[0].messages(1).remove(0);
        assert_eq!(plugin.text(1).unwrap(), "text");
        let text = value.messages(8)[0].text(8).unwrap();
        let lines = text.lines().map(|line| line.strip_prefix("    ").unwrap());
        let shown: Vec<&str> = lines.collect();
        let written: Vec<&str> = sample["text"].as_str().unwrap().lines().collect();
        assert_eq!(shown, written);
    }
}

#[test]
fn the_plan_is_a_table_of_hyperparameters() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 3");
    scratch.train(format!("{flags} --tensorboard"), "run");
    let tags = tags(&scratch);
    let content = |tag: &str| {
        let plugin = tags[tag][0].1.messages(9)[0].messages(1).remove(0);
        assert_eq!(plugin.text(1).unwrap(), "hparams");
        plugin.messages(2).remove(0)
    };
    let start = content("_hparams_/session_start_info")
        .messages(3)
        .remove(0);
    let found: BTreeMap<String, Message> = start
        .messages(1)
        .iter()
        .map(|entry| (entry.text(1).unwrap(), entry.messages(2).remove(0)))
        .collect();
    let mut plan = scratch.plan("run");
    plan.remove("text-sha256");
    plan.remove("val-sha256");
    plan.remove("plan-format");
    plan.remove("tokenizer-sha256");
    let names: Vec<&String> = plan.keys().collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), names);
    for (name, value) in &plan {
        let found = &found[name];
        match value {
            toml::Value::Integer(value) => assert_eq!(found.double(2), *value as f64, "{name}"),
            toml::Value::Float(value) => assert_eq!(found.double(2), *value, "{name}"),
            toml::Value::Boolean(value) => assert_eq!(found.integer(4) == 1, *value, "{name}"),
            toml::Value::String(text) => assert_eq!(found.text(3).unwrap(), *text, "{name}"),
            _ => assert_eq!(found.text(3).unwrap(), "", "{name}"),
        }
    }
    let end = content("_hparams_/session_end_info").messages(4).remove(0);
    assert_eq!(end.integer(1), 1);
}

#[test]
fn a_resumed_run_purges_repeated_steps() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 20000");
    let flags = format!("{flags} --clip global-norm:0.3 --sample-every 30");
    let train = format!("train {flags} --quiet --tensorboard --out run");
    scratch.start(&train, "run", 75).kill();
    assert_eq!(files(&scratch).len(), 1);
    let resume = "train --resume run --quiet --tensorboard";
    scratch.start(resume, "run", 200).terminate();
    let files = files(&scratch);
    assert_eq!(files.len(), 2);
    let records = records(&fs::read(&files[1]).unwrap());
    let begins = records.iter().find(|record| !record.messages(7).is_empty());
    // The last checkpoint was at a multiple of ten.
    let begins = begins.unwrap().integer(2);
    assert_eq!(begins % 10, 1);
    let values = records.iter().find(|record| !record.messages(5).is_empty());
    assert_eq!(values.unwrap().integer(2), begins);

    let tags = tags(&scratch);
    agrees_with_the_log(&scratch, &tags);
    let count = |value: &Message| value.messages(5)[0].double(3);
    for (step, histogram) in &tags["norm/layers.0.weight_hh"] {
        assert_eq!((step % 50, count(histogram)), (0, 50.0));
    }
}

#[test]
fn a_resumed_run_writes_its_whole_history() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 20000");
    let flags = format!("{flags} --clip global-norm:0.3 --sample-every 30");
    let train = format!("train {flags} --quiet --out run");
    scratch.start(&train, "run", 75).terminate();
    assert!(!scratch.path("run/tensorboard").exists());
    for more in [50, 50] {
        let lines = scratch.events("run").len() + more;
        let resume = "train --resume run --quiet --tensorboard";
        scratch.start(resume, "run", lines).terminate();
        agrees_with_the_log(&scratch, &tags(&scratch));
    }
    assert_eq!(files(&scratch).len(), 2);
}
