//! Settings come from the preset, then from the config file, then from flags.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::program::{Scratch, TINY};

/// Settings that go together. Every key is in one of them, and none has its default value.
const ALL: [&str; 3] = [
    r#"
text = ["text.txt"]
val = "val.txt"
tokenizer = "byte"
preset = "rnn-128"
model = "gru"
layers = 1
hidden = 12
embedding = 8
encoding = "windows-1252"
lossy = true
dropout = 0.25
tied = false
precision = "bf16"
batch = 3
window = 7
accumulate = 2
shards = 2
optimizer = "momentum"
lr = 0.125
momentum = 0.5
nesterov = true
weight-decay = 0.0625
schedule = "step"
warmup = 2
min-lr = 0.03125
decay-every = 4
decay-factor = 0.75
clip = "norm:0.5,p=1"
non-finite = "zero"
steps = 6
seed = 11
eval-every = 3
eval-tokens = 40
save-every = 2
sample-every = 5
patience = 9
keep = 2
device = "cpu"
threads = 1
out = "run"
json = false
quiet = true
verbose = false
tensorboard = true
tui = false
"#,
    r#"
text = ["text.txt"]
preset = "gpt-128"
layers = 1
hidden = 12
heads = 2
kv-heads = 1
norm = "rms"
norm-epsilon = 0.000001
position = "rope"
rope-theta = 500.5
mlp = "swiglu"
inner = 20
bias = false
context = 24
tied = false
batch = 2
window = 8
beta1 = 0.75
beta2 = 0.875
epsilon = 0.001
schedule = "linear"
max-skips = 4
steps = 2
out = "run"
quiet = true
"#,
    r#"
text = ["text.txt", "val.txt"]
preset = "lstm-512"
hidden = 12
embedding = 12
layers = 1
forget-bias = true
optimizer = "rmsprop"
alpha = 0.5
batch = 2
window = 8
steps = 2
out = "run"
quiet = true
"#,
];

/// One more, because an RNN has no forget gate.
const RNN: &str = r#"
text = ["text.txt"]
preset = "rnn-128"
nonlinearity = "relu"
hidden = 12
embedding = 12
layers = 1
batch = 2
window = 8
steps = 2
out = "run"
quiet = true
"#;

/// Keys that are not part of the plan.
const OUTSIDE: [&str; 7] = [
    "out",
    "threads",
    "json",
    "quiet",
    "verbose",
    "tensorboard",
    "tui",
];

/// The same as flags.
fn flags(table: &Table) -> String {
    let flag = |(key, value): (&String, &Value)| match (key.as_str(), value) {
        ("out", _) => String::new(),
        ("text", Value::Array(paths)) => {
            let paths = paths.iter().map(|path| path.as_str().unwrap());
            paths.collect::<Vec<_>>().join(" ")
        }
        (key, Value::Boolean(on)) if OUTSIDE.contains(&key) => match on {
            true => format!("--{key}"),
            false => String::new(),
        },
        (key, Value::String(text)) => format!("--{key}={text}"),
        (key, value) => format!("--{key}={value}"),
    };
    table.iter().map(flag).collect::<Vec<_>>().join(" ")
}

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(40);
    scratch.write("text.txt", &text);
    scratch.write("val.txt", &text[..500]);
    scratch
}

