//! `shears sweep`.

use serde_json::Value;

use crate::program::{Scratch, has};

/// The settings of `TINY`, and the folder.
const SMALL: &str = "--hidden 16 --layers 1 --batch 4 --window 8 --steps 40 \
     --eval-every 20 --save-every 10 --out grid";

/// As after training: a sentence, its numbers, and a valid command.
#[test]
fn a_sweep_ends_with_its_winner_and_a_command() {
    let scratch = Scratch::new();
    let policies = "--clip none --clip skip:1,window=4";
    let said = scratch
        .run(&format!("sweep {SMALL} {policies}"))
        .succeeded();
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    assert!(last[2].contains("has the lowest validation loss"), "{said}");
    assert!(last[1].contains("of 40 steps clipped"), "{said}");
    let next = last[0].strip_prefix("try next: shears ").unwrap();
    assert_eq!(
        scratch.read_json("grid/report.json")["next"],
        format!("shears {next}")
    );
    scratch
        .run(&format!("{next} --quiet --out again"))
        .succeeded();
    // Skipped steps are a column if there are any.
    let heading = said
        .lines()
        .find(|line| line.contains("converged"))
        .unwrap();
    assert!(heading.contains("skipped"), "{said}");
    let none = "grid/runs/none_lr-0.002_seed-1";
    let third = format!("train --config {none}/plan.toml --clip global-norm:5 --quiet --out third");
    scratch.run(&third).succeeded();
    let alone = scratch.run(&format!("compare {none} third")).succeeded();
    let heading = alone
        .lines()
        .find(|line| line.contains("converged"))
        .unwrap();
    assert!(!heading.contains("skipped"), "{alone}");
    assert!(
        alone.lines().last().unwrap().starts_with("try next: "),
        "{alone}"
    );
}

#[test]
fn a_grid_is_trained_drawn_and_judged() {
    let scratch = Scratch::new();
    let grid = format!(
        "sweep {SMALL} --clip none --clip global-norm:0.1 --clip value:0.001 --lr 0.002,0.01 --seeds 2"
    );
    let said = scratch.run(&grid).succeeded();
    has(&said, "12 runs & has the lowest validation loss");
    let report = scratch.read_json("grid/report.json");
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 6);
    let group = |policy: &str| {
        groups
            .iter()
            .find(|group| group["policy"] == policy)
            .unwrap()
    };
    assert_eq!(group("none")["clipped_share"], 0.0);
    assert_eq!(group("global-norm:0.1")["clipped_share"], 1.0);
    let cosine = |policy: &str| group(policy)["cosine"].as_f64();
    assert_eq!(cosine("none"), None);
    assert!(cosine("global-norm:0.1").unwrap() > 0.999_999);
    assert!(cosine("value:0.001").unwrap() < 0.9);
    assert_eq!(group("none")["val_losses"].as_array().unwrap().len(), 2);

    let page = scratch.read("grid/report.html");
    has(
        &page,
        "<svg & Loss & learning rate & value:0.001 & layers.0 & Gradient through time: \
         value:0.001 & after clipping & tokens back",
    );
    for foreign in ["http://", "https://", "NaN", "<script"] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(foreign), "{foreign}");
    }

    // The same weights and the same batches: the first loss is one number.
    let first = |run: &str| {
        let events = scratch.events(&format!("grid/runs/{run}"));
        let step = events.into_iter().find(|event| event["event"] == "step");
        step.unwrap()["loss"].clone()
    };
    assert_eq!(
        first("none_lr-0.002_seed-1"),
        first("value-0.001_lr-0.01_seed-1")
    );
    assert_ne!(first("none_lr-0.002_seed-1"), first("none_lr-0.002_seed-2"));

    // Nothing is trained twice.
    let before = scratch.read("grid/runs/none_lr-0.002_seed-1/events.jsonl");
    scratch.run(&grid).succeeded();
    assert_eq!(
        scratch.read("grid/runs/none_lr-0.002_seed-1/events.jsonl"),
        before
    );
}

#[test]
fn a_sweep_says_when_clipping_never_engaged() {
    let scratch = Scratch::new();
    let said = scratch
        .run(&format!(
            "sweep {SMALL} --clip none --clip global-norm:1000"
        ))
        .succeeded();
    has(
        &said,
        "Clipping never engaged & so it made no difference at these learning rates",
    );
}

#[test]
fn a_config_without_clipping_is_compared_with_nothing_else() {
    let scratch = Scratch::new();
    scratch.write("c.toml", "clip = \"none\"");
    let said = scratch
        .run(&format!("sweep {SMALL} --config c.toml"))
        .succeeded();
    has(&said, "1 run: 1 policy x 1 learning rate");
}

#[test]
fn a_sweep_with_other_settings_needs_another_folder() {
    let scratch = Scratch::new();
    scratch
        .run(&format!("sweep {SMALL} --clip none"))
        .succeeded();
    let error = scratch
        .run(&format!("sweep {SMALL} --clip none --optimizer sgd"))
        .failed(2);
    has(&error, "choose another --out");
    // The size that 0 stands for is not another one.
    let small = format!("sweep {SMALL} --model transformer --heads 2 --clip none --out sizes");
    scratch.run(&small).succeeded();
    scratch.run(&format!("{small} --kv-heads 2")).succeeded();
    scratch.run(&format!("{small} --kv-heads 1")).failed(2);
    for (flags, part) in [
        ("--clip none --clip none", "was given twice"),
        ("--clip norm:1 --clip norm:1.0", "was given twice"),
        ("--lr 0", "lr"),
    ] {
        let error = scratch.run(&format!("sweep --out other {flags}")).failed(2);
        has(&error, part);
    }
}

