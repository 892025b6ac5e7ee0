//! `shears export`: the table matches the log.

use std::collections::BTreeMap;
use std::fs::{self, File};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use crate::program::{Scratch, TINY, has};

const STEP_COLUMNS: [&str; 17] = [
    "step",
    "loss",
    "lr",
    "tokens_per_second",
    "action",
    "norm_before",
    "norm_after",
    "coefficient",
    "threshold",
    "clipped_share",
    "cosine",
    "non_finite",
    "skip_reason",
    "first_non_finite",
    "val_loss",
    "bits_per_char",
    "perplexity",
];

/// A run with a skipped step, a missing norm, and evaluations at steps 20 and 40.
fn trained() -> Scratch {
    let scratch = Scratch::new();
    let flags = "--quiet --out run --clip global-norm:0.3 --sample-every 15";
    scratch.run(&format!("train {TINY} {flags}")).succeeded();
    let mut events = scratch.events("run");
    let bad = events.iter_mut().find(|event| event["step"] == 7).unwrap();
    bad["loss"] = Value::Null;
    bad["clip"]["norm_before"] = Value::Null;
    bad["clip"]["action"] = "skip".into();
    bad["clip"]["non_finite"] = 3.into();
    bad["clip"]["skip_reason"] = "gradients were not finite, or \"so\"".into();
    bad["clip"]["first_non_finite"] = "layers.0.weight_hh".into();
    let tensors = bad["clip"]["tensors"].as_object_mut().unwrap();
    tensors.remove("layers.0.weight_hh").unwrap();
    let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
    scratch.write("run/events.jsonl", lines.concat());
    scratch
}

/// The expected values of each row, by column: null is missing, and the text "NaN" not finite.
fn expected(scratch: &Scratch) -> Vec<BTreeMap<String, Value>> {
    let events = scratch.events("run");
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let row = |event: &Value| {
        let mut row = BTreeMap::new();
        for column in ["step", "loss", "lr", "tokens_per_second"] {
            row.insert(column.to_string(), event[column].clone());
        }
        let evaluation = of_kind("evaluation").find(|found| found["step"] == event["step"]);
        for column in ["val_loss", "bits_per_char", "perplexity"] {
            let value = evaluation.map_or(Value::Null, |found| found[column].clone());
            row.insert(column.to_string(), value);
        }
        for (key, value) in event["clip"].as_object().unwrap() {
            row.insert(key.clone(), value.clone());
        }
        for column in ["skip_reason", "first_non_finite"] {
            row.entry(column.to_string()).or_insert(Value::Null);
        }
        let tensors = row.remove("tensors").unwrap();
        for (tensor, norm) in tensors.as_object().unwrap() {
            row.insert(format!("norm:{tensor}"), norm.clone());
        }
        for column in ["loss", "norm_before"] {
            if row[column].is_null() {
                row.insert(column.to_string(), "NaN".into());
            }
        }
        row
    };
    of_kind("step").map(row).collect()
}

#[track_caller]
fn check_field(column: &str, field: &str, expected: &Value) {
    match expected {
        Value::Null => assert_eq!(field, "", "{column}"),
        Value::String(text) => assert_eq!(field, text, "{column}"),
        number => assert_eq!(
            field.parse::<f64>().unwrap(),
            number.as_f64().unwrap(),
            "{column}"
        ),
    }
}

#[test]
fn an_unreadable_step_is_reported_and_the_others_are_exported() {
    let scratch = trained();
    let log = scratch.read("run/events.jsonl");
    let mut events = scratch.events("run");
    let bad = events.iter_mut().find(|event| event["step"] == 4).unwrap();
    bad["lr"] = Value::Null;
    let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
    assert_ne!(lines.concat(), log);
    scratch.write("run/events.jsonl", lines.concat());
    let ran = scratch.run("export run");
    assert!(
        ran.stderr.contains("is not an event and was skipped"),
        "{ran:#?}"
    );
    assert_eq!(ran.succeeded().lines().count(), 1 + 39);
}

