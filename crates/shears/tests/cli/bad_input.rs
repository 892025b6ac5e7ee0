//! Misuse: exit code 2, one line that names the thing, and nothing written.

use crate::program::{Scratch, TINY};

/// Texts and config files, good and bad.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write(
        "good.txt",
        "the quick brown fox jumps over the lazy dog\n".repeat(40),
    );
    scratch.write("empty.txt", "");
    scratch.write("latin1.txt", b"caf\xe9 \xfc\xe4\n".repeat(50));
    scratch.write("utf16.txt", b"\xff\xfea\0b\0");
    scratch.write("short.txt", "hello");
    scratch.write("folder/picture.png", "none");
    scratch.write("broken.json", "{\"model\":");
    scratch.write("no-toml.toml", "steps = = 4");
    scratch.write("unknown-key.toml", "stpes = 4");
    scratch.write("wrong-type.toml", "steps = \"many\"");
    scratch.write("negative.toml", "steps = -4");
    scratch.write("bad-clip.toml", "clip = \"global-nrom:1\"");
    scratch.write("bad-model.toml", "model = \"perceptron\"");
    scratch.write("bad-preset.toml", "preset = \"lstm-129\"");
    scratch.write("out-of-range.toml", "beta1 = 1.5");
    scratch.write("no-run/notes.txt", "no run");
    scratch
}

/// The program refuses `arguments` and its one line has all of `parts`.
#[track_caller]
fn refused(scratch: &Scratch, arguments: &[&str], parts: &[&str]) {
    let before = scratch.listing();
    let ran = scratch.run_with(arguments, b"");
    assert_eq!(ran.code, Some(2), "{arguments:?}: {ran:#?}");
    // Clap's own errors have a hint on how to get help below them.
    let by_clap = ran.stderr.starts_with("error: ");
    if !by_clap {
        assert!(
            ran.stderr.starts_with("shears: "),
            "{arguments:?}: {ran:#?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{arguments:?}: {ran:#?}");
    }
    for part in parts {
        assert!(
            ran.stderr.contains(part),
            "{arguments:?}: no {part:?} in {ran:#?}"
        );
    }
    assert_eq!(scratch.listing(), before, "{arguments:?} wrote something");
}

/// As [`refused`], for `train` with tiny settings before `arguments`.
#[track_caller]
fn train_refused(scratch: &Scratch, arguments: &str, parts: &[&str]) {
    let (flags, mut all) = (TINY.split_whitespace(), vec!["train"]);
    // A flag that is given takes the place of the tiny one.
    let pairs: Vec<&str> = flags.collect();
    for pair in pairs.chunks(2) {
        if !arguments.contains(pair[0]) {
            all.extend(pair);
        }
    }
    all.extend(["--out", "out"]);
    all.extend(arguments.split_whitespace());
    refused(scratch, &all, parts);
}

#[test]
fn texts() {
    let scratch = scratch();
    let cases: [(&str, &[&str]); 9] = [
        ("missing.txt", &["missing.txt does not exist"]),
        ("good.txt missing.txt", &["missing.txt does not exist"]),
        (
            "good.txt --val missing.txt",
            &["missing.txt does not exist"],
        ),
        ("empty.txt", &["empty.txt is empty"]),
        (
            "latin1.txt",
            &["latin1.txt is not UTF-8", "offset 3", "--encoding latin1"],
        ),
        (
            "utf16.txt",
            &["utf16.txt is not UTF-8", "--encoding utf-16"],
        ),
        ("short.txt", &["too short", "batch 4", "window 8", "33"]),
        ("folder", &["no text file in folder"]),
        ("good.txt -", &["cannot be combined"]),
    ];
    for (arguments, parts) in cases {
        train_refused(&scratch, arguments, parts);
    }
    train_refused(&scratch, "-", &["standard input is empty"]);
    let needs_one_window = "short.txt --model transformer --heads 2";
    train_refused(&scratch, needs_one_window, &["too short"]);
}

#[test]

fn validation_texts() {
    let scratch = scratch();
    scratch.write("one.txt", "x");
    let before = "good.txt --val one.txt";
    train_refused(&scratch, before, &["validation", "too short"]);
}

