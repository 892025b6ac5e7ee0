//! Verdicts on realistic runs, and whether following the advice helps.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::program::{Scratch, has};

/// A run of less than a tenth of a second, on the built-in text.
const TINY: &str =
    "--layers 1 --hidden 16 --batch 4 --window 16 --threads 1 --eval-every 0 --save-every 0";

/// Trains, however that ends, and returns the JSON of `inspect`.
fn judged(scratch: &Scratch, run: &str, flags: &str) -> Value {
    let trained = scratch.run(&format!("train {TINY} --quiet --out {run} {flags}"));
    assert!(matches!(trained.code, Some(0 | 1 | 3)), "{trained:#?}");
    inspected(scratch, run)
}

fn inspected(scratch: &Scratch, run: &str) -> Value {
    scratch
        .run(&format!("inspect {run} --json"))
        .json()
        .remove(0)
}

/// The text of `inspect`.
fn words(scratch: &Scratch, run: &str) -> String {
    scratch.run(&format!("inspect {run}")).succeeded()
}

fn sentence(judged: &Value) -> &str {
    judged["verdict"]["sentence"].as_str().unwrap()
}

/// The last validation loss; none if it was not finite.
fn val_loss(judged: &Value) -> Option<f64> {
    judged["history"].as_array()?.last()?["val_loss"].as_f64()
}

#[test]
fn a_throttled_run_warns_about_its_norms() {
    let scratch = Scratch::new();
    let flags = "--model rnn --optimizer sgd --lr 10 --steps 300 --clip global-norm:0.03";
    let said = judged(&scratch, "held", flags);
    assert_eq!(said["verdict"]["class"], "second-learning-rate");
    assert!(said["advice"].is_null(), "{said}");
    let words = words(&scratch, "held");
    has(
        &words,
        "held back & a lower learning rate, or a threshold raised",
    );
    // The suggested command works.
    let next = said["verdict"]["next"].as_str().unwrap();
    let flags = next.split_once("train ").unwrap().1;
    // Not twice the threshold at half the rate, which would be the same run.
    let wanted = "--config held/plan.toml --steps 600";
    assert_eq!(flags, wanted);
    let again = scratch.run(&format!("train {flags} --quiet --out again"));
    again.succeeded();
}

#[test]
fn gradients_set_to_zero_do_not_make_a_run_finite() {
    let scratch = Scratch::new();
    let flags = "--model rnn --nonlinearity relu --optimizer sgd --lr 30 --steps 100 \
                 --clip global-norm:5 --non-finite zero";
    let said = judged(&scratch, "zeroed", flags);
    assert_eq!(said["verdict"]["class"], "not-finite");
    let sentence = sentence(&said);
    assert!(sentence.starts_with("not finite from step "), "{sentence}");
    has(&sentence, " %, first in `");
    assert!(said["advice"].is_null() && said["gradient_flow"].is_null());
}

#[test]
fn the_effect_of_skipping_is_reported() {
    let scratch = Scratch::new();
    let flags = "--model rnn --optimizer sgd --lr 0.5 --steps 300 --clip skip:1,window=16";
    let said = judged(&scratch, "skipping", flags);
    assert_eq!(said["verdict"]["class"], "near-ordinary");
    let words = words(&scratch, "skipping");
    has(
        &words,
        "skipped 1 & of 300 steps & these are ordinary steps",
    );
}

#[test]
fn norms_of_different_orders_are_not_compared() {
    let scratch = Scratch::new();
    let flags = "--model rnn --optimizer sgd --lr 1 --steps 200 --clip global-norm:1,p=inf";
    let said = judged(&scratch, "largest", flags);
    assert!(sentence(&said).contains("(p=inf)"), "{said}");
    assert_eq!(said["verdict"]["norm"]["order"], "inf");
    assert_eq!(said["advice"]["policy"], "global-norm:1,p=inf");
}

