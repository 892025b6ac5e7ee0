//! `shears replay`: a run's norms under other policies.

use std::fs;

use serde_json::Value;

use crate::program::{Scratch, TINY, has};

const NORMS: [f64; 40] = {
    let mut norms = [1.0; 40];
    norms[20] = 8.0;
    norms[21] = 30.0;
    norms[30] = 4.0;
    norms
};

fn trained(flags: &str) -> Scratch {
    let scratch = Scratch::new();
    let train = format!("train {TINY} --quiet --out run {flags}");
    scratch.run(&train).succeeded();
    scratch
}

/// A run whose log has these norms, and no clipped step.
fn with_norms(norms: &[Option<f64>]) -> Scratch {
    let scratch = trained("--clip none");
    let steps = scratch.events("run").into_iter();
    let template = steps.into_iter().find(|event| event["event"] == "step");
    let template = template.unwrap();
    let lines = norms.iter().enumerate().map(|(index, norm)| {
        let mut event = template.clone();
        event["step"] = (index + 1).into();
        event["clip"]["norm_before"] = (*norm).into();
        event["clip"]["norm_after"] = norm.unwrap_or(0.0).into();
        event["clip"]["action"] = if norm.is_some() { "keep" } else { "skip" }.into();
        event["clip"]["non_finite"] = u64::from(norm.is_none()).into();
        format!("{event}\n")
    });
    scratch.write("run/events.jsonl", lines.collect::<String>());
    scratch
}

fn spiky() -> Scratch {
    with_norms(&NORMS.map(Some))
}

fn replay(scratch: &Scratch, flags: &str) -> Value {
    let ran = scratch.run(&format!("replay run --json {flags}"));
    ran.json().remove(0)
}

/// What a run did by its log: actions, thresholds and coefficients.
fn did(scratch: &Scratch) -> (Vec<Value>, Vec<Value>, Vec<f64>) {
    let events = scratch.events("run").into_iter();
    let clips = events.filter(|event| event["event"] == "step");
    let clips: Vec<Value> = clips.map(|event| event["clip"].clone()).collect();
    let of = |key: &str| clips.iter().map(|clip| clip[key].clone()).collect();
    let coefficients = clips.iter().map(|clip| clip["coefficient"].as_f64());
    let coefficients = coefficients.map(Option::unwrap).collect();
    (of("action"), of("threshold"), coefficients)
}

#[test]
fn a_replay_of_the_runs_own_policy_reproduces_the_run() {
    for policy in [
        "global-norm:0.2",
        "global-norm:0.5..0.1@30",
        "zclip:warmup=5,max=0.5",
        "autoclip:30",
        "median:1,window=20",
        "skip:1,window=10,limit=2+global-norm:0.2",
        "normalize:0.5",
        "none",
    ] {
        let scratch = trained(&format!("--lr 0.05 --clip {policy}"));
        let object = replay(&scratch, &format!("--clip {policy}"));
        let (actions, thresholds, coefficients) = did(&scratch);
        let [run, again] = [0, 1].map(|index| &object["policies"][index]);
        assert_eq!(actions.len(), 40);
        for account in [run, again] {
            assert_eq!(account["policy"], policy);
            assert_eq!(account["actions"], Value::from(actions.clone()), "{policy}");
            let found = account["thresholds"].as_array().unwrap();
            assert_eq!(*found, thresholds, "{policy}");
            let found = account["coefficients"].as_array().unwrap();
            for (found, expected) in found.iter().zip(&coefficients) {
                let error = (found.as_f64().unwrap() - expected).abs();
                assert!(error <= 1e-12, "{policy}: {found} {expected}");
            }
        }
        for key in ["clipped", "left_out", "warm_up", "threshold", "spikes"] {
            assert_eq!(run[key], again[key], "{policy}: {key}");
        }
    }
}

/// Steps under another policy are excluded, above all if their norms are of another order.
#[test]
fn only_the_steps_since_the_last_policy_change_are_replayed() {
    let scratch = trained("--clip global-norm:0.05,p=inf");
    let resumed = scratch.run("train --resume run --clip global-norm:0.1 --steps 60 --quiet");
    resumed.succeeded();
    let object = replay(&scratch, "--clip global-norm:0.1 --clip zclip:warmup=5");
    assert_eq!(
        (&object["steps"], &object["step"][0]),
        (&20.into(), &41.into())
    );
    let before = serde_json::json!([{ "clip": "global-norm:0.05,p=inf", "from": 1 }]);
    assert_eq!(object["before"], before);
    let (actions, thresholds, _) = did(&scratch);
    for account in [0, 1].map(|index| &object["policies"][index]) {
        assert_eq!(account["actions"], Value::from(actions[40..].to_vec()));
        assert_eq!(
            account["thresholds"],
            Value::from(thresholds[40..].to_vec())
        );
    }
    let text = scratch.run("replay run --clip global-norm:0.1").succeeded();
    let head = "run run: 20 steps, from step 41 on; earlier steps used global-norm:0.05,p=inf";
    assert_eq!(text.lines().next(), Some(head));
    // A run whose policy never changed has all its steps.
    let object = replay(&trained("--clip none"), "--clip global-norm:1");
    assert_eq!(
        (&object["steps"], &object["before"]),
        (&40.into(), &serde_json::json!([]))
    );
    // A changed policy that has not clipped a step yet.
    let log = scratch.read("run/events.jsonl");
    let lines = log
        .lines()
        .take_while(|line| !line.contains("\"step\":41,"));
    scratch.write(
        "run/events.jsonl",
        lines.map(|line| format!("{line}\n")).collect::<String>(),
    );
    let message = scratch.run("replay run --clip zclip").failed(2);
    assert!(
        message.contains("no step was taken with global-norm:0.1 yet"),
        "{message}"
    );
}

