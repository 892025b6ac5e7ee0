//! A run takes the memory that it has announced, and one that cannot fit is refused before it
//! starts.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::program::{Scratch, rows};
use crate::ranks::{can_launch, launch, processes};

/// Settings dominated by one part of memory: which part, kilobytes of text, distinct words, flags.
const CASES: &str = "\
    the preset        | 50    | 1000  |
    a Transformer     | 50    | 1000  | --preset gpt-128
    Llama's block     | 50    | 1000  | --preset llama-128 --layers 12
    nearly nothing    | 4     | 10    | --model rnn --hidden 4 --batch 1 --window 4
    characters        | 20000 | 1000  | --model gru --batch 1 --window 8
    bytes             | 10000 | 1000  | --model rnn --tokenizer byte --batch 1 --window 8
    words             | 2000  | 60000 | --model rnn --tokenizer bpe:20000 --hidden 8 \
                                        --batch 1 --window 8 --val long.txt
    words and weights | 800   | 30000 | --tokenizer bpe:8000 --batch 1 --window 512
    another encoding  | 12000 | 1000  | --model rnn --tokenizer byte --batch 1 --window 8 \
                                        --encoding utf-16le
    a large batch     | 1000  | 1000  | --hidden 64 --batch 512 --window 32
    a long window     | 200   | 1000  | --preset gpt-128 --layers 2 --batch 1 --window 4096
    wide layers       | 50    | 1000  | --hidden 512 --batch 1
    no moments        | 50    | 1000  | --model gru --hidden 768 --batch 1 --window 8 --optimizer sgd
    many layers       | 50    | 1000  | --preset gpt-128 --layers 16 --batch 2
    many graphs       | 200   | 1000  | --preset rnn-128 --layers 60 --hidden 16 --embedding 16 \
                                        --batch 20 --window 20
    far back          | 50    | 1000  | --preset gru-128 --hidden 8 --layers 4 --batch 2 --window 1000
    short windows     | 200   | 1000  | --preset lstm-128 --batch 2000 --window 2";

/// Prints both, and whether they agree.
fn is_within_a_fifth(name: &str, announced: f64, peak: f64) -> bool {
    let ratio = peak / announced;
    println!("{name}: {peak:.1} MB of {announced:.1} MB announced, {ratio:.2}");
    (0.8..=1.2).contains(&ratio)
}

