//! An interrupted and resumed run ends with the same bytes as an uninterrupted one.

use crate::program::{Scratch, has};

/// Each tensor file of a checkpoint, and where the run stood: with its plan, which is the same.
const FILES: [&str; 4] = [
    "model.safetensors",
    "optimizer.safetensors",
    "carried.safetensors",
    "state.json",
];

const TINY: &str = "--quiet --hidden 16 --layers 1 --batch 4 --window 8 --steps 600 \
                    --save-every 7 --eval-every 50";

#[track_caller]
fn same_but_for_the_list_of_checkpoints(scratch: &Scratch) {
    let mut differing = differences(scratch, "a", "b");
    differing.retain(|what| what != "the list of checkpoints");
    assert!(differing.is_empty(), "{differing:#?}");
}

/// What differs between two runs whose newest checkpoint and history should be the same.
fn differences(scratch: &Scratch, left: &str, right: &str) -> Vec<String> {
    let mut differing: Vec<String> = FILES
        .into_iter()
        .filter(|file| scratch.newest(left, file) != scratch.newest(right, file))
        .map(String::from)
        .collect();
    if scratch.checkpoints(left) != scratch.checkpoints(right) {
        differing.push("the list of checkpoints".into());
    }
    let (left, right) = (history(scratch, left), history(scratch, right));
    if left.len() != right.len() {
        differing.push(format!("{} and {} events", left.len(), right.len()));
    }
    let first = left.iter().zip(&right).find(|(left, right)| left != right);
    differing.extend(first.map(|(left, right)| format!("event\n{left}\n{right}")));
    differing
}

/// The lines of `events.jsonl`, verbatim except for the speed, without those of resumes.
fn history(scratch: &Scratch, run: &str) -> Vec<String> {
    let text = scratch.read(format!("{run}/events.jsonl"));
    let without_speed = |line: &str| match line.split_once("\"tokens_per_second\":") {
        Some((before, after)) => {
            let (_, after) = after.split_once(',').unwrap();
            format!("{before}{after}")
        }
        None => line.to_string(),
    };
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("{\"event\":\"resume\","));
    lines.map(without_speed).collect()
}

#[track_caller]
fn assert_same(scratch: &Scratch, left: &str, right: &str) {
    let differing = differences(scratch, left, right);
    assert!(differing.is_empty(), "{differing:#?}");
}

/// Runs once as a whole, and once with a `kill -9` after each of these counts of events.
///
/// The whole run computes on two threads, the resumed one on one.
fn killed_and_resumed(flags: &str, kills: &[usize]) {
    let scratch = Scratch::new();
    let whole = scratch.run(&format!("train {TINY} {flags} --threads 2 --out a"));
    whole.succeeded();
    for (index, &lines) in kills.iter().enumerate() {
        let arguments = match index {
            0 => format!("train {TINY} {flags} --threads 2 --out b"),
            _ => "train --quiet --resume b".to_string(),
        };
        scratch.start(&arguments, "b", lines).kill();
    }
    let last = scratch.checkpoints("b").pop();
    assert_ne!(last.as_deref(), Some("step-00000600"), "killed too late");
    let resumed = scratch.run("train --quiet --resume b --threads 1");
    resumed.succeeded();
    assert_same(&scratch, "a", "b");
}

#[test]
fn killed_rnn_with_accumulation() {
    killed_and_resumed("--model rnn --accumulate 2", &[37]);
}

#[test]
fn killed_lstm_with_dropout() {
    killed_and_resumed("--model lstm --dropout 0.1", &[64]);
}

#[test]
fn killed_gru_with_bpe() {
    killed_and_resumed("--model gru --tokenizer bpe:300", &[91]);
}

#[test]
fn killed_transformer_twice() {
    let flags = "--model transformer --heads 2 --dropout 0.1 --warmup 20 --window 16";
    let without_window = TINY.replace("--window 8 ", "");
    let scratch = Scratch::new();
    let run = |out: &str| format!("train {without_window} {flags} --out {out}");
    scratch.run(&run("a")).succeeded();
    scratch.start(&run("b"), "b", 30).kill();
    let resume = "train --quiet --resume b";
    scratch.start(resume, "b", 118).kill();
    assert_ne!(scratch.checkpoints("b").pop().unwrap(), "step-00000600");
    scratch.run(resume).succeeded();
    assert_same(&scratch, "a", "b");
}

