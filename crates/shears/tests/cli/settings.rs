//! A setting that is out of range, or does not belong to the chosen model, optimizer or schedule,
//! is refused.

use shears_train::Plan;

use crate::program::{Scratch, TINY, has, rows};

/// A setting, a choice that it conflicts with, and what it belongs to.
const CASES: &str = "\
    embedding=8       | model=transformer  | model rnn, lstm or gru, not to transformer
    heads=2           | model=gru          | model transformer, not to gru
    forget-bias=true  | model=gru          | model lstm, not to gru
    nonlinearity=relu | model=lstm         | model rnn, not to lstm
    momentum=0.9      | optimizer=sgd      | optimizer momentum, not to sgd
    nesterov=false    | optimizer=adam     | optimizer momentum, not to adam
    alpha=0.9         | optimizer=adam     | optimizer rmsprop, not to adam
    beta1=0.8         | optimizer=rmsprop  | optimizer adam or adamw, not to rmsprop
    beta2=0.8         | optimizer=momentum | optimizer adam or adamw, not to momentum
    epsilon=1e-6      | optimizer=sgd      | optimizer rmsprop, adam or adamw, not to sgd
    min-lr=1e-5       | schedule=constant  | schedule cosine, linear or step, not to constant
    decay-every=10    | schedule=constant  | schedule step, not to constant
    decay-every=10    | schedule=cosine    | schedule step, not to cosine
    decay-factor=0.1  | schedule=linear    | schedule step, not to linear
    max-skips=3       | non-finite=error   | non-finite skip, not to error
    max-skips=3       | non-finite=zero    | non-finite skip, not to zero
    rope-theta=500    | model=gru          | position rope, not to model gru
    nonlinearity=tanh | preset=gru-512     | model rnn, not to gru; model is that of preset gru-512
    rope-theta=500    | preset=gpt-384     | position rope, not to learned; \
                                             position is that of preset gpt-384
    embedding=128     | preset=gpt-128     | model rnn, lstm or gru, not to transformer; \
                                             model is that of preset gpt-128
    momentum=0.5      | preset=lstm-128    | optimizer momentum, not to adam; \
                                             optimizer is that of preset lstm-128";

/// As [`CASES`], with the words of the refusal.
fn cases() -> impl Iterator<Item = (&'static str, &'static str, String)> {
    rows(CASES).map(|[setting, choice, owner]| {
        let (name, _) = setting.split_once('=').unwrap();
        (setting, choice, format!("{name} belongs to {owner}"))
    })
}

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
    for (setting, choice, words) in cases() {
        let train = "train --quiet --out run";
        // `bench` has no flags for what it does not use.
        let bench = Some("bench").filter(|_| !setting.starts_with("max-skips"));
        for command in std::iter::once(train).chain(bench) {
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
    for (setting, choice, words) in cases() {
        scratch.write("c.toml", line(setting) + &line(choice));
        let both = scratch.run("train --config c.toml --out run").failed(2);
        scratch.write("c.toml", line(setting));
        let key = scratch.run(&format!("train --config c.toml --{choice} --out run"));
        for message in [both, key.failed(2)] {
            assert_eq!(message, format!("shears: config c.toml, line 1: {words}"));
        }
        let set = scratch.run(&format!("sweep --{setting} --{choice}"));
        assert_eq!(set.failed(2), format!("shears: {words}"));
    }
}

#[test]
fn a_resumed_run_refuses_what_does_not_belong() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY} --optimizer sgd"), "run");
    let message = scratch.run("train --resume run --beta1 0.9").failed(2);
    let words = "beta1 belongs to optimizer adam or adamw, not to sgd";
    assert_eq!(message, format!("shears: {words}"));
}

#[test]
fn typed_choices_override_the_plan_of_a_run() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY} --beta1 0.8"), "run");
    let other = "train --config run/plan.toml --optimizer momentum --quiet --out other";
    scratch.run(other).succeeded();
    assert_eq!(
        scratch.plan("other")["optimizer"].as_str(),
        Some("momentum")
    );
    // Flags override the plan.
    let message = scratch.run(&format!("{other}2 --beta1 0.8")).failed(2);
    has(&message, "beta1 belongs to optimizer adam or adamw");
}

