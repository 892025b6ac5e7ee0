//! Signals: a run that is asked to stop saves at once, and loses nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Scratch, TINY, send, wait_until};

/// A model whose evaluation takes far longer than a step: the text is nearly all validation.
fn with_long_evaluation(flags: &str) -> (Scratch, String) {
    let scratch = Scratch::new();
    scratch.write("short.txt", "the cat sat on the mat. ".repeat(40));
    scratch.write("long.txt", "the mat sat on the cat. ".repeat(20_000));
    let train = format!(
        "train short.txt --val long.txt --model lstm --hidden 256 --layers 2 --batch 4 \
         --window 8 --save-every 0 --quiet --out run {flags}"
    );
    (scratch, train)
}

fn is_past_step(scratch: &Scratch, step: u64) -> bool {
    let text = std::fs::read_to_string(scratch.path("run/events.jsonl")).unwrap_or_default();
    text.contains(&format!("\"event\":\"step\",\"step\":{step},"))
}

#[test]
fn a_kill_in_the_last_evaluation_loses_no_step() {
    let (scratch, train) = with_long_evaluation("--steps 5 --eval-every 0");
    let running = scratch.start_and_wait(&train, || !scratch.checkpoints("run").is_empty());
    running.kill();
    assert_eq!(scratch.checkpoints("run"), ["step-00000005"]);
    let text = scratch.read("run/events.jsonl");
    assert!(
        !text.contains("\"evaluation\""),
        "the evaluation was over too soon"
    );
    // The rest follows when the run resumes.
    scratch.write("long.txt", "the mat sat on the cat. ".repeat(20_000));
    let running = scratch.start_and_wait("train --resume run --quiet", || true);
    running.kill();
    assert_eq!(scratch.checkpoints("run"), ["step-00000005"]);
}

/// Whether a program started here ignores the signal with this number, as in the background of a
/// script or under `nohup`: an ignored signal stays ignored.
fn is_ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is_ignored = mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1);
    if is_ignored {
        println!("skipped: signal {signal} is ignored here");
    }
    is_ignored
}

#[test]
fn every_signal_saves() {
    for (signal, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1), ("-USR1", 10)] {
        if is_ignored(number) {
            continue;
        }
        let scratch = Scratch::new();
        let endless = TINY.replace("--steps 40", "--steps 1000000");
        let train = format!("train {endless} --quiet --out run");
        let running = scratch.start_and_wait(&train, || is_past_step(&scratch, 5));
        let ran = running.end_by(signal);
        assert_eq!(ran.code, Some(130), "{signal}: {ran:?}");
        let steps = scratch.events("run").into_iter();
        let steps: Vec<u64> = steps.filter_map(|event| event["step"].as_u64()).collect();
        let last = format!("step-{:08}", steps.last().unwrap());
        assert_eq!(scratch.checkpoints("run").pop(), Some(last), "{signal}");
    }
}

/// A micro-batch is not cut, and this one takes long.
#[test]
fn a_second_signal_ends_at_once() {
    if is_ignored(2) {
        return;
    }
    let scratch = Scratch::new();
    let train = "train --model gru --hidden 512 --layers 2 --batch 64 --window 500 --threads 1 \
                 --quiet --out run";
    let begun = || scratch.path("run/events.jsonl").is_file();
    let running = scratch.start_and_wait(train, begun);
    std::thread::sleep(Duration::from_millis(100));
    running.send("-TERM");
    let ran = running.end_by("-INT");
    assert_eq!(ran.code, Some(130), "{ran:?}");
    // The first alone would have saved after the micro-batch.
    assert!(scratch.checkpoints("run").is_empty());
}

