//! `shears experiment`.

use serde_json::Value;

use crate::program::Scratch;

fn outcomes(scratch: &Scratch, folder: &str) -> Vec<Value> {
    let results: Value =
        serde_json::from_str(&scratch.read(format!("{folder}/results.json"))).unwrap();
    results["outcomes"].as_array().unwrap().clone()
}

#[test]
fn a_short_temporal_order_is_learned_with_and_without_clipping() {
    let scratch = Scratch::new();
    let said = scratch
        .run("experiment temporal-order --lengths 10 --seeds 2 --updates 5000 --out found")
        .succeeded();
    assert!(said.contains("4 trials, 0 of them"), "{said}");
    assert!(said.contains("2 of 2"), "{said}");
    for outcome in outcomes(&scratch, "found") {
        assert_eq!(outcome["end"], "solved", "{outcome}");
        assert!(outcome["error"].as_f64().unwrap() < 0.01, "{outcome}");
        assert!(outcome["largest_norm"].as_f64().unwrap() > 0.0, "{outcome}");
        let clipped = outcome["clipped_share"].as_f64().unwrap();
        assert_eq!(
            clipped > 0.0,
            outcome["policy"] == "global-norm:1",
            "{outcome}"
        );
    }
    assert!(scratch.read("found/success.svg").contains("global-norm:1"));
}

#[test]
fn a_trial_depends_on_its_seed_alone_and_is_run_once() {
    let scratch = Scratch::new();
    let trials = "experiment temporal-order --lengths 10,20 --updates 150";
    let run = |more: &str| scratch.run(&format!("{trials} {more}"));
    run("--seeds 1 --threads 1 --out one").succeeded();
    run("--seeds 1 --threads 4 --out four").succeeded();
    let without_times = |folder: &str| {
        let mut outcomes = outcomes(&scratch, folder);
        for outcome in &mut outcomes {
            outcome["seconds"] = Value::Null;
        }
        outcomes.sort_by_key(Value::to_string);
        outcomes
    };
    assert_eq!(without_times("one"), without_times("four"));
    assert_eq!(without_times("one").len(), 4);

    // What is there is kept, and what is new is added.
    let before = outcomes(&scratch, "one");
    let said = run("--seeds 2 --out one").succeeded();
    assert!(
        said.contains("8 trials, 4 of them in one already"),
        "{said}"
    );
    let after = outcomes(&scratch, "one");
    assert_eq!(after[..4], before);
    assert_eq!(after.len(), 8);
    assert_ne!(after[0]["error"], 1.0);
}

#[test]
fn an_experiment_that_cannot_be_is_refused() {
    let scratch = Scratch::new();
    let run = |more: &str| scratch.run(&format!("experiment temporal-order {more}"));
    let said = run("--lr 0").failed(2);
    assert!(said.contains("--lr 0: it must be above 0"), "{said}");
    let said = run("--threads 0").failed(2);
    assert!(said.contains("--threads is 0"), "{said}");

    for policy in ["update-rms:1", "agc:0.01", "skip:6+spam"] {
        let said = run(&format!("--clip none --clip {policy} --out never")).failed(2);
        assert!(
            said.contains(policy) && said.contains("plain gradient descent"),
            "{said}"
        );
    }
    assert!(!scratch.path("never").exists());
    scratch.write("file", "");
    let said = run("--out file").failed(2);
    assert!(said.contains("is no folder"), "{said}");

    scratch.write("book/text.txt", "a text");
    let said = run("--out book").failed(2);
    assert!(said.contains("book holds something else"), "{said}");
    assert_eq!(scratch.read("book/text.txt"), "a text");

    run("--lengths 10 --seeds 1 --updates 5 --out few").succeeded();
    let said = run("--lengths 10 --seeds 1 --updates 6 --out few").failed(2);
    assert!(said.contains("choose another --out"), "{said}");
    scratch.write("few/results.json", "{");
    let said = run("--lengths 10 --seeds 1 --updates 5 --out few").failed(2);
    assert!(said.contains("few/results.json"), "{said}");
}

#[test]
fn an_experiment_that_is_stopped_goes_on() {
    let scratch = Scratch::new();
    // One trial takes a moment, and the other for ever.
    let trials = "experiment temporal-order --clip none --lengths 10,500 --seeds 1 --threads 1 \
                  --updates 1000000 --out found";
    let results = scratch.path("found/results.json");
    let running = scratch.start_and_wait(trials, || results.exists());
    let said = scratch.run(trials).failed(2);
    assert!(said.contains("another shears runs trials there"), "{said}");
    let ran = running.terminate();
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(
        ran.stdout
            .contains("goes on with the trials that are missing"),
        "{ran:#?}"
    );
    assert_eq!(outcomes(&scratch, "found").len(), 1);
    let again = scratch.run(&trials.replace("10,500", "10")).succeeded();
    assert!(again.contains("1 trials, 1 of them"), "{again}");
}