/// A value that is out of range, beside the choice that the setting belongs to, and the range.
const OUT_OF_RANGE: &str = "\
    layers=0         |                    | from 1 to 1000
    layers=1001      |                    | from 1 to 1000
    hidden=0         |                    | from 1 to 1000000
    embedding=0      |                    | from 1 to 1000000
    heads=0          | model=transformer  | from 1 to 10000
    dropout=-0.5     |                    | at least 0 and below 1
    dropout=1.0      |                    | at least 0 and below 1
    batch=0          |                    | from 1 to 1000000
    window=0         |                    | from 1 to 1000000
    accumulate=0     |                    | from 1 to 1000000
    lr=0.0           |                    | above 0 and finite
    lr=inf           |                    | above 0 and finite
    momentum=1.0     | optimizer=momentum | at least 0 and below 1
    alpha=1.0        | optimizer=rmsprop  | at least 0 and below 1
    beta1=-0.5       |                    | at least 0 and below 1
    beta2=1.5        | optimizer=adamw    | at least 0 and below 1
    epsilon=0.0      |                    | at least 1.1754943508222875e-38 and
    weight-decay=-1.0|                    | at least 0 and finite
    min-lr=-1.0      | schedule=cosine    | at least 0 and finite
    min-lr=0.5       | schedule=linear    | from 0 to lr
    decay-every=0    | schedule=step      | from 1 to 1000000000000
    decay-factor=0.0 | schedule=step      | above 0 and at most 1
    max-skips=0      |                    | from 1 to 1000000
    shards=0         |                    | from 1 to 1024
    kv-heads=10001   | model=transformer  | from 0 to 10000
    inner=10000001   | model=transformer  | from 0 to 10000000
    rope-theta=0.0   | preset=llama-128   | above 0 and finite
    norm-epsilon=0.0 | preset=llama-128   | at least 1.1754943508222875e-38 and
    eval-tokens=1    |                    | 0 or at least 2
    steps=0          |                    | from 1 to 1000000000000
    keep=1           |                    | from 2 to 1000000
    context=1000001  | model=transformer  | from 0 to 1000000";

#[test]
fn every_number_has_a_range_or_takes_all() {
    let plan = shears_train::Preset::Lstm128.plan();
    let takes_all = [
        "warmup",
        "seed",
        "eval-every",
        "save-every",
        "sample-every",
        "patience",
    ];
    for setting in Plan::settings() {
        let is_number = matches!(
            setting.value_in(&plan),
            Some(toml::Value::Integer(_) | toml::Value::Float(_))
        );
        let name = setting.name.as_str();
        let is_tried =
            rows(OUT_OF_RANGE).any(|[tried, ..]: [&str; 3]| tried.starts_with(&format!("{name}=")));
        assert_eq!(is_tried, is_number && !takes_all.contains(&name), "{name}");
    }
}

#[test]
fn an_out_of_range_value_is_refused_by_name() {
    let scratch = Scratch::new();
    for [setting, choice, range] in rows(OUT_OF_RANGE) {
        let (name, value) = setting.split_once('=').unwrap();
        let value = value.trim_end_matches(".0");
        let words = format!("{name} is {value}; it must be {range}");
        let flag = |given: &str| match given {
            "" => String::new(),
            given => format!("--{given}"),
        };
        let typed = format!("train --out run --{setting} {}", flag(choice));
        let message = scratch.run(&typed).failed(2);
        has(&message, &format!("shears: {words}"));
        scratch.write("c.toml", line(setting));
        let read = format!("train --out run --config c.toml {}", flag(choice));
        let message = scratch.run(&read).failed(2);
        has(
            &message,
            &format!("shears: config c.toml, line 1: & {words}"),
        );
    }
}

#[test]
fn settings_of_evaluations_need_evaluations() {
    let scratch = Scratch::new();
    for setting in ["patience", "eval-tokens"] {
        let words = format!(
            "shears: {setting} is 9, but with eval-every 0 the only evaluation is at the end; \
             change one of them"
        );
        for command in ["train", "sweep"] {
            let typed = format!("{command} --{setting} 9 --eval-every 0 --out run");
            scratch.refuses(2, &typed, &words);
        }
    }
    scratch.train(format!("{TINY} --patience 9"), "run");
    let resume = "train --resume run --steps 44 --quiet --eval-every 0";
    scratch.refuses(2, resume, "patience is 9, but with eval-every 0");
    scratch.run(&format!("{resume} --patience 0")).succeeded();
    // Of another run's plan only what has an effect is taken.
    scratch.train(format!("{TINY} --patience 8"), "other");
    scratch
        .run("train --config other/plan.toml --eval-every 0 --quiet --out third")
        .succeeded();
    assert_eq!(scratch.plan("third")["patience"].as_integer(), Some(0));
}