/// There is nothing to save, so the program exits at once.
#[test]
fn a_signal_ends_the_learning_of_merges_at_once() {
    let scratch = Scratch::new();
    let words = (0..100_000_u64).map(|i| format!("{:x} ", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    scratch.write("words.txt", words.collect::<String>());
    for command in ["train", "sweep"] {
        let started = Instant::now();
        let is_learning = || started.elapsed() > Duration::from_millis(700);
        let arguments = format!("{command} words.txt --tokenizer bpe:30000 --steps 1 --out run");
        let ran = scratch.start_and_wait(&arguments, is_learning).terminate();
        // By SIGTERM itself.
        assert_eq!(ran.signal, Some(15), "{ran:?}");
        assert!(!scratch.path("run").exists());
    }
}

/// Two hundred tokens of this model take longer than anybody wants to wait.
#[test]
fn a_sample_is_cut_off_by_a_signal() {
    let scratch = Scratch::new();
    let train = "train --hidden 1024 --layers 2 --batch 1 --window 2 --steps 9 --eval-every 0 \
         --save-every 0 --sample-every 1 --quiet --out run";
    let ran = scratch
        .start_and_wait(train, || is_past_step(&scratch, 1))
        .terminate();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let events = scratch.events("run");
    assert!(
        events.iter().all(|event| event["event"] != "sample"),
        "{events:?}"
    );
    assert_eq!(events.last().unwrap()["how"], "stopped");
    assert_eq!(scratch.checkpoints("run").len(), 1);
}

/// A step of many micro-batches is abandoned, and taken when the run goes on.
#[test]
fn a_signal_within_an_accumulation_is_heard_at_once() {
    let scratch = Scratch::new();
    for model in [
        "lstm --window 8",
        "transformer --heads 2 --window 16 --dropout 0.1",
    ] {
        let flags = format!(
            "--model {model} --hidden 16 --layers 1 --batch 4 --accumulate 300 --steps 4 \
             --eval-every 0 --save-every 0"
        );
        scratch.train(&flags, "whole");
        let train = format!("train {flags} --quiet --out run");
        let ran = scratch
            .start_and_wait(&train, || is_past_step(&scratch, 2))
            .terminate();
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert_eq!(scratch.checkpoints("run"), ["step-00000002"], "{model}");
        scratch.run("train --resume run --quiet").succeeded();
        for file in ["model.safetensors", "carried.safetensors", "state.json"] {
            let found = scratch.newest("run", file);
            assert!(found == scratch.newest("whole", file), "{model}: {file}");
        }
        for run in ["run", "whole"] {
            std::fs::remove_dir_all(scratch.path(run)).unwrap();
        }
    }
}

/// Before the first step of a run is taken, there is nothing to lose, and the run goes on anyway.
#[test]
fn a_signal_within_the_first_step_leaves_a_run_that_goes_on() {
    let scratch = Scratch::new();
    let train = "train --hidden 16 --layers 1 --accumulate 1000000 --quiet --out run";
    let header = |run: &str| scratch.path(run).join("events.jsonl").is_file();
    let ran = scratch.start_and_wait(train, || header("run")).terminate();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert_eq!(scratch.checkpoints("run"), ["step-00000000"]);
    let is_resumed = || scratch.read("run/events.jsonl").contains("\"resume\"");
    let ran = scratch
        .start_and_wait("train --resume run --quiet", is_resumed)
        .terminate();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert_eq!(scratch.checkpoints("run"), ["step-00000000"]);
}

/// The history of a long run is read before there is anything to save, so a signal ends the program
/// at once, and leaves the run as it was.
#[test]
fn a_signal_while_history_is_read_ends_at_once() {
    let scratch = Scratch::trained();
    let text = scratch.read("run/events.jsonl");
    let step = text.lines().find(|line| line.contains("\"step\":40,"));
    let later = (41..100_000_u64).map(|number| {
        let place = format!("\"step\":{number},");
        format!("{}\n", step.unwrap().replacen("\"step\":40,", &place, 1))
    });
    let long = text.clone() + &later.collect::<String>();
    for flags in ["--quiet --tensorboard", "--json --tensorboard"] {
        scratch.write("run/events.jsonl", &long);
        let reads = || {
            let found = std::fs::read_dir(scratch.path("run/tensorboard"));
            found.is_ok_and(|mut found| found.next().is_some())
        };
        let resume = format!("train --resume run --steps 60 {flags}");
        let ran = scratch.start_and_wait(&resume, reads).terminate();
        assert_eq!(ran.code, Some(130), "{ran:?}");
        // Nothing to save, so nothing is said.
        assert_eq!(ran.stderr, "");
        // The log would have been cut.
        assert!(scratch.read("run/events.jsonl") == long);
        for left in std::fs::read_dir(scratch.path("run/tensorboard")).unwrap() {
            let name = left.unwrap().file_name().into_string().unwrap();
            // TensorBoard would take it for the whole history.
            assert!(!name.contains("tfevents"), "{name}");
        }
        std::fs::remove_dir_all(scratch.path("run/tensorboard")).unwrap();
    }
    scratch
        .run("train --resume run --steps 60 --quiet --tensorboard")
        .succeeded();
    let events = scratch.events("run");
    let steps = events.iter().filter(|event| event["event"] == "step");
    assert_eq!(steps.count(), 60);
}

/// The log and the last checkpoint are those of a run that was never stopped.
#[test]
fn an_interrupted_evaluation_is_repeated_on_resume() {
    let scratch = Scratch::new();
    scratch.train(TINY, "whole");
    let last = "\"event\":\"step\",\"step\":40,";
    let written = || {
        let text = std::fs::read_to_string(scratch.path("run/events.jsonl"));
        text.is_ok_and(|text| text.contains(last))
    };
    scratch
        .start_and_wait(&format!("train {TINY} --quiet --out run"), written)
        .kill();
    scratch.run("train --resume run --quiet").succeeded();
    let outline = |run: &str| -> Vec<String> {
        let events = scratch.events(run).into_iter();
        events
            .filter(|event| event["event"] != "resume")
            .map(|event| format!("{} {}", event["event"], event["step"]))
            .collect()
    };
    assert_eq!(outline("run"), outline("whole"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(
            scratch.newest("run", file) == scratch.newest("whole", file),
            "{file}"
        );
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let scratch = Scratch::new();
    let program = env!("CARGO_BIN_EXE_shears");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", program, "train"])
        .args(
            TINY.replace("--steps 40", "--steps 100000")
                .split_whitespace(),
        )
        .args(["--quiet", "--out", "run"])
        .current_dir(scratch.path(""))
        .env_remove("CARGO")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let wait = |step: u64| {
        wait_until(&format!("it goes on to step {step}"), || {
            is_past_step(&scratch, step)
        });
    };
    wait(1);
    let signal = |name: &str| send(child.id(), name);
    if cfg!(target_os = "linux") {
        signal("-HUP");
        let now = std::fs::read_to_string(scratch.path("run/events.jsonl")).unwrap();
        wait(
            now.lines()
                .filter(|line| line.contains("\"step\","))
                .count() as u64
                + 20,
        );
    }
    signal("-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
