//! Runs that resume with other settings than they started with.

use std::fs;

use serde_json::Value;

use crate::program::{Scratch, TINY, has};

/// The changes of settings in a run's log: step and words.
fn changes(scratch: &Scratch, run: &str) -> Vec<String> {
    let events = scratch.events(run).into_iter();
    let changes = events.filter(|event| event["event"] == "change");
    let word = |value: &Value| value.as_str().unwrap().to_string();
    changes
        .map(|event| {
            let [name, before, after] = ["name", "before", "after"].map(|key| word(&event[key]));
            format!("{} {name} {before} {after}", event["step"])
        })
        .collect()
}

#[test]
fn extending_a_finished_run_gives_the_bits_of_a_longer_one() {
    let scratch = Scratch::new();
    let short = TINY.replace("--steps 40", "--steps 25");
    scratch.train(TINY, "whole");
    scratch.train(short, "b");
    let said = scratch.run("train --resume b").succeeded();
    assert!(
        said.contains("all 25 steps have been taken; --steps N continues"),
        "{said}"
    );
    assert!(
        !scratch.read("b/events.jsonl").contains("\"resume\""),
        "nothing was done"
    );
    let plan = scratch.read("b/plan.toml");
    let said = scratch.run("train --resume b --lr 0.5").failed(2);
    assert!(
        said.contains("no step would use the new lr; --steps N"),
        "{said}"
    );
    assert_eq!(scratch.read("b/plan.toml"), plan, "nothing was done");
    let said = scratch.run("train --resume b --steps 40").succeeded();
    has(&said, "steps: 25 -> 40 from step 26 on");
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "carried.safetensors",
    ] {
        assert_eq!(
            scratch.newest("b", file),
            scratch.newest("whole", file),
            "{file}"
        );
    }
    assert_eq!(scratch.plan("b")["steps"].as_integer(), Some(40));
    assert_eq!(changes(&scratch, "b"), ["25 steps 25 40"]);
    let said = scratch.run("inspect b").succeeded();
    has(&said, "resumed at step 25 & changed steps: 25 -> 40");
    let json = scratch.run("inspect b --json").json().remove(0);
    assert_eq!(json["resumes"][0]["checkpoint"], "step-00000025");
    assert_eq!(json["changes"][0]["after"], "40");
    // It has the same settings as before, and is finished.
    scratch.run("train --resume b --quiet").succeeded();
    let fewer = scratch.run("train --resume b --steps 39").failed(2);
    has(&fewer, "steps is 39, and the run has taken 40");
    // A config with all settings may be the plan of another run.
    fs::copy(scratch.path("b/plan.toml"), scratch.path("c.toml")).unwrap();
    scratch
        .run("train --config c.toml --quiet --out c")
        .succeeded();
    assert!(!scratch.plan("c").contains_key("changes"));
}

#[test]
fn permitted_changes_apply_and_the_plan_stays_protected() {
    let scratch = Scratch::new();
    scratch.train(TINY, "b");
    let flags = "--steps 60 --lr 0.001 --clip zclip --eval-every 7 --eval-tokens 64 \
                 --save-every 9 --sample-every 11 --patience 50 --keep 2";
    let said = scratch
        .run(&format!("train --resume b {flags}"))
        .succeeded();
    has(&said, "without the history of the old one");
    has(&said, "the best loss is reset");
    let noted = [
        "40 clip global-norm:5 zclip",
        "40 eval-every 20 7",
        "40 eval-tokens 0 64",
        "40 keep 3 2",
        "40 lr 0.002 0.001",
        "40 patience 0 50",
        "40 sample-every 0 11",
        "40 save-every 10 9",
        "40 steps 40 60",
    ];
    assert_eq!(changes(&scratch, "b"), noted);
    let rates = scratch.events("b").into_iter();
    let rates: Vec<f64> = rates.filter_map(|event| event["lr"].as_f64()).collect();
    assert_eq!((rates[39], rates[40], rates.len()), (0.002, 0.001, 60));
    scratch
        .run("train --resume b --steps 62 --quiet")
        .succeeded();
    assert_eq!(changes(&scratch, "b").len(), 10);
    let plan = scratch.read("b/plan.toml");
    scratch.write("b/plan.toml", plan.replace("steps = 62", "steps = 99"));
    let message = scratch.run("train --resume b").failed(2);
    has(&message, "steps: trained with 62, plan.toml has 99");
    has(&message, "given as flags with --resume");
    scratch.write("b/plan.toml", plan);
    scratch.run("train --resume b --quiet").succeeded();
}

