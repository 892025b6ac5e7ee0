//! Messages about damaged and foreign files and impossible values: one line, in words of our own.

use std::fs;

use crate::program::{Ran, Scratch, rows};

/// Words of libraries that no user should see.
const LIBRARY_WORDS: [&str; 8] = [
    "invalid digit",
    "float literal",
    "u64",
    "invalid type",
    "EOF while",
    "os error 11",
    "InvalidHeader",
    "..18446744073709551615",
];

#[track_caller]
fn check(said: &str, part: &str) {
    assert!(said.contains(part), "{part:?} is not in {said}");
    for words in LIBRARY_WORDS {
        assert!(!said.contains(words), "{said}");
    }
}

#[test]
fn numbers_out_of_range() {
    let scratch = Scratch::trained();
    for [arguments, part] in rows(
        "generate run --num-samples 0 | it must be at least 1
         sweep --seeds 0              | it must be from 1 to 1000
         bench --vocabulary 0         | --vocabulary 0: it must be
         train --steps 99999999999999999999 | a whole number from 0 to
         train --lr abc               | --lr abc: it must be a number
         train --seed -1              | --seed -1: it must be a whole number from 0
         generate --seed -1           | --seed -1: it must be a whole number
         generate --top-k many        | --top-k many: it must be a whole number
         sweep --lr fast              | --lr fast: it must be a number
         train --window 0             | window is 0; it must be from 1
         dash nowhere                 | there is no folder nowhere",
    ) {
        check(&scratch.run(arguments).failed(2), part);
    }
    let said = scratch.run("train --tied=maybe");
    assert_eq!(said.code, Some(2));
    check(&said.stderr, "true, false");
    scratch.write("large.toml", "steps = 99999999999999999999\n");
    let said = scratch.run("train --config large.toml").failed(2);
    check(
        &said,
        "large.toml, line 1: a number exceeds the range of TOML",
    );
    scratch.write("short.txt", "a");
    check(&scratch.run("train short.txt").failed(2), "it has 0 tokens");
    scratch.write("short.txt", "ab");
    check(&scratch.run("train short.txt").failed(2), "it has 1 token,");
}

/// Errors of the parser of the command line have its words, and no lines of usage below them.
#[test]
fn words_that_no_command_knows() {
    let scratch = Scratch::new();
    for [arguments, said] in rows(
        "train --foo  | unexpected argument '--foo' found; see `shears train --help`
         train --hiden 3 | unexpected argument '--hiden' found; a similar argument exists: \
             '--hidden'; see `shears train --help`
         trane        | unrecognized subcommand 'trane'; a similar subcommand exists: 'train'; see \
             `shears --help`
         clip a.safetensors | the following required arguments were not provided: --clip \
             <POLICY>; see `shears clip --help`
         compare one  | 2 values required by '<RUN> <RUN>...'; only 1 was provided; see `shears \
             compare --help`
         export --dtype f64 | --dtype f64: it must be one of f32, f16, q8_0
         train --optimizer lion | --optimizer lion: it must be one of sgd, momentum, rmsprop, \
             adam, adamw",
    ) {
        let ran = scratch.run(arguments).failed(2);
        assert_eq!(ran, format!("shears: {said}"));
    }
}

#[test]
fn damaged_files_of_a_run() {
    let scratch = Scratch::trained();
    let checkpoints = scratch.checkpoints("run");
    let manifest = |name: &str| format!("run/checkpoints/{name}/manifest.json");
    for name in &checkpoints {
        scratch.write(&manifest(name), "{\"format\":3,\"sha256\":");
    }
    check(
        &scratch.run("eval run").failed(1),
        "manifest.json: is cut off at line 1",
    );
    for name in &checkpoints {
        scratch.write(&manifest(name), "{\"format\":\"a\",\"sha256\":{}}");
    }
    check(
        &scratch.run("generate run").failed(1),
        "has string \"a\" where something else belongs",
    );
    let log = scratch.read("run/events.jsonl");
    let line = "{\"event\":\"step\",\"step\":\"a\"}\n";
    scratch.write("run/events.jsonl", format!("{log}{line}"));
    let ran = scratch.run("inspect run");
    check(
        &ran.stderr,
        "is not an event and was skipped: has string \"a\"",
    );

    scratch.write("run/tokenizer.json", "{");
    for command in ["eval run", "generate run", "train --resume run"] {
        let said = scratch.run(command).failed(2);
        check(
            &said,
            "run/tokenizer.json: the run's own tokenizer is damaged; put back a copy",
        );
    }
}