#[test]
fn settings() {
    let scratch = scratch();
    let cases: [(&str, &[&str]); 32] = [
        ("--preset lstm-129", &["lstm-129", "lstm-128"]),
        ("--model perceptron", &["perceptron", "transformer"]),
        ("--preset gpt-128 --model rnn", &["rnn", "gpt-128"]),
        ("--clip global-norm:0", &["global-norm:0", "greater than 0"]),
        (
            "--clip global-norm:-1",
            &["global-norm:-1", "greater than 0"],
        ),
        ("--clip norm:nan", &["norm:nan", "greater than 0"]),
        ("--clip value", &["value", "threshold"]),
        ("--clip norm:1,p=0", &["norm:1,p=0"]),
        ("--clip global-nrom:1", &["did you mean `global-norm`?"]),
        ("--non-finite ignore", &["ignore", "skip"]),
        ("--tokenizer words", &["words", "bpe:N"]),
        ("--tokenizer bpe:3", &["bpe:3", "257"]),
        ("--tokenizer missing.json", &["missing.json"]),
        ("--tokenizer broken.json", &["broken.json"]),
        ("--lr 0", &["lr is 0", "above 0"]),
        ("--lr NaN", &["lr is NaN", "above 0"]),
        ("--lr fast", &["fast", "--lr"]),
        ("--schedule linear --min-lr 1", &["min-lr is 1"]),
        ("--dropout 1", &["dropout is 1"]),
        (
            "--model transformer --heads 3",
            &["hidden (16)", "heads (3)"],
        ),
        ("--optimizer adma", &["adma", "adam"]),
        ("--nesterov", &["nesterov", "momentum"]),
        ("--schedule cosin", &["cosin", "cosine"]),
        ("--device tpu", &["device `tpu`", "cpu"]),
        ("--batch 0", &["batch is 0"]),
        ("--steps 0", &["steps is 0"]),
        ("--keep 1", &["keep is 1", "from 2"]),
        ("--layers 1000000000", &["layers is 1000000000"]),
        ("--hidden 60000", &["training would take about", "--hidden"]),
        ("--threads 0", &["--threads is 0"]),
        ("--threads 20000", &["--threads is 20000", "1024"]),
        ("--json --quiet", &["--json", "--quiet"]),
    ];
    for (arguments, parts) in cases {
        train_refused(&scratch, arguments, parts);
    }
}

#[test]

fn config_files() {
    let scratch = scratch();
    let cases: [(&str, &[&str]); 9] = [
        ("missing.toml", &["missing.toml"]),
        ("no-toml.toml", &["no-toml.toml"]),
        (
            "unknown-key.toml",
            &["unknown-key.toml", "`stpes`", "did you mean `steps`?"],
        ),
        (
            "wrong-type.toml",
            &[
                "wrong-type.toml",
                "`steps`",
                "line 1",
                "\"many\" is not a whole number",
            ],
        ),
        ("negative.toml", &["negative.toml", "`steps`", "-4"]),
        ("bad-clip.toml", &["`clip`", "did you mean `global-norm`?"]),
        ("bad-model.toml", &["perceptron", "transformer"]),
        ("bad-preset.toml", &["lstm-129", "lstm-128"]),
        ("out-of-range.toml", &["beta1 is 1.5"]),
    ];
    for (file, parts) in cases {
        // Flags would win over what the file has.
        refused(
            &scratch,
            &["train", "--config", file, "--out", "out"],
            parts,
        );
    }
}

#[test]
fn numbers_beyond_the_plan() {
    let scratch = Scratch::new();
    let seed = ["train", "--seed", "18446744073709551615", "--out", "out"];
    refused(
        &scratch,
        &seed,
        &["--seed", "a whole number from 0 to 9223372036854775807"],
    );
}

#[test]
fn a_folder_that_holds_a_run() {
    let scratch = Scratch::new();
    let run = format!("train {TINY} --quiet --out out");
    scratch.run(&run).succeeded();
    train_refused(&scratch, "", &["out: holds a run already", "--resume"]);
}

#[test]
fn a_folder_that_holds_files_of_other_names_of_a_run() {
    let names = [
        "events.jsonl",
        "input.txt",
        "tokenizer.json",
        "checkpoints/mine",
    ];
    for name in names {
        let scratch = Scratch::new();
        scratch.write(&format!("out/{name}"), "mine");
        let before = scratch.listing();
        let run = format!("train - {TINY} --quiet --out out");
        let message = scratch.run_with(run.split(' '), b"some text").failed(2);
        let holds = format!("out: holds {}, which", name.trim_end_matches("/mine"));
        assert!(message.contains(&holds), "{message}");
        assert_eq!(scratch.read(format!("out/{name}")), "mine");
        assert_eq!(scratch.listing(), before);
    }
}