#[test]
fn csv_has_the_rows_of_the_log() {
    let scratch = trained();
    let expected = expected(&scratch);
    assert_eq!(expected.len(), 40);
    for tensors in [false, true] {
        let flags = if tensors { "--tensors" } else { "" };
        let text = scratch.run(&format!("export run {flags}")).succeeded();
        let mut table = csv::Reader::from_reader(text.as_bytes());
        let names: Vec<String> = table.headers().unwrap().iter().map(String::from).collect();
        assert_eq!(names[..17], STEP_COLUMNS);
        // In the order of the forward pass, as in the header.
        let header = &scratch.events("run")[0];
        let parameters = header["parameters"].as_array().unwrap().iter();
        let known =
            parameters.map(|parameter| format!("norm:{}", parameter["name"].as_str().unwrap()));
        let known: Vec<String> = known.filter(|_| tensors).collect();
        assert_eq!(names[17..], known);
        let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            for (name, field) in names.iter().zip(row) {
                check_field(name, field, expected.get(name).unwrap_or(&Value::Null));
            }
        }
        let evaluated = rows.iter().filter(|row| !row[14].is_empty()).count();
        assert_eq!(evaluated, 2);
        assert_eq!(&rows[6][12], "gradients were not finite, or \"so\"");
    }
}

#[test]
fn parquet_is_read_back_as_the_log() {
    let scratch = trained();
    let expected = expected(&scratch);
    let text = scratch
        .run("export run --out steps.parquet --tensors")
        .succeeded();
    assert_eq!(text, "");
    let reader = SerializedFileReader::new(File::open(scratch.path("steps.parquet")).unwrap());
    let reader = reader.unwrap();
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        let names: Vec<&String> = row.get_column_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..17], STEP_COLUMNS.each_ref());
        assert!(
            names[17..]
                .iter()
                .any(|name| *name == "norm:layers.0.weight_hh")
        );
        for (name, field) in row.get_column_iter() {
            let text = match field {
                Field::Null => String::new(),
                Field::Long(value) => value.to_string(),
                Field::Double(value) => value.to_string(),
                Field::Str(text) => text.clone(),
                other => panic!("{name} is {other:?}"),
            };
            check_field(name, &text, expected.get(name).unwrap_or(&Value::Null));
        }
    }
}

#[test]
fn nothing_is_overwritten_without_force() {
    let scratch = trained();
    scratch.write("steps.csv", "mine");
    let message = scratch.run("export run --out steps.csv").failed(2);
    has(&message, "--out steps.csv: already exists");
    assert_eq!(scratch.read("steps.csv"), "mine");
    scratch
        .run("export run --out steps.csv --force")
        .succeeded();
    let printed = scratch.run("export run --format csv").succeeded();
    assert_eq!(scratch.read("steps.csv"), printed);
    // Only the file remains.
    let left = scratch.listing().into_iter();
    let left: Vec<_> = left
        .filter(|path| path.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[test]
fn unsupported_exports_are_refused() {
    let scratch = trained();
    for (flags, code, part) in [
        ("run --format parquet", 2, "give a file with --out FILE"),
        ("nowhere", 2, "there is no such run"),
        ("run --out run", 2, "--out run: is a folder"),
        (
            "run --out no/such/steps.csv",
            1,
            "cannot write no/such/steps.csv",
        ),
    ] {
        let message = scratch.run(&format!("export {flags}")).failed(code);
        has(&message, part);
    }
    let ran = scratch.run("export run --force");
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    fs::remove_file(scratch.path("run/events.jsonl")).unwrap();
    let message = scratch.run("export run").failed(2);
    has(&message, "no steps are recorded");
    let unread = trained().run_unread("export run");
    assert_eq!((unread.code, unread.stderr.as_str()), (Some(0), ""));
}