#[test]
fn every_setting_goes_from_flag_to_plan_to_config() {
    let scratch = scratch();
    let help = scratch.run("train --help").succeeded();
    let flags_in_help = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("-q, ").unwrap_or(line);
        let line = line.strip_prefix("-v, ").unwrap_or(line);
        let line = line.strip_prefix("-h, ").unwrap_or(line);
        let name = line.strip_prefix("--")?.split([' ', '[']).next()?;
        // A line of a sentence may begin with a flag.
        if name.ends_with([',', '.']) {
            return None;
        }
        Some(name.to_string())
    });
    let flags_in_help: BTreeSet<String> = flags_in_help.collect();
    let mut keys = BTreeSet::new();
    for text in ALL.into_iter().chain([RNN]) {
        let table: Table = text.parse().unwrap();
        keys.extend(table.keys().cloned());
        scratch.write("all.toml", text);
        for (given, out) in [
            ("--config all.toml", "by-config"),
            (&flags(&table), "by-flags"),
        ] {
            let ran = scratch.run(&format!("train {given} --out {out}"));
            let mut lines = ran.stderr.lines();
            // The processor may have no units for bf16.
            let is_of_bf16 = |line: &str| line.contains("warning: products in bf16 by f32 units");
            assert!(lines.all(is_of_bf16), "{ran:#?}");
            assert_eq!(ran.succeeded(), "");
            let plan = scratch.plan(out);
            for (key, value) in &table {
                if !OUTSIDE.contains(&key.as_str()) {
                    assert_eq!(plan.get(key), Some(value), "{key} {given}");
                }
            }
        }
        let plan = scratch.read("by-flags/plan.toml");
        assert_eq!(plan, scratch.read("by-config/plan.toml"));
        let again = "train --config by-flags/plan.toml --quiet --out again";
        scratch.run(again).succeeded();
        assert_eq!(plan, scratch.read("again/plan.toml"));
        for out in ["by-flags", "by-config", "again"] {
            std::fs::remove_dir_all(scratch.path(out)).unwrap();
        }
    }
    keys.remove("text");
    keys.extend(["config", "init-from", "resume", "help"].map(String::from));
    assert_eq!(flags_in_help, keys);
}

#[test]
fn a_plan_is_a_config() {
    let scratch = scratch();
    scratch.write("all.toml", ALL[0]);
    scratch.run("train --config all.toml").succeeded();
    scratch
        .run("train --config run/plan.toml --quiet --out again")
        .succeeded();
    assert_eq!(
        scratch.read("run/plan.toml"),
        scratch.read("again/plan.toml")
    );
    assert_eq!(
        scratch.newest("run", "model.safetensors"),
        scratch.newest("again", "model.safetensors")
    );
    // Also for a run without a config.
    scratch.train(TINY, "a");
    scratch
        .run("train --config a/plan.toml --quiet --out b")
        .succeeded();
    assert_eq!(scratch.read("a/plan.toml"), scratch.read("b/plan.toml"));
}

#[test]
fn a_switch_does_not_swallow_the_text_after_it() {
    let scratch = scratch();
    let flags = "--hidden 16 --layers 1 --batch 4 --window 8 --steps 2 --eval-every 0";
    let run = format!("train {flags} --quiet --out run --tied text.txt");
    scratch.run(&run).succeeded();
    let plan = scratch.plan("run");
    assert_eq!(plan["tied"], Value::Boolean(true));
    assert_eq!(plan["text"][0], Value::String("text.txt".into()));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_preset() {
    let scratch = scratch();
    scratch.write(
        "config.toml",
        "preset = \"gru-128\"\nhidden = 16\nsteps = 5\nbatch = 4\nwindow = 8\nlr = 0.25\n\
         text = [\"text.txt\"]\ntied = true\n",
    );
    let flags = "--config config.toml --steps 3 --lr 0.5 --tied=false --quiet --out run";
    scratch.run(&format!("train {flags}")).succeeded();
    let plan = scratch.plan("run");
    assert_eq!(plan["steps"], Value::Integer(3));
    assert_eq!(plan["lr"], Value::Float(0.5));
    assert_eq!(plan["tied"], Value::Boolean(false));
    assert_eq!(plan["hidden"], Value::Integer(16));
    assert_eq!(plan["embedding"], Value::Integer(16));
    assert_eq!(plan["batch"], Value::Integer(4));
    assert_eq!(plan["model"], Value::String("gru".into()));
    assert_eq!(plan["layers"], Value::Integer(2));
    // A text on the command line replaces those of the file.
    scratch
        .run("train val.txt --config config.toml --quiet --out other")
        .succeeded();
    let text = Value::Array(vec![Value::String("val.txt".into())]);
    assert_eq!(scratch.plan("other")["text"], text);
}

#[test]
fn integers_are_accepted_as_reals() {
    let scratch = scratch();
    scratch.write(
        "config.toml",
        "lr = 1\nschedule = \"linear\"\nmin-lr = 0\ndropout = 0\n",
    );
    let flags = TINY.replace("--steps 40", "--steps 2");
    scratch.train(format!("{flags} --config config.toml"), "run");
    assert_eq!(scratch.plan("run")["lr"], Value::Float(1.0));
}