#[test]
fn a_replay_by_tensor_agrees_to_six_digits() {
    for policy in [
        "norm:0.05",
        "group-norm:0.05",
        "block-rms:0.002",
        "adagc:warmup=5",
        "norm:0.1+global-norm:0.1",
    ] {
        let scratch = trained(&format!("--clip {policy}"));
        let object = replay(&scratch, &format!("--clip {policy}"));
        let (actions, _, coefficients) = did(&scratch);
        let again = &object["policies"][1];
        assert!(again["clipped"].as_u64().unwrap() > 0, "{policy}");
        assert_eq!(again["actions"], Value::from(actions), "{policy}");
        let found = again["coefficients"].as_array().unwrap();
        for (found, expected) in found.iter().zip(&coefficients) {
            let error = (found.as_f64().unwrap() - expected).abs();
            assert!(error <= 1e-4, "{policy}: {found} {expected}");
        }
    }
}

#[test]
fn spikes_are_reported_per_policy() {
    let scratch = spiky();
    let object = replay(
        &scratch,
        "--clip global-norm:2 --clip global-norm:10 --clip skip:4,window=20 --clip median:2",
    );
    assert_eq!(object["steps"], 40);
    assert_eq!(object["open_loop"], true);
    let spikes = object["spikes"].as_array().unwrap();
    assert_eq!(spikes.len(), 2);
    for (key, values) in [
        ("first_step", [21, 31]),
        ("last_step", [22, 31]),
        ("peak_step", [22, 31]),
    ] {
        assert_eq!([&spikes[0][key], &spikes[1][key]], values, "{key}");
    }
    assert_eq!(spikes[0]["times_median"], 30.0);
    let account = |index: usize| &object["policies"][index];
    let results = |index: usize| {
        let each = account(index)["spikes"]["each"].as_array().unwrap();
        let each = each.iter().map(|spike| spike["result"].as_str().unwrap());
        each.collect::<Vec<&str>>()
    };
    assert_eq!(results(0), ["missed", "missed"]);
    assert_eq!(results(1), ["caught", "caught"]);
    assert_eq!(results(2), ["in part", "missed"]);
    assert_eq!(results(3), ["caught", "caught"]);
    assert_eq!(results(4), ["caught", "caught"]);
    assert_eq!(account(1)["clipped"], 3);
    assert_eq!(account(1)["clipped_share"], 0.075);
    assert_eq!(account(1)["coefficient"]["median"], 0.25);
    assert_eq!(account(1)["coefficient"]["smallest"], 2.0 / 30.0);
    assert_eq!(account(1)["spikes"]["at_once"], 2);
    assert_eq!(account(3)["left_out"], 3);
    assert_eq!(account(3)["clipped"], 0);
    assert_eq!([&account(1)["warm_up"], &account(3)["warm_up"]], [0, 10]);
    assert_eq!(account(4)["warm_up"], 10);
    assert_eq!(account(4)["thresholds"][9], Value::Null);
    assert_eq!(account(4)["thresholds"][10], 2.0);

    let text = scratch
        .run("replay run --clip global-norm:2 --clip global-norm:10 --clip zclip:warmup=200")
        .succeeded();
    has(
        &text,
        "run run: 40 steps & Open loop & run  none & A    global-norm:2 & C    zclip:warmup=200 \
         & 2 spikes & at once & in part & missed & not yet",
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    assert!(!text.contains("not finite"), "{text}");
}

#[test]
fn non_finite_steps_are_counted_separately() {
    let mut norms = NORMS.map(Some);
    (norms[5], norms[25]) = (None, None);
    let scratch = with_norms(&norms);
    let object = replay(&scratch, "--clip skip:4,window=20");
    assert_eq!(object["non_finite"], 2);
    assert_eq!(object["norm"][5], Value::Null);
    let [run, skip] = [0, 1].map(|index| &object["policies"][index]);
    assert_eq!([&run["left_out"], &skip["left_out"]], [0, 3]);
    assert_eq!(skip["actions"][5], "skip");
    assert_eq!(skip["warm_up"], 11);
    let text = scratch
        .run("replay run --clip none --plot a.svg")
        .succeeded();
    has(&text, "2 steps with gradients that are not finite");
    assert!(scratch.read("a.svg").contains("not finite (2)"));
}

#[test]
fn a_long_name_gets_its_own_line() {
    let scratch = spiky();
    let long = "skip:4,window=20,limit=3+zclip:z=3,alpha=0.95,warmup=10,max=2";
    let flags = format!("replay run --clip {long} --clip none --clip none --clip none");
    let text = scratch.run(&flags).succeeded();
    has(&text, &format!("A    {long}\n"));
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
}

#[test]
fn the_chart() {
    let scratch = spiky();
    let flags = "replay run --clip global-norm:2 --clip norm:1 --clip global-norm:1e9";
    let text = scratch.run(&format!("{flags} --plot a.svg")).succeeded();
    has(&text, "chart: a.svg");
    let svg = scratch.read("a.svg");
    has(
        &svg,
        "<svg width=\"960\" & A: global-norm:2 & B: norm:1 (no line & run: none (no threshold) & \
         C: global-norm:1e9 (above the figure) & spike (2)",
    );
    let again = scratch.run(&format!("{flags} --plot a.svg"));
    let refused = again.failed(2);
    has(&refused, "already exists");
    assert_eq!(scratch.read("a.svg"), svg);
    scratch
        .run(&format!("{flags} --plot b.svg --json"))
        .succeeded();
    assert_eq!(scratch.read("b.svg"), svg);

    scratch
        .run(&format!("{flags} --plot nowhere/a.svg"))
        .failed(1);
    let refused = scratch.run(&format!("{flags} --plot a.png")).failed(2);
    has(&refused, ".svg");
    let many = "--clip none ".repeat(7);
    let refused = scratch
        .run(&format!("replay run {many} --plot c.svg"))
        .failed(2);
    has(&refused, "at most");
    scratch.run(&format!("replay run {many}")).succeeded();
    assert!(!scratch.path("c.svg").exists());
}

#[test]
fn a_long_run_gives_a_small_chart() {
    let norm = |step: u64| 1.0 + (step * 7919 % 1000) as f64 / 1000.0;
    let norms: Vec<Option<f64>> = (0..20_000).map(|step| Some(norm(step))).collect();
    let scratch = with_norms(&norms);
    let flags = "replay run --clip autoclip:10 --clip median:1 --plot a.svg";
    scratch.run(flags).succeeded();
    let size = fs::metadata(scratch.path("a.svg")).unwrap().len();
    assert!(size < 200_000, "{size} bytes");
}

#[test]
fn policies_that_cannot_be_replayed_are_refused() {
    let scratch = spiky();
    for (policy, reason) in [
        ("value:1", "elements"),
        ("agc:0.01", "elements"),
        ("norm:1,p=1", "order"),
        ("global-norm:1,p=inf", "order"),
        ("global-norm:1+update-rms:1", "Adam"),
        ("spam", "Adam"),
    ] {
        let refused = scratch.run(&format!("replay run --clip {policy} --plot a.svg"));
        let refused = refused.failed(2);
        has(&refused, &format!("--clip {policy}: "));
        has(&refused, reason);
    }
    assert!(!scratch.path("a.svg").exists());
    for arguments in ["replay run", "replay run --clip sometimes", "replay"] {
        assert_eq!(scratch.run(arguments).code, Some(2), "{arguments}");
    }
    let nowhere = scratch.run("replay nowhere --clip none").failed(2);
    has(&nowhere, "no such run");

    scratch.write("run/events.jsonl", "");
    let empty = scratch.run("replay run --clip none").failed(2);
    has(&empty, "no steps are recorded");
    fs::remove_file(scratch.path("run/events.jsonl")).unwrap();
    let missing = scratch.run("replay run --clip none").failed(2);
    has(&missing, "no steps are recorded");

    let scratch = trained("--clip global-norm:5,p=1");
    for policy in ["global-norm:1", "median:2"] {
        let refused = scratch
            .run(&format!("replay run --clip {policy}"))
            .failed(2);
        assert!(
            refused.contains("Euclidean norms; the run was trained with global-norm:5,p=1"),
            "{refused}"
        );
    }
}

/// A policy of the same order uses the norms that the run measured.
#[test]
fn a_run_is_replayed_in_its_own_order() {
    let scratch = trained("--clip global-norm:5,p=1");
    let own = scratch
        .run("replay run --clip global-norm:5,p=1 --json")
        .json()
        .remove(0);
    assert_eq!(own["order"], "1");
    let [run, again] = [&own["policies"][0], &own["policies"][1]];
    assert!(run["clipped"].as_u64().unwrap() > 0, "{run}");
    for key in ["clipped", "actions", "thresholds", "coefficient"] {
        assert_eq!(run[key], again[key], "{key}");
    }
    let text = scratch.run("replay run --clip norm:1,p=1").succeeded();
    has(&text, "gradient norm (p=1) before clipping");
}