#[test]
fn an_exploded_run_reports_only_what_is_known() {
    let scratch = Scratch::new();
    let flags = "--model rnn --nonlinearity relu --optimizer sgd --lr 100 --steps 200 --clip none";
    let said = judged(&scratch, "dead", flags);
    assert_eq!(said["verdict"]["class"], "exploded");
    let sentence = sentence(&said);
    assert!(sentence.starts_with("exploded at step "), "{sentence}");
    assert!(sentence.contains("), not finite from step "), "{sentence}");
    let next = said["verdict"]["next"].as_str().unwrap();
    assert!(next.ends_with("--clip global-norm:1"), "{next}");
    let words = words(&scratch, "dead");
    for unknown in [
        "shortened",
        "cosine",
        "direction",
        "0.000",
        "reach every layer",
        "zclip",
        "NaN",
    ] {
        assert!(!words.contains(unknown), "{unknown}: {words}");
    }
}

/// One death, whatever the seed: after two steps or after five.
#[test]
fn the_class_of_a_death_does_not_depend_on_the_seed() {
    let scratch = Scratch::new();
    for seed in 1..=10 {
        let flags = format!(
            "--model rnn --nonlinearity relu --optimizer sgd --lr 30 --steps 60 --clip none \
             --seed {seed}"
        );
        let said = judged(&scratch, &format!("seed-{seed}"), &flags);
        assert_eq!(said["verdict"]["class"], "exploded", "{seed}: {said}");
        assert_eq!(said["advice"]["policy"], "global-norm:1", "{seed}: {said}");
    }
}

/// The longest gradient is the one that the log has, and not the first beyond the limit.
#[test]
fn the_norm_of_an_explosion_is_its_longest() {
    let scratch = Scratch::new();
    let flags = "--model rnn --nonlinearity relu --optimizer sgd --lr 30 --steps 60 --clip none";
    let said = judged(&scratch, "dead", flags);
    let log = scratch.read("dead/events.jsonl");
    let norms = log.lines().filter_map(|line| {
        serde_json::from_str::<Value>(line).ok()?["clip"]["norm_before"].as_f64()
    });
    let longest = gradclip::significant(norms.fold(0.0, f64::max));
    let sentence = sentence(&said);
    has(&sentence, &format!("up to {longest} at step "));
}

#[test]
fn steps_with_gradients_through_time_are_named() {
    let scratch = Scratch::new();
    judged(&scratch, "run", "--model rnn --steps 30");
    let words = words(&scratch, "run");
    has(&words, "time at step 30: ");
}

#[test]
fn a_window_that_never_filled_is_reported() {
    let scratch = Scratch::new();
    let said = judged(&scratch, "run", "--model rnn --steps 40 --clip skip:6");
    let sentence = sentence(&said);
    has(&sentence, "still filling its window");
    has(&sentence, "40 steps of the 64 it needs");
}

#[test]
fn a_validation_loss_that_is_not_finite_is_no_success() {
    let scratch = Scratch::new();
    let said = judged(&scratch, "absurd", "--steps 120 --lr 1e30 --clip none");
    assert_eq!(said["verdict"]["class"], "not-finite");
    assert!(sentence(&said).contains("the loss rose from 4."), "{said}");
    assert!(said["advice"].is_null(), "{said}");
}

#[test]
fn the_end_of_a_run_is_reported() {
    let scratch = Scratch::new();
    judged(&scratch, "run", "--steps 30");
    let ended = words(&scratch, "run");
    assert!(ended.contains("30 of 30 steps taken; finished"), "{ended}");
    // A log that has lost its end, and more than a checkpoint has.
    let log = scratch.read("run/events.jsonl");
    let lines: Vec<&str> = log.lines().collect();
    scratch.write("run/events.jsonl", lines[..20].join("\n") + "\n");
    // The lock of a trainer that just started is not tested.
    let lock = std::fs::File::options()
        .write(true)
        .open(scratch.path("run/.lock"));
    let long_ago = SystemTime::now() - Duration::from_mins(1);
    lock.unwrap().set_modified(long_ago).unwrap();
    let cut = scratch.run("inspect run");
    assert!(cut.stderr.contains("lines of the log are lost"), "{cut:?}");
    assert!(cut.succeeded().contains("its log has no end"));
    let json = inspected(&scratch, "run");
    assert!(json["end"].is_null(), "{json}");
    assert_eq!(json["verdict"]["next"], "shears train --resume run");
}

