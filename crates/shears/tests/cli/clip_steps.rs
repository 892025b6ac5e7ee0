//! `shears clip` with several files and calls: order, learned state, output of earlier calls.

use std::fs;

use crate::clip::{Tensor, f32s, with_files};
use crate::program::{Scratch, has};

fn norms(scratch: &Scratch, arguments: &str) -> Vec<f64> {
    let lines = scratch.run(&format!("clip {arguments} --json")).json();
    let norms = lines
        .iter()
        .map(|line| line["norm_before"].as_f64().unwrap());
    norms.collect()
}

fn with_steps() -> Scratch {
    let tensors = [1.0, 2.0, 10.0].map(|norm| [f32s("a", &[norm])]);
    let [one, two, ten]: &[[Tensor; 1]; 3] = &tensors;
    with_files(&[("step1.st", one), ("step2.st", two), ("step10.st", ten)])
}

#[test]
fn files_from_a_pattern_are_sorted_by_number() {
    let scratch = with_steps();
    let by_shell = "step1.st step10.st step2.st --clip none";
    assert_eq!(norms(&scratch, by_shell), [1.0, 2.0, 10.0]);
    let said = scratch.run(&format!("clip {by_shell}")).stderr;
    has(&said, "sorting the files by the numbers");
    // Any other order was chosen by hand.
    let chosen = "step2.st step10.st step1.st --clip none";
    assert_eq!(norms(&scratch, chosen), [2.0, 10.0, 1.0]);
    assert_eq!(scratch.run(&format!("clip {chosen}")).stderr, "");
}

#[test]
fn learned_state_continues_in_the_next_call() {
    let scratch = with_steps();
    let clip = |steps: &str, state: &str| {
        let command = format!("clip {steps} --clip autoclip:10 --json {state}");
        let lines = scratch.run(&command).json();
        lines.last().unwrap()["threshold"].as_f64()
    };
    let at_once = clip("step1.st step2.st step10.st", "");
    for step in ["step1.st", "step2.st"] {
        clip(step, "--state history.json");
    }
    assert_eq!(clip("step10.st", "--state history.json"), at_once);
    assert_ne!(clip("step10.st", ""), at_once);
    let other = "clip step1.st --clip autoclip:20 --state history.json";
    scratch.refuses(2, other, "history.json & autoclip:10 & autoclip:20");
    scratch.write("notes.json", "{}");
    let notes = "clip step1.st --clip autoclip:10 --state notes.json";
    scratch.refuses(2, notes, "notes.json");
}

#[test]
fn the_output_layer_is_left_alone_by_agc() {
    let tensors = [f32s("out", &[3.0]), f32s("w", &[3.0])];
    let scratch = with_files(&[("s.st", &tensors), ("p.st", &tensors)]);
    let clip = "clip s.st --params p.st --clip agc:0.01 --json";
    let coefficients = |flags: &str| {
        let line = scratch.run(&format!("{clip} {flags}")).json().remove(0);
        [0, 1].map(|index| line["tensors"][index]["coefficient"].as_f64().unwrap())
    };
    assert!(
        coefficients("")
            .iter()
            .all(|coefficient| *coefficient < 1.0)
    );
    let [out, w] = coefficients("--output-layer out");
    assert!(out == 1.0 && w < 1.0);
}

#[test]
fn an_error_leaves_no_output_of_an_earlier_call() {
    let scratch = with_steps();
    // The flag by its earlier name.
    let clip = "clip step1.st step2.st --clip none --out-dir out";
    scratch.run(clip).succeeded();
    scratch.write("step2.st", "no tensors");
    let ran = scratch.run(clip);
    assert_eq!(ran.code, Some(1));
    assert!(scratch.path("out/step1.st").exists());
    assert!(!scratch.path("out/step2.st").exists());
}

#[test]
fn differences_from_the_tensors_of_the_first_file_are_named() {
    let (first, second) = ([f32s("a", &[1.0])], [f32s("b", &[1.0])]);
    let scratch = with_files(&[("1.st", &first), ("2.st", &second)]);
    let said = scratch.run("clip 1.st 2.st --clip none").stderr;
    has(&said, "2.st has other tensors than 1.st: it lacks `a`");
}

#[test]
fn a_file_that_is_not_safetensors_is_named() {
    let scratch = Scratch::new();
    let files: [(&[u8], &str); 6] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "git lfs pull",
        ),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (
            b"some text that is not anything",
            "not a whole safetensors file",
        ),
    ];
    for (bytes, what) in files {
        fs::write(scratch.path("s.st"), bytes).unwrap();
        scratch.refuses(1, "clip s.st --clip none", &format!("s.st & {what}"));
    }
}