#[test]
fn every_command_names_a_changed_plan() {
    let scratch = Scratch::trained();
    let plan = scratch.read("run/plan.toml");
    let hash = scratch.plan("run")["text-sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    for (from, to, name) in [
        ("layers = 1", "layers = 2".to_owned(), "layers"),
        ("\"f32\"", "\"bf16\"".to_owned(), "precision"),
        (hash.as_str(), "0".repeat(64), "text-sha256"),
    ] {
        let changed = plan.replace(from, &to);
        assert_ne!(changed, plan, "{from}");
        scratch.write("run/plan.toml", changed);
        for command in ["generate run --tokens 3", "eval run --data run/plan.toml"] {
            let said = scratch.run(command).failed(2);
            check(
                &said,
                &format!("run/plan.toml was changed ({name}: trained with"),
            );
        }
    }
    // The number of steps does not affect generation.
    scratch.write("run/plan.toml", plan.replace("steps = 40", "steps = 41"));
    scratch.run("generate run --tokens 3").succeeded();
}

#[test]
fn other_files_in_the_place_of_weights_are_named() {
    for (bytes, what) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..],
            "a pointer of Git LFS",
        ),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04\x14\0\0\0\0\0", "a zip archive"),
        (b"\x80\x02}q\0X\x01\0\0\0", "a pickle"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file"),
    ] {
        let scratch = Scratch::trained();
        let newest = scratch.checkpoints("run").pop().unwrap();
        let file = format!("checkpoints/{newest}/model.safetensors");
        scratch.write(&format!("run/{file}"), bytes);
        for command in [
            "eval run --checkpoint last",
            "generate run --checkpoint last --tokens 3",
        ] {
            let ran = scratch.run(command);
            check(&ran.stderr, &format!("{file}: this is {what}"));
        }
        let ran = scratch.run("train --resume run --quiet");
        check(&ran.stderr, &format!("{file}: this is {what}"));
        scratch.write("step.safetensors", bytes);
        let said = scratch
            .run("clip step.safetensors --clip value:1")
            .failed(1);
        check(&said, &format!("this is {what}"));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_be_had_and_full_disks() {
    use std::process::{Command, Stdio};
    let scratch = Scratch::trained();
    let shell = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_shears")]);
        shell.current_dir(scratch.path("")).stdin(Stdio::null());
        let output = shell.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = shell("ulimit -v 900000; exec \"$0\" eval run --threads 1000");
    match code {
        Some(0) => {}
        // Not only the next thread, but also what is allocated to start it may find no memory.
        Some(1) => check(&said, "shears: out of memory: "),
        _ => {
            check(
                &said,
                "shears: --threads 1000: the system refuses to give this process 1000 threads",
            );
            assert_eq!(code, Some(2), "{said}");
        }
    }
    for command in [
        "generate run",
        "eval run",
        "generate run --json",
        "dash run --port 0",
    ] {
        let (code, said) = shell(&format!("exec \"$0\" {command} >/dev/full"));
        check(&said, "shears: cannot write to standard output");
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    }
}

/// Threads that ask for a stack of 2^60 bytes are refused, whoever starts them.
#[test]
fn a_system_without_threads() {
    let scratch = Scratch::trained();
    let run = |arguments: &str| {
        let mut command = scratch.command(arguments.split_whitespace());
        command.env("RUST_MIN_STACK", (1_u64 << 60).to_string());
        Ran::from(command.output().unwrap())
    };
    let refused = "the system refuses this process ";
    for (arguments, part) in [
        ("train --steps 2", "threads; try --threads 1"),
        ("train --steps 2 --threads 1 --out new", refused),
        ("sweep --steps 2 --threads 1", refused),
        ("demo --threads 1", refused),
        ("dash run --port 0", refused),
    ] {
        let said = run(arguments).failed(1);
        check(&said, part);
    }
    for arguments in [
        "generate run --threads 1 --tokens 5",
        "eval run --threads 1",
    ] {
        run(arguments).succeeded();
    }
    // Two megabytes of gradients, of which a second thread would take half.
    let elements = vec![0_u8; 4 << 20];
    let gradient =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1 << 20], &elements);
    let file = safetensors::serialize([("w", gradient.unwrap())], None).unwrap();
    scratch.write("step.safetensors", file);
    run("clip step.safetensors --clip global-norm:1").succeeded();
}

