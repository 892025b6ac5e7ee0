//! What `shears` without arguments prints.

use std::fs;

use crate::program::Scratch;

#[test]
fn the_demo_shows_one_run_that_dies_and_one_that_learns() {
    let scratch = Scratch::new();
    let text = scratch.run("").succeeded();
    assert!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
    // Its end, which must fit a small terminal together with the prompt.
    let end = text.find("loss over").unwrap();
    let end: Vec<&str> = text[end..].lines().collect();
    assert!(end.len() <= 15, "{text}");
    let line = |start: &str| {
        let mut lines = end
            .iter()
            .filter(|line| line.trim_start().starts_with(start));
        *lines
            .next()
            .unwrap_or_else(|| panic!("no {start:?} in {text}"))
    };
    assert!(line("none").contains("not finite from step"), "{text}");
    assert!(line("none").contains('✗') && !line("global-norm:1").contains('✗'));
    assert!(line("|").len() > 40, "{text}");
    assert!(end.iter().all(|line| line.chars().count() <= 95), "{text}");

    // Each is an ordinary run.
    let runs = fs::read_dir(scratch.path("runs")).unwrap();
    let mut runs: Vec<String> = runs
        .map(|run| format!("runs/{}", run.unwrap().file_name().display()))
        .collect();
    runs.sort();
    let [clipped, lstm, free] = &runs[..] else {
        panic!("{runs:?}");
    };
    let inspect = |run: &str| {
        scratch
            .run(&format!("inspect {run} --json"))
            .json()
            .remove(0)
    };
    let steps = |run: &str| inspect(run)["verdict"]["steps"].as_u64().unwrap();
    assert_eq!((steps(clipped), steps(lstm)), (200, 200));
    assert!(steps(free) < 50);
    let command = format!("compare {free} {clipped} --out report");
    assert!(scratch.run(&command).succeeded().contains("diverged"));
    // The last one is the newest, for `generate`.
    let newest = scratch.run("generate --tokens 5");
    assert!(newest.stderr.contains(lstm.as_str()), "{newest:?}");
}

#[test]
fn the_demo_as_json_is_a_line_for_each_run() {
    let scratch = Scratch::new();
    let lines = scratch.run("demo --json").json();
    let reasons: Vec<&str> = lines
        .iter()
        .map(|l| l["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["diverged", "finished", "finished"]);
    assert!(
        lines[1]["val_loss"].as_f64().unwrap() < 2.5,
        "{:?}",
        lines[1]
    );
    assert!(lines[2]["sample"].as_str().unwrap().len() > 100);
    assert!(lines[0]["sample"].is_null());
}