#[test]
fn runs_that_are_none() {
    let scratch = scratch();
    for command in ["generate", "eval", "inspect"] {
        let missing = ["nowhere: there is no such run"];
        refused(&scratch, &[command, "nowhere"], &missing);
        let other = ["no-run", "is not the folder of a run"];
        refused(&scratch, &[command, "no-run"], &other);
    }
    refused(
        &scratch,
        &["train", "--resume", "no-run"],
        &["no-run", "no plan.toml"],
    );
}

#[test]
fn generate_and_eval() {
    let scratch = scratch();
    scratch
        .run(&format!("train good.txt {TINY} --quiet --out run"))
        .succeeded();
    let cases: [(&[&str], &[&str]); 13] = [
        (&["generate", "run", "--top-p", "2"], &["is 2", "at most 1"]),
        (&["generate", "run", "--top-k", "0"], &["is 0"]),
        (
            &["generate", "run", "--num-samples", "0"],
            &["--num-samples"],
        ),
        (&["generate", "run", "--min-p", "-0.5"], &["-0"]),
        (
            &["generate", "run", "--temperature=-1"],
            &["temperature is -1"],
        ),
        (&["generate", "run", "--temperature", "-1"], &["-1"]),
        (&["generate", "run", "--repetition-penalty", "0"], &["is 0"]),
        (&["generate", "run", "--stop", ""], &["stop text is empty"]),
        (
            &["generate", "run", "--prompt", "日"],
            &["'日'", "U+65E5", "vocabulary"],
        ),
        (
            &["generate", "run", "--checkpoint", "7"],
            &["no checkpoint `7`"],
        ),
        (
            &["eval", "run", "--checkpoint", "newest"],
            &["`newest`", "best, last"],
        ),
        (
            &["eval", "run", "--data", "missing.txt"],
            &["missing.txt does not exist"],
        ),
        (
            &["eval", "run", "--data", "empty.txt"],
            &["empty.txt is empty"],
        ),
    ];
    for (arguments, parts) in cases {
        refused(&scratch, arguments, parts);
    }
}

#[test]
fn commands() {
    let scratch = Scratch::new();
    refused(&scratch, &["trian"], &["trian", "train"]);
    refused(
        &scratch,
        &["train", "--stpes", "4"],
        &["--stpes", "--steps"],
    );
    refused(&scratch, &["completions", "cmd"], &["cmd", "bash"]);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let ran = scratch.run_with([std::ffi::OsStr::from_bytes(b"\xff")], b"");
        assert_eq!(ran.code, Some(2), "{ran:#?}");
    }
    for part in ["train", "clip", "generate"] {
        let bench = ["bench", "--part", part];
        let steps = [&bench[..], &["--steps", "0"]].concat();
        refused(&scratch, &steps, &["steps is 0"]);
        let vocabulary = [&bench[..], &["--vocabulary", "0"]].concat();
        refused(&scratch, &vocabulary, &["--vocabulary", "0"]);
        let size = [&bench[..], &["--hidden", "4611686018427387904"]].concat();
        refused(&scratch, &size, &["hidden is 4611686018427387904"]);
        let memory = [&bench[..], &["--hidden", "1000000"]].concat();
        refused(&scratch, &memory, &["would take about", "--hidden"]);
    }
    for (old, new) in [
        ("advise", "shears inspect"),
        ("experiment", "--example temporal-order"),
        ("export-events", "shears export"),
    ] {
        refused(&scratch, &[old, "run"], &[old, new]);
    }
    for (command, old, new) in [
        ("replay", "--policy", "--clip"),
        ("clip", "--policy", "--clip"),
        ("clip", "--nonfinite", "--non-finite"),
        ("sweep", "--set", "--optimizer sgd"),
    ] {
        refused(&scratch, &[command, "run", old, "none"], &[old, new]);
        let help = scratch.run(&format!("{command} --help")).succeeded();
        assert!(!help.contains(old), "{help}");
    }
    refused(
        &scratch,
        &["bench", "--part", "clp"],
        &["clp", "train", "clip", "generate"],
    );
}