/// A pipe without a writer would block.
#[cfg(unix)]
#[test]
fn fifos_are_named_where_files_should_be() {
    let scratch = Scratch::trained();
    let plan = scratch.read("run/plan.toml");
    if !scratch.named_pipe("run/.lock") {
        return;
    }
    let said = scratch.run("train --resume run").failed(1);
    check(&said, "cannot lock run/.lock: it is not a regular file");
    fs::remove_file(scratch.path("run/.lock")).unwrap();
    assert!(scratch.named_pipe("run/plan.toml"));
    let said = scratch.run("generate run").failed(2);
    check(&said, "its plan.toml is not a regular file");
    fs::remove_file(scratch.path("run/plan.toml")).unwrap();
    // A text named by a foreign plan.
    let foreign = plan.replace("text = []", "text = [\"pipe\"]");
    assert_ne!(foreign, plan);
    scratch.write("run/plan.toml", &foreign);
    assert!(scratch.named_pipe("pipe"));
    for command in ["eval run --checkpoint last", "train --resume run"] {
        let said = scratch.run(command).failed(2);
        check(
            &said,
            "pipe: was the text of the run, but is no longer a regular file",
        );
    }
    // Nor is a pipe replaced.
    let header = b"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    let length = (header.len() as u64).to_le_bytes();
    scratch.write(
        "step.safetensors",
        [&length[..], header, &[0, 0, 128, 63]].concat(),
    );
    fs::create_dir(scratch.path("out")).unwrap();
    assert!(scratch.named_pipe("out/step.safetensors"));
    let said = scratch
        .run("clip step.safetensors --clip value:1 --out out")
        .failed(2);
    check(
        &said,
        "out/step.safetensors exists and is not a regular file",
    );
}

#[cfg(unix)]
#[test]
fn endless_inputs_are_bounded() {
    let scratch = Scratch::trained();
    for (arguments, part) in [
        ("train --config /dev/zero", "config /dev/zero has over 1 MB"),
        (
            "generate run --prompt-file /dev/zero",
            "prompt /dev/zero has over 16 MB",
        ),
    ] {
        check(&scratch.run(arguments).failed(2), part);
    }
    let mut command = scratch.command("generate run --prompt -".split_whitespace());
    let zero = fs::File::open("/dev/zero").unwrap();
    let output = command.stdin(zero).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    check(&said, "the prompt on standard input has over 16 MB");
    assert_eq!(output.status.code(), Some(2));
}

/// Standard input has no size; it is refused once it takes more memory than there is.
#[cfg(target_os = "linux")]
#[test]
fn an_endless_text_is_refused() {
    let scratch = Scratch::new();
    let script = "ulimit -v 700000; yes | \"$0\" train - --out run";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_shears")]);
    let output = shell.current_dir(scratch.path("")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("yes:"))
        .collect();
    assert_eq!(said.len(), 1, "{said:?}");
    check(said[0], "this text would take about");
    assert_eq!(output.status.code(), Some(2), "{said:?}");
}