#[test]
fn killed_before_the_first_checkpoint() {
    let flags = "--hidden 16 --layers 1 --batch 8 --window 32 --steps 600 --save-every 0 \
                 --eval-every 0";
    let scratch = Scratch::new();
    scratch.run(&format!("train {flags} --out a")).succeeded();
    let arguments = format!("train {flags} --out b");
    scratch.start(&arguments, "b", 20).kill();
    assert!(scratch.checkpoints("b").is_empty());
    let resumed = scratch.run("train --resume b").succeeded();
    assert!(resumed.contains("no checkpoint yet: starting from step 0"));
    assert_same(&scratch, "a", "b");
}

#[test]
fn a_half_written_event_is_dropped() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 600", "--steps 40");
    for out in ["a", "b"] {
        let ran = scratch.run(&format!("train {flags} --out {out}"));
        ran.succeeded();
    }
    // As if the machine had stopped after step 39, in the middle of a line.
    let text = scratch.read("b/events.jsonl");
    let kept: Vec<&str> = text.lines().take(39).collect();
    scratch.write(
        "b/events.jsonl",
        format!("{}\n{{\"event\":\"st", kept.join("\n")),
    );
    std::fs::remove_dir_all(scratch.path("b/checkpoints/step-00000040")).unwrap();
    scratch.run("train --quiet --resume b").succeeded();
    // The checkpoint that was older than the ones to keep is gone already.
    same_but_for_the_list_of_checkpoints(&scratch);
}

#[test]
fn terminated_after_saving() {
    for (model, lines) in [("lstm", 58), ("transformer --heads 2", 71)] {
        let scratch = Scratch::new();
        let flags = format!("train {TINY} --model {model}");
        scratch.run(&format!("{flags} --out a")).succeeded();
        // A quiet run prints nothing.
        let loud = flags.replace("--quiet ", "");
        let stopped = scratch.start(&format!("{loud} --out b"), "b", lines);
        let stopped = stopped.terminate();
        assert_eq!(stopped.code, Some(130), "{stopped:#?}");
        assert!(stopped.stderr.contains("saving and stopping"));
        let steps = scratch.events("b").into_iter().rev();
        let last = steps.map(|event| event["step"].as_u64().unwrap()).next();
        let newest = scratch.checkpoints("b").pop().unwrap();
        assert_eq!(newest, format!("step-{:08}", last.unwrap()));
        assert_ne!(newest, "step-00000600", "terminated too late");
        scratch.run("train --quiet --resume b").succeeded();
        // A checkpoint more than the whole run has, at the step of the signal, may remain.
        same_but_for_the_list_of_checkpoints(&scratch);
    }
}

#[test]
fn terminated_at_a_step_that_is_evaluated() {
    let flags = TINY.replace("--eval-every 50", "--eval-every 1");
    let flags = flags.replace("--steps 600", "--steps 150");
    let scratch = Scratch::new();
    scratch.run(&format!("train {flags} --out a")).succeeded();
    let stopped = scratch.start(&format!("train {flags} --out b"), "b", 60);
    assert_eq!(stopped.terminate().code, Some(130));
    scratch.run("train --quiet --resume b").succeeded();
    assert_same(&scratch, "a", "b");
}

#[test]
fn resuming_a_finished_run_trains_nothing() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 600", "--steps 20");
    scratch.run(&format!("train {flags} --out a")).succeeded();
    let before = scratch.newest("a", "manifest.json");
    let history = scratch.read("a/events.jsonl");
    let resumed = scratch.run("train --resume a").succeeded();
    has(&resumed, "finished after 20 steps");
    assert_eq!(scratch.newest("a", "manifest.json"), before);
    assert_eq!(scratch.read("a/events.jsonl"), history);
}

#[test]
fn settings_of_many_digits_are_the_same_settings() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 600", "--steps 10");
    let train = format!("train {flags} --lr 0.49824008520154484 --optimizer sgd --out a");
    scratch.run(&train).succeeded();
    scratch.run("train --quiet --resume a").succeeded();
}

#[test]
fn another_seed_gives_other_bytes() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--steps 600", "--steps 20");
    for (out, seed) in [("a", 1), ("b", 1), ("c", 2)] {
        let ran = scratch.run(&format!("train {flags} --seed {seed} --out {out}"));
        ran.succeeded();
    }
    assert_same(&scratch, "a", "b");
    let differing = differences(&scratch, "a", "c");
    for file in FILES {
        assert!(differing.iter().any(|name| name == file), "{file}");
    }
}
