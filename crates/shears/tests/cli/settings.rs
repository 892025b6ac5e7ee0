//! A setting that does not belong to the chosen model, optimizer or schedule is refused.

use crate::program::{Scratch, TINY};

/// A setting, what it does not go with, and the words of the refusal.
const CASES: [(&str, &str, &str); 19] = [
    (
        "embedding=8",
        "model=transformer",
        "embedding belongs to model rnn, lstm or gru, not to transformer",
    ),
    (
        "heads=2",
        "model=gru",
        "heads belongs to model transformer, not to gru",
    ),
    (
        "forget-bias=true",
        "model=gru",
        "forget-bias belongs to model lstm, not to gru",
    ),
    (
        "nonlinearity=relu",
        "model=lstm",
        "nonlinearity belongs to model rnn, not to lstm",
    ),
    // What has its default all the same.
    (
        "momentum=0.9",
        "optimizer=sgd",
        "momentum belongs to optimizer momentum, not to sgd",
    ),
    (
        "nesterov=false",
        "optimizer=adam",
        "nesterov belongs to optimizer momentum, not to adam",
    ),
    (
        "alpha=0.9",
        "optimizer=adam",
        "alpha belongs to optimizer rmsprop, not to adam",
    ),
    (
        "beta1=0.8",
        "optimizer=rmsprop",
        "beta1 belongs to optimizer adam or adamw, not to rmsprop",
    ),
    (
        "beta2=0.8",
        "optimizer=momentum",
        "beta2 belongs to optimizer adam or adamw, not to momentum",
    ),
    (
        "epsilon=1e-6",
        "optimizer=sgd",
        "epsilon belongs to optimizer rmsprop, adam or adamw, not to sgd",
    ),
    (
        "min-lr=1e-5",
        "schedule=constant",
        "min-lr belongs to schedule cosine, linear or step, not to constant",
    ),
    (
        "decay-every=10",
        "schedule=constant",
        "decay-every belongs to schedule step, not to constant",
    ),
    (
        "decay-every=10",
        "schedule=cosine",
        "decay-every belongs to schedule step, not to cosine",
    ),
    (
        "decay-factor=0.1",
        "schedule=linear",
        "decay-factor belongs to schedule step, not to linear",
    ),
    (
        "max-skips=3",
        "non-finite=error",
        "max-skips belongs to non-finite skip, not to error",
    ),
    (
        "max-skips=3",
        "non-finite=zero",
        "max-skips belongs to non-finite skip, not to zero",
    ),
    // The preset chooses as well.
    (
        "nonlinearity=tanh",
        "preset=gru-512",
        "nonlinearity belongs to model rnn, not to gru",
    ),
    (
        "embedding=128",
        "preset=gpt-128",
        "embedding belongs to model rnn, lstm or gru, not to transformer",
    ),
    (
        "momentum=0.5",
        "preset=lstm-128",
        "momentum belongs to optimizer momentum, not to adam",
    ),
];

/// A setting as a line of a config file.
fn line(setting: &str) -> String {
    let (key, value) = setting.split_once('=').unwrap();
    match value.parse::<f64>().is_ok() || matches!(value, "true" | "false") {
        true => format!("{key} = {value}\n"),
        false => format!("{key} = \"{value}\"\n"),
    }
}

#[test]
fn flags_that_do_not_belong_are_refused() {
    let scratch = Scratch::new();
    for (setting, choice, words) in CASES {
        for command in ["train --quiet --out run", "bench"] {
            let message = scratch
                .run(&format!("{command} --{setting} --{choice}"))
                .failed(2);
            assert_eq!(message, format!("shears: {words}"));
        }
    }
    assert!(scratch.listing().is_empty());
}

#[test]
fn keys_that_do_not_belong_are_refused() {
    let scratch = Scratch::new();
    for (setting, choice, words) in CASES {
        scratch.write("c.toml", line(setting) + &line(choice));
        let both = scratch.run("train --config c.toml --out run").failed(2);
        scratch.write("c.toml", line(setting));
        let key = scratch.run(&format!("train --config c.toml --{choice} --out run"));
        for message in [both, key.failed(2)] {
            assert_eq!(message, format!("shears: config c.toml: {words}"));
        }
        let set = scratch.run(&format!("sweep --set {setting} --set {choice}"));
        assert_eq!(set.failed(2), format!("shears: {words}"));
    }
}

#[test]
fn a_resumed_run_refuses_what_does_not_belong() {
    let scratch = Scratch::new();
    let run = format!("train {TINY} --optimizer sgd --quiet --out run");
    scratch.run(&run).succeeded();
    let message = scratch.run("train --resume run --beta1 0.9").failed(2);
    let words = "beta1 belongs to optimizer adam or adamw, not to sgd";
    assert_eq!(message, format!("shears: {words}"));
}

#[test]
fn a_plan_of_a_run_gives_way_to_another_choice() {
    let scratch = Scratch::new();
    let run = format!("train {TINY} --beta1 0.8 --quiet --out run");
    scratch.run(&run).succeeded();
    let other = "train --config run/plan.toml --optimizer momentum --quiet --out other";
    scratch.run(other).succeeded();
    assert_eq!(
        scratch.plan("other")["optimizer"].as_str(),
        Some("momentum")
    );
    // What is typed beside it is not taken from it.
    let message = scratch.run(&format!("{other}2 --beta1 0.8")).failed(2);
    assert!(
        message.contains("beta1 belongs to optimizer adam or adamw"),
        "{message}"
    );
}
