//! What `--resume` refuses, and what it recovers from.

use std::fs;

use crate::program::{Scratch, TINY, has};

fn with_run() -> Scratch {
    let scratch = Scratch::new();
    scratch.train(TINY, "b");
    scratch
}

#[test]
fn changed_flags_are_listed() {
    let scratch = with_run();
    let before = scratch.listing();
    let ran = scratch.run("train --resume b --lr 0.5 --seed 2 --hidden 32 --layers 1");
    let message = ran.failed(2);
    has(&message, "seed: the run has 1, not 2");
    has(&message, "hidden: the run has 16, not 32");
    assert!(!message.contains("layers"), "{message}");
    assert_eq!(scratch.listing(), before);
    // Settings that only one of two models has were not given.
    let message = scratch.run("train --resume b --model gru").failed(2);
    let listed = "(model: the run has \"lstm\", not \"gru\");";
    assert!(message.contains(listed), "{message}");
    // The same value again does not change anything.
    scratch
        .run("train --resume b --hidden 16 --quiet")
        .succeeded();
}

#[test]
fn another_folder_is_refused() {
    let scratch = with_run();
    scratch.write("c.toml", "out = \"elsewhere\"");
    let before = scratch.listing();
    for flags in ["--out elsewhere", "--config c.toml"] {
        let message = scratch.run(&format!("train --resume b {flags}")).failed(2);
        has(&message, "leave out --out");
    }
    assert_eq!(scratch.listing(), before);
}

#[test]
fn an_edited_plan_is_listed() {
    let scratch = with_run();
    let plan = scratch.read("b/plan.toml");
    let edited = plan.replace("lr = 0.002", "lr = 0.25");
    assert_ne!(plan, edited);
    scratch.write("b/plan.toml", edited.replace("seed = 1\n", "seed = 7\n"));
    let message = scratch.run("train --resume b").failed(2);
    has(
        &message,
        "plan.toml was changed & lr: trained with 0.002, plan.toml has 0.25 & \
         seed: trained with 1, plan.toml has 7",
    );
}

#[test]
fn a_broken_plan_is_named() {
    let scratch = with_run();
    for broken in ["lr = = 1", "lr = 0.1", ""] {
        scratch.write("b/plan.toml", broken);
        for command in ["train --resume b", "eval b", "generate b", "inspect b"] {
            let message = scratch.run(command).failed(2);
            assert!(message.contains("plan.toml"), "{command}: {message}");
        }
    }
}

#[test]
fn a_changed_text_is_refused() {
    let scratch = Scratch::new();
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(40);
    scratch.write("text.txt", &text);
    scratch.write("val.txt", &text[..400]);
    let flags = format!("{TINY} --val val.txt --quiet --out b");
    scratch.run(&format!("train text.txt {flags}")).succeeded();
    scratch.write("text.txt", text.replacen("fox", "dog", 1));
    let message = scratch.run("train --resume b").failed(2);
    has(
        &message,
        "text.txt: the text is not the one that the run was started with",
    );
    has(&message, "train TEXT --resume RUN");
    let of_eval = scratch.run("eval b").failed(2);
    has(
        &of_eval,
        "text.txt: the text is not the one that the run was started with & --data FILE",
    );
    // Also if it has a character that the run's tokenizer does not know.
    scratch.write("text.txt", text.replacen("fox", "FOX", 1));
    assert_eq!(scratch.run("train --resume b").failed(2), message);
    scratch.run("eval b --data val.txt").succeeded();
    scratch.write("text.txt", &text);
    scratch.write("val.txt", &text[..401]);
    let message = scratch.run("train --resume b").failed(2);
    has(
        &message,
        "the validation text is not the one that the run was started with",
    );
    scratch.write("val.txt", &text[..400]);
    scratch.run("train --resume b --quiet").succeeded();
}

#[test]
fn a_missing_run_is_named() {
    let scratch = Scratch::new();
    let message = scratch.run("train --resume nowhere").failed(2);
    has(&message, "nowhere: there is no such run");
    assert!(scratch.listing().is_empty());
}

#[test]
fn a_run_without_a_whole_checkpoint_is_not_started_again() {
    let scratch = with_run();
    for step in fs::read_dir(scratch.path("b/checkpoints")).unwrap() {
        let path = step.unwrap().path().join("model.safetensors");
        fs::write(path, b"not a model").unwrap();
    }
    let events = scratch.read("b/events.jsonl");
    let message = scratch.run("train --resume b").failed(1);
    has(&message, "no checkpoint of the run is intact");
    has(&message, "model.safetensors");
    assert_eq!(scratch.read("b/events.jsonl"), events);
}

#[test]
fn a_run_that_has_lost_its_checkpoints_keeps_its_log() {
    let scratch = with_run();
    let refused = |words: &str| {
        let before = scratch.read("b/events.jsonl");
        let message = scratch.run("train --resume b").failed(1);
        has(&message, words);
        assert_eq!(scratch.read("b/events.jsonl"), before);
    };
    fs::remove_dir_all(scratch.path("b/checkpoints")).unwrap();
    refused("no checkpoint to resume from");
    // As if it had been killed one step after its first save.
    let log = scratch.read("b/events.jsonl");
    let up_to = |step: u64| {
        let next = format!("\"step\":{},", step + 1);
        let lines = log.lines().take_while(|line| !line.contains(&next));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    scratch.write("b/events.jsonl", up_to(11));
    refused("no checkpoint to resume from");
    scratch.write("b/checkpoints", "");
    refused("cannot read b/checkpoints");
    // A run killed in its first save has lost no checkpoint.
    fs::remove_file(scratch.path("b/checkpoints")).unwrap();
    scratch.write("b/events.jsonl", up_to(10));
    let said = scratch.run("train --resume b").succeeded();
    has(&said, "no checkpoint yet");
    // Another event says where it resumed.
    assert_eq!(scratch.events("b").len(), log.lines().count() + 1);
}

#[test]
fn a_corrupted_checkpoint_falls_back_to_an_older_one() {
    for file in ["model.safetensors", "state.json", "manifest.json"] {
        let scratch = with_run();
        let whole = scratch.newest("b", "model.safetensors");
        let path = scratch.path("b/checkpoints/step-00000040").join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let resumed = scratch.run("train --resume b");
        let warning = &resumed.stderr;
        assert_eq!(warning.lines().count(), 1, "{warning}");
        assert!(
            warning.starts_with("shears: warning: checkpoint"),
            "{warning}"
        );
        has(&warning, "using an older one");
        let stdout = resumed.succeeded();
        has(&stdout, "resuming from b/checkpoints/step-00000030");
        assert_eq!(scratch.newest("b", "model.safetensors"), whole, "{file}");
        // Rewritten files are intact.
        let again = scratch.run("train --resume b --quiet");
        assert_eq!(again.stderr, "");
        again.succeeded();
    }
}

#[test]
fn a_second_trainer_is_refused() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 40", "--steps 1000000");
    let first = scratch.start(&format!("train {flags} --quiet --out b"), "b", 25);
    let message = scratch.run("train --resume b").failed(2);
    has(&message, "another shears is training this run");
    let message = scratch.run("train --out b").failed(2);
    has(&message, "b: holds a run already");
    // Reading it is allowed.
    scratch.run("inspect b").succeeded();
    scratch.run("generate b --tokens 5").succeeded();
    first.kill();
}
