//! The newest run of `runs/`, if no run is named.

use std::fs::File;
use std::time::{Duration, SystemTime};

use crate::program::{Scratch, TINY, has};

/// Two runs in runs/, of which `runs/a` is the newer one.
fn with_runs() -> Scratch {
    let scratch = Scratch::new();
    for (run, age) in [("a", 10), ("b", 20)] {
        let train = format!("train {TINY} --quiet --out runs/{run}");
        scratch.run(&train).succeeded();
        let plan = scratch.path(format!("runs/{run}/plan.toml"));
        let plan = File::options().write(true).open(plan);
        let started = SystemTime::now() - Duration::from_secs(age);
        plan.unwrap().set_modified(started).unwrap();
    }
    scratch.write("runs/notes.txt", "no run");
    scratch
}

#[test]
fn commands_use_the_newest_run_and_name_it() {
    let scratch = with_runs();
    for command in [
        "inspect",
        "inspect --json",
        "eval",
        "generate --tokens 10",
        "export",
        "replay --clip global-norm:1",
        "train --resume",
        "train --resume --json",
    ] {
        let ran = scratch.run(command);
        assert_eq!(
            ran.stderr, "shears: the newest run is runs/a\n",
            "{command}"
        );
        let (name, flags) = command.split_once(' ').unwrap_or((command, ""));
        let named = match name {
            "train" => "train --resume runs/a --json".to_string(),
            _ => format!("{name} runs/a {flags}"),
        };
        let named = scratch.run(&named).succeeded();
        let said = ran.succeeded();
        assert!(name == "train" || said == named, "{command}: {said}");
    }
}

#[test]
fn without_runs_one_line_says_so() {
    let scratch = Scratch::new();
    for command in [
        "inspect",
        "eval",
        "generate",
        "export",
        "replay --clip none",
        "train --resume",
    ] {
        let said = scratch.run(command).failed(2);
        has(&said, "there is no run in runs/ yet");
    }
    assert!(scratch.listing().is_empty());
}

#[test]
fn simultaneous_runs_get_separate_folders() {
    let scratch = Scratch::new();
    let train = format!("train {TINY} --quiet");
    let start = |_| scratch.command(train.split(' ')).spawn().unwrap();
    let running: Vec<_> = (0..4).map(start).collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let runs = std::fs::read_dir(scratch.path("runs")).unwrap();
    for run in runs.map(|run| run.unwrap().path()) {
        assert!(run.join("plan.toml").is_file(), "{}", run.display());
    }
    assert_eq!(std::fs::read_dir(scratch.path("runs")).unwrap().count(), 4);
}