#[test]
fn resuming_from_an_older_checkpoint_keeps_later_changes() {
    let scratch = Scratch::new();
    scratch.train(TINY, "b");
    scratch
        .run("train --resume b --steps 50 --lr 0.001 --quiet")
        .succeeded();
    let newer = ["step-00000040", "step-00000050"];
    for name in newer {
        fs::write(
            scratch.path(format!("b/checkpoints/{name}/model.safetensors")),
            "?",
        )
        .unwrap();
    }
    let said = scratch.run("train --resume b");
    assert_eq!(
        said.stderr.matches("using an older one").count(),
        2,
        "{said:#?}"
    );
    let said = said.succeeded();
    has(&said, "step-00000030");
    assert_eq!(
        changes(&scratch, "b"),
        ["30 lr 0.002 0.001", "30 steps 40 50"]
    );
    for name in scratch.checkpoints("b") {
        fs::write(
            scratch.path(format!("b/checkpoints/{name}/state.json")),
            "?",
        )
        .unwrap();
    }
    let message = scratch.run("train --resume b").failed(1);
    for name in scratch.checkpoints("b") {
        has(&message, &name);
    }
    has(&message, "put one back from a copy");
}

#[test]
fn a_run_that_diverged_before_its_first_save_restarts() {
    let scratch = Scratch::new();
    let wild = TINY.replace("--save-every 10", "--save-every 0");
    let wild = format!("train {wild} --optimizer adam --lr 1e38 --clip none --quiet --out b");
    assert_eq!(scratch.run(&wild).code, Some(3));
    assert!(scratch.checkpoints("b").is_empty());
    let again = scratch.run("train --resume b");
    assert_eq!(again.code, Some(3), "{again:#?}");
    assert!(again.stdout.contains("starting from step 0"), "{again:#?}");
    assert!(again.stdout.contains("and will do so again"), "{again:#?}");
    let said = scratch.run("train --resume b --lr 0.002").succeeded();
    has(&said, "finished after 40 steps");
    let log = scratch.events("b");
    let resumed = log.iter().find(|event| event["event"] == "resume").unwrap();
    assert_eq!(
        (resumed["step"].as_u64(), &resumed["checkpoint"]),
        (Some(0), &Value::Null)
    );
}

/// Runs the program in a folder of the scratch, where it must succeed.
fn in_folder(scratch: &Scratch, folder: &str, arguments: &str) -> String {
    let mut command = scratch.command(arguments.split_whitespace());
    let output = command.current_dir(scratch.path(folder)).output().unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A run `b` of two texts in the folder `a`, trained there.
fn with_texts() -> (Scratch, String) {
    let scratch = Scratch::new();
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(40);
    scratch.write("a/text.txt", &text);
    scratch.write("a/val.txt", &text[..400]);
    let train = format!("train text.txt --val val.txt {TINY} --quiet --out ../b");
    in_folder(&scratch, "a", &train);
    (scratch, text)
}

#[test]
fn a_run_is_resumed_and_evaluated_from_any_folder() {
    let (scratch, _) = with_texts();
    let plan = scratch.plan("b");
    assert_eq!(
        plan["text"][0].as_str(),
        Some("text.txt"),
        "as it was typed"
    );
    let said = in_folder(&scratch, "b", "eval .");
    has(&said, "the run's validation text, val.txt");
    in_folder(&scratch, "b", "train --resume . --steps 44");
    // Moved with its texts.
    fs::create_dir_all(scratch.path("elsewhere")).unwrap();
    for name in ["a", "b"] {
        fs::rename(
            scratch.path(name),
            scratch.path(format!("elsewhere/{name}")),
        )
        .unwrap();
    }
    in_folder(&scratch, "elsewhere/a", "train --resume ../b --steps 48");
    let message = scratch.run("train --resume elsewhere/b").failed(2);
    has(&message, ".txt does not exist & train TEXT --resume RUN");
    let message = scratch.run("eval elsewhere/b").failed(2);
    has(&message, "--data FILE");
}

#[test]
fn a_moved_text_is_recognised() {
    let (scratch, text) = with_texts();
    fs::rename(scratch.path("a/text.txt"), scratch.path("moved.txt")).unwrap();
    scratch.write("other.txt", text.replace("quick", "brown"));
    let resume = "--val a/val.txt --resume b --steps 52";
    let message = scratch.run(&format!("train other.txt {resume}")).failed(2);
    has(
        &message,
        "other.txt: the text is not the one that the run was started with",
    );
    let said = scratch
        .run(&format!("train moved.txt {resume}"))
        .succeeded();
    has(&said, "text: text.txt -> moved.txt from step 41 on");
    in_folder(&scratch, "b", "train --resume . --steps 56");
    let changed = changes(&scratch, "b");
    assert!(
        changed.contains(&"40 text text.txt moved.txt".to_string()),
        "{changed:?}"
    );
    let measured = |data: &str| {
        let line = scratch
            .run(&format!("eval b --json {data}"))
            .json()
            .remove(0);
        line["text"].as_str().unwrap().to_string()
    };
    assert_eq!(measured("--data other.txt"), "other.txt");
    assert!(measured("--data moved.txt").contains("the run's text, which it was trained on"));
    assert!(measured("").contains("the run's validation text"));
    // The plan serves as a config from anywhere.
    in_folder(
        &scratch,
        "a",
        "train --config ../b/plan.toml --steps 3 --quiet --out ../c",
    );
}