/// The suggestion for a stopped run, as text, as JSON and later.
#[test]
fn every_command_suggests_resuming_a_stopped_run() {
    let scratch = Scratch::new();
    let next = "shears train --resume text";
    let train = format!("train {TINY} --steps 1000000 --out text");
    let text = scratch.start(&train, "text", 40).terminate();
    assert_eq!(text.code, Some(130));
    assert_eq!(
        text.stdout.lines().last().unwrap(),
        format!("try next: {next}")
    );
    assert_eq!(inspected(&scratch, "text")["verdict"]["next"], next);
    let train = format!("train {TINY} --steps 1000000 --json --out json");
    let json = scratch.start(&train, "json", 40).terminate();
    let last = json.stdout.lines().last().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["verdict"]["next"], "shears train --resume json");
    assert_eq!(
        last["verdict"]["next"],
        inspected(&scratch, "json")["verdict"]["next"]
    );
}

#[test]
fn terminal_and_json_agree() {
    let scratch = Scratch::new();
    let said = judged(&scratch, "run", "--steps 120 --clip global-norm:1");
    let words = words(&scratch, "run");
    for said in [
        &said["verdict"]["sentence"],
        &said["verdict"]["numbers"],
        &said["verdict"]["next"],
        &said["advice"]["reasons"][0],
        &said["gradient_flow"]["words"],
        &said["update_pace"]["words"],
    ] {
        let said = said.as_str().unwrap();
        assert!(words.contains(said), "{said}: {words}");
    }
    assert!(said["advice"]["confidence"].is_string());
}

/// Twenty runs of several models, optimizers, rates and policies. Where one gets advice, it is
/// followed, and the loss must not be worse than what another seed would change.
#[test]
fn following_the_advice_does_not_refute_it() {
    const RUNS: [&str; 20] = [
        "--model rnn --optimizer sgd --lr 1 --clip none",
        "--model rnn --optimizer sgd --lr 10 --clip none",
        "--model rnn --optimizer sgd --lr 10 --clip global-norm:0.03",
        "--model rnn --optimizer sgd --lr 3 --clip global-norm:100,p=inf",
        "--model rnn --nonlinearity relu --optimizer sgd --lr 0.3 --clip none",
        "--model rnn --nonlinearity relu --optimizer sgd --lr 3 --clip none",
        "--model rnn --nonlinearity relu --optimizer sgd --lr 10 --clip none",
        "--model rnn --nonlinearity relu --optimizer adam --lr 0.002 --clip none",
        "--model rnn --nonlinearity relu --optimizer sgd --lr 1 --clip global-norm:5",
        "--model lstm --optimizer momentum --lr 0.3 --clip none",
        "--model lstm --optimizer adam --lr 0.02 --clip global-norm:0.25",
        "--model lstm --optimizer rmsprop --lr 0.01 --clip none",
        "--model gru --optimizer sgd --lr 10 --clip none",
        "--model gru --optimizer adam --lr 0.1 --clip global-norm:5",
        "--model gru --optimizer sgd --lr 1 --clip value:0.1",
        "--model transformer --heads 2 --optimizer sgd --lr 3 --clip none",
        "--model transformer --heads 2 --optimizer momentum --lr 0.3 --clip none",
        "--model transformer --heads 2 --optimizer adam --lr 0.1 --clip global-norm:5",
        "--model transformer --heads 2 --optimizer adam --lr 0.002 --clip skip:6+global-norm:1",
        "--model transformer --heads 2 --optimizer sgd --lr 10 --clip global-norm:10",
    ];
    const SEED_NOISE: f64 = 0.02;
    let scratch = Scratch::new();
    let mut changed = 0;
    for (number, flags) in RUNS.into_iter().enumerate() {
        let before = judged(
            &scratch,
            &format!("run-{number}"),
            &format!("{flags} --steps 300"),
        );
        let Some(policy) = before["advice"]["policy"].as_str() else {
            continue;
        };
        let (rest, own) = flags.split_once(" --clip ").unwrap();
        if policy == own {
            continue;
        }
        changed += 1;
        let flags = format!("{rest} --clip {policy} --steps 300");
        let after = judged(&scratch, &format!("advised-{number}"), &flags);
        // A diverged run had nothing to lose.
        let Some(loss) = val_loss(&before) else {
            continue;
        };
        let followed = val_loss(&after).unwrap_or(f64::INFINITY);
        assert!(
            followed <= loss + SEED_NOISE,
            "{flags}: {loss} became {followed}"
        );
    }
    assert!(changed >= 8, "only {changed} runs were advised to change");
}