/// Losses of the steps of a run.
fn losses(scratch: &Scratch, run: &str) -> Vec<Value> {
    let events = scratch.events(&format!("grid/runs/{run}"));
    let steps = events.iter().filter(|event| event["event"] == "step");
    steps.map(|step| step["loss"].clone()).collect()
}

#[test]
fn a_stopped_sweep_resumes() {
    let grid = format!("sweep {SMALL} --clip none --clip global-norm:0.1").replace("40", "400");
    let (stopped, whole) = (Scratch::new(), Scratch::new());
    let running = stopped.start(&grid, "grid/runs/none_lr-0.002_seed-1", 30);
    let ran = running.terminate();
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(
        ran.stdout.contains("the same command continues from here"),
        "{ran:#?}"
    );
    assert!(!stopped.path("grid/report.html").exists());
    stopped.run(&grid).succeeded();
    whole.run(&grid).succeeded();
    for run in ["none_lr-0.002_seed-1", "global-norm-0.1_lr-0.002_seed-1"] {
        assert_eq!(losses(&stopped, run).len(), 400);
        assert_eq!(losses(&stopped, run), losses(&whole, run));
    }
    assert_eq!(
        stopped.read_json("grid/report.json"),
        whole.read_json("grid/report.json")
    );
}

#[test]
fn a_diverged_run_is_a_result_and_not_repeated() {
    let scratch = Scratch::new();
    let grid = format!(
        "sweep {SMALL} --preset rnn-128 --nonlinearity relu --optimizer sgd --clip none --lr 1e20"
    );
    let said = scratch.run(&grid).succeeded();
    has(&said, "none_lr-100000000000000000000_seed-1: diverged");
    has(&said, "No combination converged");
    // Each step has its own speed: taken again, it would be another line.
    let log = "grid/runs/none_lr-100000000000000000000_seed-1/events.jsonl";
    let before = scratch.read(log);
    scratch.run(&grid).succeeded();
    assert_eq!(scratch.read(log), before);
}

#[test]
fn a_stopped_run_without_checkpoints_is_not_restarted() {
    let scratch = Scratch::new();
    let sweep = format!("sweep {SMALL} --clip none").replace("40", "4000");
    let run = "grid/runs/none_lr-0.002_seed-1";
    scratch.start(&sweep, run, 30).terminate();
    std::fs::remove_dir_all(scratch.path(run).join("checkpoints")).unwrap();
    let log = format!("{run}/events.jsonl");
    let before = scratch.read(&log);
    let said = scratch.run(&sweep).failed(1);
    has(&said, "no checkpoint to resume from");
    assert_eq!(scratch.read(&log), before);
}

#[test]
fn a_refused_sweep_leaves_nothing() {
    let scratch = Scratch::new();
    let refused = |arguments: &str, words: &str| {
        let said = scratch.run(&format!("sweep {arguments}")).failed(2);
        has(&said, words);
    };
    // A folder of runs does not belong to a sweep.
    scratch.write("work/runs/mine/plan.toml", "");
    refused("--out work", "work contains other files");
    scratch.write("file", "");
    refused("--out file", "is not a folder");
    scratch.write("short.txt", "too short");
    refused("short.txt --out grid", "the text is too short");
    assert!(!scratch.path("grid/runs").exists());
    refused("--hidden 60000 --out large", "training would take about");
    assert!(!scratch.path("large/runs").exists());
    for flag in [
        "--hiden=3",
        "--quiet",
        "--seed=2",
        "--sample-every=5",
        "--resume=a",
    ] {
        let ran = scratch.run(&format!("sweep {flag}"));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let name = flag.split('=').next().unwrap();
        let words = format!("unexpected argument '{name}'");
        assert!(ran.stderr.contains(&words), "{ran:?}");
    }
    scratch.write("c.toml", "seed = 2");
    refused(
        "--config c.toml",
        "config c.toml, line 1: seed is not used by sweep",
    );
    scratch.write("c.toml", "sample-every = 5");
    refused(
        "--config c.toml",
        "config c.toml, line 1: sample-every is not used by sweep",
    );
    scratch.write("c.toml", "quiet = true");
    refused(
        "--config c.toml",
        "config c.toml, line 1: quiet is a key for `shears train` only",
    );
    // Both rates are above it, though the preset's is not.
    let grid = format!("sweep {SMALL} --clip none --lr 0.05,0.1 --schedule cosine --min-lr 0.01");
    scratch.run(&grid).succeeded();
}

#[test]
fn a_folder_with_the_old_name_resumes() {
    let scratch = Scratch::new();
    let sweep = format!("sweep {SMALL} --clip none");
    scratch.run(&sweep).succeeded();
    let log = "grid/runs/none_lr-0.002_seed-1/events.jsonl";
    let before = scratch.read(log);
    let [old, new] = ["compare", "sweep"].map(|mark| scratch.path(format!("grid/{mark}.toml")));
    std::fs::rename(new, old).unwrap();
    scratch.run(&sweep).succeeded();
    assert_eq!(scratch.read(log), before);
}

#[test]
fn the_plan_of_a_run_configures_a_sweep() {
    let scratch = Scratch::new();
    let small = SMALL.replace("--out grid", "");
    let run =
        format!("train {small} --nonlinearity relu --preset rnn-128 --seed 7 --quiet --out run");
    scratch.run(&run).succeeded();
    let sweep = "sweep --config run/plan.toml --optimizer sgd --clip none --out grid";
    scratch.run(sweep).succeeded();
    let plan = scratch.plan("grid/runs/none_lr-0.002_seed-1");
    assert_eq!(plan["nonlinearity"].as_str(), Some("relu"));
    assert_eq!(plan["optimizer"].as_str(), Some("sgd"));
    assert_eq!(plan["seed"].as_integer(), Some(1));
    assert!(!plan.contains_key("beta1"));
}
