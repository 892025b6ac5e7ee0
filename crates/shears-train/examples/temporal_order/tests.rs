#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use clap::Parser;
use serde_json::Value;
use tempfile::TempDir;

use super::{Arguments, run};

/// Runs the program with these flags in a test folder.
fn run_in(folder: &TempDir, flags: &str) -> Result<(), String> {
    let flags = std::iter::once("temporal-order").chain(flags.split_whitespace());
    let mut arguments = Arguments::try_parse_from(flags).map_err(|error| error.to_string())?;
    arguments.check()?;
    arguments.out = folder.path().join(arguments.out);
    run(&arguments).map_err(|error| error.to_string())
}

fn outcomes(folder: &TempDir, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path().join(name).join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    results["outcomes"].as_array().unwrap().clone()
}

#[test]
fn a_short_task_is_learned_with_and_without_clipping() {
    let folder = tempfile::tempdir().unwrap();
    run_in(&folder, "--lengths 10 --seeds 2 --updates 5000 --out found").unwrap();
    let outcomes = outcomes(&folder, "found");
    assert_eq!(outcomes.len(), 4);
    for outcome in outcomes {
        assert_eq!(outcome["end"], "solved", "{outcome}");
        assert!(outcome["error"].as_f64().unwrap() < 0.01, "{outcome}");
        assert!(outcome["largest_norm"].as_f64().unwrap() > 0.0, "{outcome}");
        let clipped = outcome["clipped_share"].as_f64().unwrap();
        let clips = outcome["policy"] == "global-norm:1";
        assert_eq!(clipped > 0.0, clips, "{outcome}");
    }
    let picture = fs::read_to_string(folder.path().join("found/success.svg")).unwrap();
    assert!(picture.contains("global-norm:1"));
}

#[test]
fn a_trial_depends_only_on_its_seed_and_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &str| run_in(&folder, &format!("--lengths 10,20 --updates 150 {more}"));
    run("--seeds 1 --threads 1 --out one").unwrap();
    run("--seeds 1 --threads 4 --out four").unwrap();
    let without_times = |name: &str| {
        let mut outcomes = outcomes(&folder, name);
        for outcome in &mut outcomes {
            outcome["seconds"] = Value::Null;
        }
        outcomes.sort_by_key(Value::to_string);
        outcomes
    };
    assert_eq!(without_times("one"), without_times("four"));
    assert_eq!(without_times("one").len(), 4);

    // Existing results are kept, and new ones added.
    let before = outcomes(&folder, "one");
    run("--seeds 2 --out one").unwrap();
    let after = outcomes(&folder, "one");
    assert_eq!(after[..4], before);
    assert_eq!(after.len(), 8);
    assert_ne!(after[0]["error"], 1.0);
}

#[test]
fn invalid_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |flags: &str, part: &str| {
        let said = run_in(&folder, flags).unwrap_err();
        assert!(said.contains(part), "{said}");
    };
    refused("--lr 0", "--lr 0: it must be above 0");
    refused("--threads 0", "'0' for '--threads");
    refused("--lengths 9", "9 is not in 10..");
    refused("--seeds many", "'many' for '--seeds");
    refused("--updates", "value is required for '--updates");
    refused("--stpes 4", "unexpected argument '--stpes'");
    for policy in ["update-rms:1", "agc:0.01", "skip:6+spam"] {
        refused(
            &format!("--clip none --clip {policy}"),
            "plain gradient descent",
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        fs::write(path, text).unwrap();
    };
    write("file", "");
    refused("--out file", "is not a folder");
    write("book/text.txt", "a text");
    refused("--out book", "book holds something else");

    let few = "--lengths 10 --seeds 1 --out few --updates";
    run_in(&folder, &format!("{few} 5")).unwrap();
    refused(&format!("{few} 6"), "choose another --out");
    write("few/results.json", "{");
    refused(&format!("{few} 5"), "results.json");
}
