//! Logs as other versions and accidents leave them.

use std::fs;

use crate::program::{Scratch, has};

fn lines(scratch: &Scratch) -> Vec<String> {
    let text = scratch.read("run/events.jsonl");
    text.lines().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_log_begins_with_its_header() {
    let scratch = Scratch::trained();
    let header = &scratch.events("run")[0];
    assert_eq!(header["event"], "header");
    assert_eq!(header["format"], 2);
    assert_eq!(header["device"], "cpu");
    assert_eq!(header["precision"], "f32");
    let parameters = header["parameters"].as_array().unwrap();
    assert_eq!(parameters[0]["layer"], "embedding");
    assert_eq!(parameters.last().unwrap()["name"], "output.bias");
    // Neither the model nor the text is needed to inspect a run.
    fs::remove_dir_all(scratch.path("run/checkpoints")).unwrap();
    let text = scratch.run("inspect run").succeeded();
    has(&text, "gradients reach every layer");
}

#[test]
fn a_log_of_an_earlier_version_is_read_and_continued() {
    let scratch = Scratch::trained();
    scratch.write("run/events.jsonl", lines(&scratch)[1..].concat());
    let text = scratch.run("inspect run").succeeded();
    let missing = "does not describe the model, because an earlier version wrote it or its first \
                   line is damaged: no ";
    for what in [
        "table of parameters",
        "flow of gradients through the layers",
    ] {
        has(&text, &format!("{missing}{what}"));
    }
    has(&text, "40 of 40 steps taken");
    let json = scratch.run("inspect run --json").json().remove(0);
    assert!(json["gradient_flow"].is_null() && json["parameters"].is_null());
    assert_eq!(json["verdict"]["steps"], 40);
    scratch.run("replay run --clip norm:1").succeeded();
    let refused = scratch.run("replay run --clip block-rms:0.1").failed(2);
    has(&refused, &format!("{missing}sizes of tensors"));
    scratch.run("export run").succeeded();

    scratch.run("train --quiet --resume run").succeeded();
    let events = scratch.events("run");
    let headers = events.iter().filter(|event| event["event"] == "header");
    assert_eq!(headers.count(), 1);
    let text = scratch.run("inspect run").succeeded();
    assert!(!text.contains(missing), "{text}");
}

#[test]
fn broken_lines_are_named_and_the_others_are_read() {
    let scratch = Scratch::trained();
    let mut broken = lines(&scratch);
    broken[2] = "\0\0\0\0\n".into();
    broken[5] = "{\"event\":\"party\",\"step\":5}\n".into();
    let torn = "{\"event\":\"step\",\"step\":41,\"lo";
    scratch.write("run/events.jsonl", broken.concat() + torn);
    for command in ["inspect run", "export run", "replay run --clip norm:1"] {
        let ran = scratch.run(command);
        let warning =
            "run/events.jsonl: 2 lines are not events and were skipped, the first is line 3";
        assert!(ran.stderr.contains(warning), "{command}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{command}: {}", ran.stderr);
        ran.succeeded();
    }
    // The run resumes, and loses nothing.
    let resumed = scratch.run("train --quiet --resume run");
    let warning = "run/events.jsonl: 2 lines, the first is line 3, were damaged and moved to \
                   events.damaged.jsonl\n";
    assert!(resumed.stderr.ends_with(warning), "{resumed:#?}");
    resumed.succeeded();
    let aside = scratch.read("run/events.damaged.jsonl");
    assert_eq!(aside, broken[2].clone() + &broken[5]);
    // One of the lines was a step's.
    let lost = "shears: warning: run/events.jsonl: step 4 has no line\n";
    assert_eq!(scratch.run("inspect run").stderr, lost);
}

#[test]
fn a_truncated_log_is_reported() {
    let scratch = Scratch::trained();
    let lines = lines(&scratch);
    scratch.write("run/events.jsonl", lines[..lines.len() / 2].concat());
    let resumed = scratch.run("train --quiet --resume run");
    assert!(
        resumed.stderr.contains("has lost the steps from"),
        "{resumed:#?}"
    );
    assert!(
        resumed.stderr.contains("the checkpoint is of step 40"),
        "{resumed:#?}"
    );
    resumed.succeeded();
}

#[test]
fn a_later_format_is_refused_in_one_line() {
    let scratch = Scratch::trained();
    let mut later = lines(&scratch);
    later[0] = "{\"event\":\"header\",\"format\":3,\"tensors\":[]}\n".into();
    scratch.write("run/events.jsonl", later.concat());
    for command in [
        "inspect run",
        "export run",
        "replay run --clip norm:1",
        "train --resume run",
    ] {
        let refused = scratch.run(command).failed(1);
        assert!(refused.contains("its format is 3"), "{command}: {refused}");
        assert_eq!(refused.trim().lines().count(), 1, "{command}: {refused}");
    }
    assert_eq!(scratch.read("run/events.jsonl"), later.concat());
}