#[test]
fn nothing_is_sampled_at_temperature_0() {
    let scratch = Scratch::trained();
    for flag in ["top-k 3", "top-p 0.9", "min-p 0.1", "num-samples 2"] {
        let (name, _) = flag.split_once(' ').unwrap();
        let words = format!("shears: --{name} has no effect with --temperature 0");
        scratch.refuses(2, &format!("generate run --temperature 0 --{flag}"), &words);
    }
}

#[test]
fn a_patience_that_outlasts_the_run_is_noted() {
    let scratch = Scratch::new();
    let train = |patience: u32, out: &str| {
        let few = TINY.replace("--eval-every 20", "--eval-every 10");
        let train = format!("train {few} --patience {patience} --out {out}");
        scratch.run(&train).succeeded()
    };
    let note = "note: patience is 3, and the run has 3 evaluations before its end";
    has(&train(3, "a"), note);
    assert!(!train(2, "b").contains("note: patience"));
}

#[test]
fn a_plan_that_is_read_is_checked_as_one_that_is_typed() {
    let scratch = Scratch::trained();
    let plan = scratch.read("run/plan.toml");
    for (was, is, words) in [
        ("lr = 0.002", "lr = -1.0", "lr is -1; it must be above 0"),
        ("layers = 1", "layers = 0", "layers is 0; it must be from 1"),
        (
            "tied = false",
            "tied = true\nembedding = 8",
            "tied weights need embedding",
        ),
        ("global-norm:5", "global-norm:0", "`clip`: "),
    ] {
        let mut edited = plan.replace(was, is);
        if is.contains("embedding") {
            edited = edited.replace("embedding = 16\n", "");
        }
        scratch.write("run/plan.toml", edited);
        for command in [
            "train --resume run",
            "eval run",
            "generate run",
            "inspect run",
        ] {
            let message = scratch.run(command).failed(2);
            has(&message, &format!("run/plan.toml & {words}"));
        }
    }
}

#[test]
fn a_run_of_an_earlier_version_resumes() {
    let scratch = Scratch::trained();
    let whole = scratch.newest("run", "model.safetensors");
    // Earlier versions wrote every setting.
    let plan = scratch.read("run/plan.toml");
    assert!(!plan.contains("momentum"), "{plan}");
    let all = "heads = 1\nnonlinearity = \"tanh\"\nmomentum = 0.9\nnesterov = false\nalpha = 0.99\n\
               min-lr = 0.0\ndecay-every = 1000\ndecay-factor = 0.5\n";
    scratch.write("run/plan.toml", format!("{plan}{all}"));
    std::fs::remove_dir_all(scratch.path("run/checkpoints/step-00000040")).unwrap();
    scratch.run("train --resume run --quiet").succeeded();
    assert_eq!(scratch.newest("run", "model.safetensors"), whole);
    let again = "train --config run/plan.toml --quiet --out again";
    scratch.run(again).succeeded();
    assert_eq!(scratch.read("again/plan.toml"), plan);
    assert_eq!(scratch.newest("again", "model.safetensors"), whole);
}

#[test]
fn bench_takes_what_it_uses_and_refuses_the_rest() {
    let scratch = Scratch::new();
    for (part, flag) in [
        ("generate", "batch=2"),
        ("generate", "lr=0.1"),
        ("generate", "clip=none"),
        ("generate", "dropout=0.1"),
        ("clip", "batch=2"),
        ("clip", "warmup=2"),
    ] {
        let (name, _) = flag.split_once('=').unwrap();
        let words = format!("{name} is not used by bench --part {part}");
        let message = scratch.run(&format!("bench --part {part} --{flag}"));
        assert_eq!(message.failed(2), format!("shears: {words}"));
        scratch.write("c.toml", line(flag));
        let message = scratch.run(&format!("bench --part {part} --config c.toml"));
        assert_eq!(
            message.failed(2),
            format!("shears: config c.toml, line 1: {words}")
        );
    }
    let window = scratch.run("bench --part generate --window 8").failed(2);
    has(&window, "window for model transformer, not for lstm");
    // Settings that no part uses are not flags.
    for flag in ["--val", "--eval-every", "--max-skips", "--tui", "--resume"] {
        let words = format!("unexpected argument '{flag}'");
        scratch.refuses(2, &format!("bench {flag}"), &words);
    }
    // The plan of a run has more, and its steps are the run's.
    scratch.train(TINY, "run");
    for part in ["train", "clip", "generate"] {
        let bench = format!("bench --part {part} --config run/plan.toml --steps 2 --json");
        assert_eq!(scratch.run(&bench).json().len(), 1);
    }
}