#[test]
fn a_run_uses_the_announced_memory() {
    let scratch = Scratch::new();
    scratch.write("val.txt", text(10, 1000));
    scratch.write("long.txt", text(100, 1000));
    let mut wrong = Vec::new();
    for (number, [name, kilobytes, words, flags]) in rows(CASES).enumerate() {
        let [kilobytes, words] = [kilobytes, words].map(|number| number.parse().unwrap());
        let text = text(kilobytes, words);
        match flags.contains("utf-16le") {
            true => scratch.write("text.txt", utf_16(&text)),
            false => scratch.write("text.txt", text),
        }
        let validation = match flags.contains("--val") || flags.contains("--encoding") {
            true => "",
            false => "--val val.txt",
        };
        let train =
            format!("train text.txt {validation} {flags} --steps 2 --verbose --out run-{number}");
        let Some((announced, peak)) = announced_and_taken(&scratch, &train) else {
            println!("skipped: this system does not tell what a process takes");
            return;
        };
        if !is_within_a_fifth(name, announced, peak) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Commands on runs of one step: name, kilobytes of text, distinct words, flags of the training,
/// and the command.
const TRAINED: &str = "\
    text    | 50  | 1000  | --model rnn --hidden 8         | eval RUN --data large.txt
    words   | 800 | 20000 | --tokenizer bpe:8000 --hidden 32 | eval RUN --data val.txt
    context | 50  | 1000  | --preset gpt-128 --window 1024 | eval RUN --data val.txt
    weights | 50  | 1000  | --hidden 1024                  | generate RUN --tokens 5
    prompt  | 50  | 1000  | --preset gpt-128 --window 1024 | generate RUN --tokens 9 \
                                                             --prompt-file val.txt
    little  | 50  | 1000  | --hidden 8                     | generate RUN --tokens 20000";

#[test]
fn evaluation_and_generation_use_the_announced_memory() {
    let scratch = Scratch::new();
    scratch.write("val.txt", text(10, 1000));
    scratch.write("large.txt", text(8_000, 1000));
    let mut wrong = Vec::new();
    for [name, kilobytes, words, flags, command] in rows(TRAINED) {
        let [kilobytes, words] = [kilobytes, words].map(|number| number.parse().unwrap());
        scratch.write("text.txt", text(kilobytes, words));
        let train = "train text.txt --val val.txt --batch 1 --steps 1 --quiet --out";
        scratch.run(&format!("{train} {name} {flags}")).succeeded();
        let command = format!("{} --verbose", command.replace("RUN", name));
        let Some((announced, peak)) = announced_and_taken(&scratch, &command) else {
            println!("skipped: this system does not tell what a process takes");
            return;
        };
        if !is_within_a_fifth(name, announced, peak) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The number of ranks, and flags.
const WITH_RANKS: &str = "\
    2 | --hidden 8 --batch 4 --window 8
    2 | --hidden 64 --batch 512 --window 32
    3 | --hidden 512 --layers 1 --batch 12
    2 | --preset gpt-128 --shards 4";

#[cfg(target_os = "linux")]
#[test]
fn each_rank_uses_the_announced_memory() {
    if !can_launch() {
        return;
    }
    let mut wrong = Vec::new();
    for [ranks, flags] in rows(WITH_RANKS) {
        let scratch = Scratch::new();
        scratch.write("text.txt", text(50, 1000));
        let said = scratch.path("said.txt");
        let output = fs::File::create(&said).unwrap();
        let train = format!("train text.txt {flags} --threads 1 --steps 12 --verbose --out run");
        let mut job = launch(&scratch, &format!("-n {ranks} shears {train}"), &[]);
        job.stderr(output.try_clone().unwrap()).stdout(output);
        let mut job = job.spawn().unwrap();
        let mut peaks = BTreeMap::new();
        let ended = loop {
            for (pid, rank) in processes(&scratch) {
                let status = fs::read_to_string(format!("/proc/{pid}/status"));
                let peak = status.ok().as_deref().and_then(peak_in);
                peaks.extend(rank.zip(peak));
            }
            if let Some(ended) = job.try_wait().unwrap() {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let said = fs::read(said).unwrap();
        let said = String::from_utf8_lossy(&said);
        assert!(ended.success(), "{flags}: {said}");
        assert!(
            said.contains(&format!(" in each of {ranks} processes (")),
            "{said}"
        );
        assert_eq!(peaks.len().to_string(), ranks, "{flags}");
        let announced = announced_in(&said);
        let most = peaks.into_values().fold(0.0, f64::max);
        if !is_within_a_fifth(&format!("{ranks} ranks, {flags}"), announced, most) {
            wrong.push(flags);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Gradients are in memory once: neither the file that was read nor the one that is written is.
#[test]
fn clipping_takes_the_memory_of_one_file() {
    const ELEMENTS: usize = 15_000_000;
    let scratch = Scratch::new();
    let megabytes = (4 * ELEMENTS) as f64 / 1e6;
    let header = format!(
        "{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{ELEMENTS}],\"data_offsets\":[0,{}]}}}}",
        4 * ELEMENTS
    );
    let length = (header.len() as u64).to_le_bytes();
    let mut file = [&length[..], header.as_bytes()].concat();
    file.extend((0..ELEMENTS).flat_map(|place| (place as f32).to_le_bytes()));
    scratch.write("step.safetensors", file);
    let clip = "clip step.safetensors --clip global-norm:1 --out out";
    let Some((_, peak)) = said_and_taken(&scratch, clip) else {
        println!("skipped: this system does not tell what a process takes");
        return;
    };
    println!("{peak:.1} MB for a file of {megabytes:.1} MB");
    assert!(peak < 1.2 * megabytes + 15.0, "{peak:.1} MB");
}

/// Before a run has a folder, or memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_beyond_the_limit_of_the_process_is_refused() {
    let scratch = Scratch::new();
    scratch.write("text.txt", text(4, 10));
    let program = env!("CARGO_BIN_EXE_shears");
    let train = "train text.txt --hidden 3000 --batch 1 --window 4 --out run";
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -v 600000; exec {program} {train}")]);
    let output = shell.current_dir(scratch.path("")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let parts = [
        "training would take about",
        "this process may have 614.4 MB; a smaller",
    ];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!scratch.path("run").exists());
}

/// Short words in random order.
fn text(kilobytes: usize, words: usize) -> String {
    let mut text = String::new();
    let mut state = 1_u64;
    while text.len() < kilobytes * 1000 {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        let mut word = (state >> 33) as usize % words + 17;
        while word > 0 {
            text.push(char::from(b"bcdfghjklm"[word % 10]));
            text.push(char::from(b"aeiou"[word / 3 % 5]));
            word /= 10;
        }
        text.push(' ');
    }
    text
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Megabytes, by the line that says it and by the system; none where the system does not tell.
fn announced_and_taken(scratch: &Scratch, arguments: &str) -> Option<(f64, f64)> {
    let (said, peak) = said_and_taken(scratch, arguments)?;
    Some((announced_in(&said), peak))
}

fn announced_in(said: &str) -> f64 {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("memory: about "));
    let mut words = line.unwrap().split_whitespace();
    let number: f64 = words.next().unwrap().parse().unwrap();
    let unit = match words.next().unwrap() {
        "kB" => 1e-3,
        "MB" => 1.0,
        "GB" => 1e3,
        other => panic!("{other}"),
    };
    number * unit
}

/// The output, and the most megabytes of memory; none where the system does not tell.
fn said_and_taken(scratch: &Scratch, arguments: &str) -> Option<(String, f64)> {
    let said = scratch.path("said.txt");
    let mut program = Command::new(env!("CARGO_BIN_EXE_shears"));
    program
        .args(arguments.split_whitespace())
        .current_dir(scratch.path(""));
    let output = fs::File::create(&said).unwrap();
    program.stderr(output.try_clone().unwrap()).stdout(output);
    let mut running = program.spawn().unwrap();
    let status = format!("/proc/{}/status", running.id());
    let mut peak = None;
    let ended = loop {
        // The peak so far, so that the last reading has nearly all.
        let found = fs::read_to_string(&status).ok();
        peak = found.as_deref().and_then(peak_in).or(peak);
        if let Some(ended) = running.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_micros(200));
    };
    // The output may be any bytes.
    let said = fs::read(said).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(ended.success(), "{arguments}: {said}");
    Some((said, peak?))
}

fn peak_in(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
