//! `shears compare`: existing runs.

use serde_json::Value;

use crate::program::{Scratch, TINY, has};

fn train(scratch: &Scratch, flags: &str) {
    let ran = scratch.run(&format!("train {TINY} --quiet {flags}"));
    ran.succeeded();
}

/// The group of a policy in the report.
fn group<'a>(report: &'a Value, policy: &str) -> &'a Value {
    let mut groups = report["groups"].as_array().unwrap().iter();
    groups.find(|group| group["policy"] == policy).unwrap()
}

#[test]
fn runs_of_a_sweep_have_the_report_of_the_sweep() {
    let scratch = Scratch::new();
    let said = scratch
        .run(
            "sweep --hidden 16 --layers 1 --batch 4 --window 8 --steps 40 \
             --eval-every 20 --seeds 2 --clip none --clip global-norm:0.1 --out grid",
        )
        .succeeded();
    let runs = ["none", "global-norm-0.1"].map(|policy| {
        let run = |seed| format!("grid/runs/{policy}_lr-0.002_seed-{seed}");
        format!("{} {}", run(2), run(1))
    });
    let compare = format!("compare {}", runs.join(" "));
    let table = scratch.run(&compare).succeeded();
    for line in table.lines().filter(|line| line.contains("of 2")) {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert_eq!(table.matches("2 of 2").count(), 2, "{table}");
    has(&table, "--out FOLDER");
    let report = scratch.run_with(format!("{compare} --json").split(' '), b"");
    let report: Value = serde_json::from_str(&report.succeeded()).unwrap();
    let of_sweep = scratch.read_json("grid/report.json");
    assert_eq!(report, of_sweep);

    scratch.run(&format!("{compare} --out page")).succeeded();
    for file in [
        "report.html",
        "report.json",
        "loss.svg",
        "norm.svg",
        "overview.svg",
    ] {
        assert!(scratch.path("page").join(file).exists(), "{file}");
    }
    assert!(
        scratch
            .read("page/report.html")
            .contains("start from the same weights")
    );
    // Only a report is replaced by another one.
    scratch.run(&format!("{compare} --out page")).succeeded();
    let refused = scratch.run(&format!("{compare} --out grid/runs")).failed(2);
    has(&refused, "contains other files");
    let before = scratch.read("grid/report.json");
    for folder in ["grid", "grid/runs/none_lr-0.002_seed-1"] {
        scratch.write(&format!("{folder}/report.json"), &before);
        let refused = scratch.run(&format!("{compare} --out {folder}")).failed(2);
        has(&refused, "of a sweep or of a run");
    }
    assert_eq!(scratch.read("grid/report.json"), before);
}

#[test]
fn differing_settings_are_shown_beside_the_policy() {
    let scratch = Scratch::new();
    train(&scratch, "--clip none --out adam");
    train(&scratch, "--clip none --optimizer sgd --lr 0.1 --out sgd");
    train(&scratch, "--clip none --beta1 0.5 --out other");
    let said = scratch.run("compare adam sgd").succeeded();
    has(&said, "none, optimizer sgd & none, optimizer adam");
    // Nothing was clipped, and yet one is better.
    has(
        &said,
        "Clipping never engaged & none, optimizer adam at learning rate 0.002 has the lowest & \
         nats better than none, optimizer sgd (at learning rate 0.1). One seed",
    );
    // Each has a single rate, so rates are not mentioned.
    assert!(!said.contains("Learning rates that converge"), "{said}");
    assert!(!said.contains("beta1"), "{said}");
    let said = scratch.run("compare adam sgd other").succeeded();
    let variants = "optimizer adam, beta1 0.5 & optimizer adam, beta1 0.9 & none, optimizer sgd";
    has(&said, variants);
    scratch.run("compare adam sgd --out page").succeeded();
    assert!(!scratch.path("page/learning-rates.svg").exists());
    let page = scratch.read("page/report.html");
    has(&page, "Runs that differ in optimizer");
    assert!(!page.contains("start from the same weights"), "{page}");
}

#[test]
fn runs_of_different_length_are_compared_over_what_they_have_in_common() {
    let scratch = Scratch::new();
    train(&scratch, "--clip none --out long");
    let short = TINY.replace("--steps 40", "--steps 30");
    scratch.train(format!("{short} --clip global-norm:0.1"), "short");
    let said = scratch.run("compare long short").succeeded();
    has(&said, "the first 30 steps & step 20");
    let report = scratch.run("compare long short --json").succeeded();
    let report: Value = serde_json::from_str(&report).unwrap();
    let events = scratch.events("long");
    let mut evaluations = events.iter().filter(|event| event["event"] == "evaluation");
    let expected = &evaluations.next().unwrap()["val_loss"];
    assert_eq!(group(&report, "none")["val_loss"], *expected);
}

/// What a run had before it was resumed with other settings is named; a change after the compared
/// steps does not count.
#[test]
fn settings_are_those_of_the_compared_steps() {
    let scratch = Scratch::new();
    for (out, before, after) in [("up", "0.0001", "0.05"), ("down", "0.05", "0.0001")] {
        train(&scratch, &format!("--clip none --lr {before} --out {out}"));
        let resume = format!("train --resume {out} --quiet --steps 60 --lr {after}");
        scratch.run(&resume).succeeded();
    }
    let said = scratch.run("compare up down").succeeded();
    has(
        &said,
        "none, lr 0.0001 up to step 40 & none, lr 0.05 up to step 40",
    );
    train(&scratch, "--clip none --lr 0.0001 --seed 2 --out still");
    let said = scratch.run("compare up still").succeeded();
    has(&said, "the first 40 steps & of 2 ");
    assert!(!said.contains("up to step"), "{said}");
}

/// Steps are counted by their numbers, also where the log lost some; and the loss is said.
#[test]
fn a_log_with_a_hole_is_compared_by_its_steps() {
    let scratch = Scratch::new();
    train(&scratch, "--clip none --out whole");
    train(&scratch, "--clip global-norm:0.1 --out hole");
    let log = scratch.read("hole/events.jsonl");
    let lost = |line: &&str| !(5..=9).any(|step| line.contains(&format!("\"step\":{step},")));
    let kept: Vec<&str> = log.lines().filter(lost).collect();
    scratch.write("hole/events.jsonl", kept.join("\n") + "\n");
    scratch
        .run("train --resume whole --quiet --steps 60")
        .succeeded();
    let ran = scratch.run("compare whole hole");
    has(&ran.stderr, "5 steps have no line, the first is step 5");
    has(&ran.succeeded(), "the first 40 steps & step 40");
    let ran = scratch.run("inspect hole");
    has(&ran.stderr, "5 steps have no line, the first is step 5");
}

#[test]
fn an_edited_plan_is_refused() {
    let scratch = Scratch::new();
    train(&scratch, "--clip none --out one");
    train(&scratch, "--clip none --seed 2 --out two");
    let plan = scratch.read("one/plan.toml");
    scratch.write(
        "one/plan.toml",
        plan.replace("clip = \"none\"", "clip = \"value:1\""),
    );
    for command in ["compare one two", "replay one --clip none"] {
        scratch.refuses(
            2,
            command,
            "clip: trained with \"none\", plan.toml has \"value:1\"",
        );
    }
    let ran = scratch.run("inspect one");
    has(
        &ran.stderr,
        "plan.toml was changed (clip: trained with \"none\", now \"value:1\")",
    );
    ran.succeeded();
}

#[test]
fn incomparable_runs_are_refused() {
    let scratch = Scratch::new();
    scratch.write(
        "other.txt",
        "a text of its own, again and again. ".repeat(100),
    );
    train(&scratch, "--out one");
    train(&scratch, "--out again");
    scratch.train(format!("other.txt {TINY}"), "other");
    train(&scratch, "--tokenizer byte --out bytes");
    train(&scratch, "--out new");
    let log = scratch.read("new/events.jsonl");
    scratch.write("new/events.jsonl", "");
    for (runs, part) in [
        ("one other", "one and other were trained on different text"),
        ("one bytes", "with different tokenizers"),
        ("one again", "the same settings and the same seed"),
        ("one nowhere", "there is no such run"),
        ("one new", "new: no steps are recorded"),
    ] {
        let said = scratch.run(&format!("compare {runs}")).failed(2);
        has(&said, part);
    }
    let before_the_first: String = log
        .lines()
        .take(5)
        .map(|line| format!("{line}\n"))
        .collect();
    scratch.write("new/events.jsonl", before_the_first);
    let said = scratch.run("compare one new").failed(2);
    has(&said, "no step at which all runs were evaluated");
    for (flags, part) in [
        ("one", "2 values"),
        ("other.txt one --clip none", "shears sweep"),
    ] {
        let ran = scratch.run(&format!("compare {flags}"));
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.stderr.contains(part), "{ran:#?}");
    }
}
