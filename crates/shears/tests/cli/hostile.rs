//! Hostile folders and machines: nothing hangs, nothing is overwritten, and problems are reported
//! in one line.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Ran, Scratch, TINY, has};

/// Runs the program, which must end within a minute.
fn ended(scratch: &Scratch, arguments: &str) -> Ran {
    let mut command = scratch.command(arguments.split_whitespace());
    ended_command(command.stdin(Stdio::null()), arguments).checked()
}

fn ended_command(command: &mut Command, what: &str) -> Ran {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let given_up = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > given_up {
            child.kill().unwrap();
            panic!("it hangs: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap().into()
}

#[test]
fn no_file_of_a_run_may_be_a_fifo() {
    for name in [
        "plan.toml",
        "events.jsonl",
        "events.damaged.jsonl",
        "tokenizer.json",
        ".lock",
        "checkpoints/step-00000040/manifest.json",
        "checkpoints/step-00000040/model.safetensors",
        "checkpoints/step-00000040/optimizer.safetensors",
        "checkpoints/step-00000040/state.json",
    ] {
        let scratch = Scratch::trained();
        if !scratch.named_pipe(&format!("run/{name}")) {
            return;
        }
        if name == "events.damaged.jsonl" {
            let log = scratch.read("run/events.jsonl");
            scratch.write("run/events.jsonl", format!("?\n{log}"));
        }
        for command in [
            "inspect run",
            "eval run",
            "generate run --tokens 3",
            "train --resume run",
        ] {
            let ran = ended(&scratch, command);
            assert!(
                ran.code.is_some_and(|code| code <= 2),
                "{name}, {command}: {ran:#?}"
            );
            let refused = ["plan.toml", "tokenizer.json"].contains(&name);
            assert!(
                !refused || ran.code != Some(0),
                "{name}, {command}: {ran:#?}"
            );
        }
    }
}

/// A program may never write to the pipe, so a message says what is waited for.
#[test]
fn an_awaited_pipe_is_named() {
    let scratch = Scratch::trained();
    let pipe = scratch.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: there is no mkfifo");
        return;
    }
    let commands = [
        format!("train pipe {TINY} --quiet --out new"),
        format!("train --config pipe {TINY} --quiet --out config"),
        format!("train --tokenizer pipe {TINY} --quiet --out tokenizer"),
        "generate run --prompt-file pipe --tokens 2".to_string(),
        "eval run --data pipe".to_string(),
    ];
    let start = |arguments: &String| {
        let mut command = scratch.command(arguments.split_whitespace());
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    // All wait at the same time.
    let mut children: Vec<_> = commands.iter().map(start).collect();
    for (child, arguments) in children.iter_mut().zip(&commands) {
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.as_mut().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(
            line, "shears: pipe is a pipe; waiting for whoever writes to it\n",
            "{arguments}"
        );
    }
    for child in &mut children[1..] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    fs::write(&pipe, "a text that comes at last ".repeat(40)).unwrap();
    assert!(children[0].wait().unwrap().success());
}

#[test]
fn a_run_killed_while_it_was_created_blocks_no_name() {
    let scratch = Scratch::new();
    // As after the kill: everything except the plan under its name.
    scratch.write("run/.lock", "");
    scratch.write("run/plan.toml.tmp", "preset = ");
    scratch.write("run/tokenizer.json", "{");
    scratch.write("run/input.txt", "half");
    scratch.train(TINY, "run");
    assert!(!scratch.path("run/plan.toml.tmp").exists());
    scratch.run("generate run --tokens 3").succeeded();
    // The same files from someone else are not touched.
    scratch.write("other/tokenizer.json", "{");
    let message = scratch
        .run(&format!("train {TINY} --quiet --out other"))
        .failed(2);
    has(&message, "holds tokenizer.json");
    assert_eq!(scratch.read("other/tokenizer.json"), "{");
}

#[test]
fn only_one_of_simultaneous_trainers_runs() {
    let scratch = Scratch::new();
    let start = || {
        let flags = format!("train {TINY} --quiet --out run");
        let mut command = scratch.command(flags.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..5).map(|_| start()).collect();
    let codes: Vec<_> = children
        .into_iter()
        .map(|mut child| child.wait().unwrap().code())
        .collect();
    let done = codes.iter().filter(|code| **code == Some(0)).count();
    assert_eq!(done, 1, "{codes:?}");
    assert!(
        codes.iter().all(|code| matches!(code, Some(0 | 2))),
        "{codes:?}"
    );
    assert_eq!(scratch.events("run").last().unwrap()["how"], "finished");
}

#[test]
fn another_tokenizer_is_refused() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY} --tokenizer bpe:300"), "run");
    let tokenizer = scratch.read("run/tokenizer.json");
    // Two words change their ids.
    let swapped = tokenizer
        .replacen("\"a\":", "\"\u{1}\":", 1)
        .replacen("\"b\":", "\"a\":", 1);
    let swapped = swapped.replacen("\"\u{1}\":", "\"b\":", 1);
    assert_ne!(swapped, tokenizer);
    scratch.write("run/tokenizer.json", &swapped);
    for command in ["train --resume run", "generate run", "eval run"] {
        let message = scratch.run(command).failed(2);
        has(&message, "not the tokenizer that the run was started with");
    }
}

/// This library's own library panics on an empty map of characters.
#[test]
fn a_tokenizer_that_panics_is_no_bug_of_ours() {
    let scratch = Scratch::new();
    let tokenizer =
        include_str!("../../../shears-data/tests/corpus/tokenizer_json/unigram-map.json");
    scratch.write("map.json", tokenizer);
    scratch.write("text.txt", "a a a ".repeat(500));
    let ran = scratch.run(&format!("train text.txt {TINY} --tokenizer map.json"));
    // `run` asserts that nothing is called an internal error.
    let message = ran.failed(2);
    has(
        &message,
        "the tokenizers library fails on it: use another file",
    );
}

#[test]
fn a_damaged_checkpoint_is_named_when_another_is_used() {
    let scratch = Scratch::trained();
    let newest = scratch.checkpoints("run").pop().unwrap();
    let path = scratch
        .path("run/checkpoints")
        .join(&newest)
        .join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    for command in ["generate run --tokens 3", "eval run"] {
        let ran = scratch.run(&format!("{command} --checkpoint last"));
        assert!(
            ran.stderr.contains(&newest) && ran.stderr.contains("; using "),
            "{ran:#?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
        ran.succeeded();
    }
    let said = scratch.run("inspect run").succeeded();
    let line = said.lines().find(|line| line.contains(&newest)).unwrap();
    has(&line, "is damaged");
    let object = &scratch.run("inspect run --json").json()[0];
    assert_eq!(object["damaged_checkpoints"].as_array().unwrap().len(), 1);
}

/// Runs the program with an address space of this many kilobytes.
#[cfg(target_os = "linux")]
fn within(scratch: &Scratch, kilobytes: u32, arguments: &str) -> Ran {
    let mut shell = Command::new("sh");
    let limited = format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\"");
    shell
        .args(["-c", &limited, env!("CARGO_BIN_EXE_shears")])
        .args(arguments.split_whitespace())
        .current_dir(scratch.path(""))
        .env_remove("CARGO")
        .stdin(Stdio::null());
    ended_command(&mut shell, arguments)
}

/// From the smallest address space that the program can be loaded into to one that suffices.
#[cfg(target_os = "linux")]
#[test]
fn out_of_memory_is_one_line() {
    let scratch = Scratch::trained();
    // Commands that start no thread, which would be refused rather than find no memory.
    for command in ["completions bash", "inspect run", "export run"] {
        // The system's loader exits with 127 or is killed, and Rust's runtime aborts before `main`.
        let is_unloaded = |ran: &Ran| {
            let is_killed = matches!(ran.signal, Some(9 | 11)) && ran.stderr.is_empty();
            ran.code == Some(127) || is_killed
        };
        let is_before_main = |ran: &Ran| ran.stderr.contains("fatal runtime error: initialization");
        let (mut below, mut above) = (1_000, 1_000_000);
        while above - below > 16 {
            let middle = (below + above) / 2;
            match is_unloaded(&within(&scratch, middle, command)) {
                true => below = middle,
                false => above = middle,
            }
        }
        let mut said = 0;
        for kilobytes in (below..above + 2_000).step_by(40) {
            let ran = within(&scratch, kilobytes, command);
            match ran.code {
                Some(0) => break,
                Some(1) => {
                    let line = ran.failed(1);
                    assert!(line.starts_with("shears: out of memory: "), "{line}");
                    said += 1;
                }
                // With more memory than a program that was loaded, no signal is the loader's.
                _ if said == 0 && is_unloaded(&ran) => {}
                None if is_before_main(&ran) => {}
                _ => panic!("{command} within {kilobytes} kB: {ran:#?}"),
            }
        }
        println!("{command}: {said} times");
        assert!(said > 0, "{command}");
    }
}

#[test]
fn unsupported_devices_and_formats_are_refused_when_parsed() {
    let scratch = Scratch::trained();
    let refused = |arguments: &str, part: &str| {
        let said = ended(&scratch, arguments).failed(2);
        has(&said, part);
    };
    refused("train /dev/zero --out other", "it is a device, not a text");
    refused("eval run --data /dev/zero", "it is a device, not a text");
    let plan = scratch.read("run/plan.toml");
    has(&plan, "plan-format = 2");
    scratch.write(
        "newer.toml",
        plan.replace("plan-format = 2", "plan-format = 3"),
    );
    let words = "the run is of a newer shears: its format is 3";
    refused("train --config newer.toml --out other", words);
    assert!(!scratch.path("other").exists());
}
