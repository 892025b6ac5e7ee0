//! Injected system faults: failing calls, a full disk, and the order of writes to the disk.
//! `strace` injects and traces; without it these tests are skipped.
//!
//! `SHEARS_FAULTS=all` fails every call once, not only some.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{Ran, Scratch, has};

/// Four steps and two checkpoints.
const SHORT: &str = "--hidden 4 --layers 1 --batch 2 --window 4 --steps 4 --eval-every 0 \
                     --save-every 2 --threads 1 --quiet";

/// Runs the program under `strace`; if that is impossible, says that the test is skipped.
fn traced(scratch: &Scratch, strace: &[&str], arguments: &str) -> Option<Ran> {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o", "trace.txt"])
        .args(strace)
        .arg(env!("CARGO_BIN_EXE_shears"))
        .args(arguments.split_whitespace())
        .current_dir(scratch.path(""))
        .stdin(Stdio::null());
    let is_of_strace = |line: &str| line.starts_with("strace:");
    let ran = command.output().ok().map(Ran::from);
    let ran = ran.filter(|ran| !ran.stderr.lines().any(is_of_strace));
    if ran.is_none() {
        println!("skipped: there is no strace that may look");
    }
    ran
}

/// How often a call was made.
fn calls(scratch: &Scratch, call: &str) -> usize {
    let trace = scratch.read("trace.txt");
    trace
        .lines()
        .filter(|line| line.contains(&format!(" {call}(")))
        .count()
}

fn whole() -> Scratch {
    let scratch = Scratch::new();
    scratch.run(&format!("train {SHORT} --out run")).succeeded();
    scratch
}

/// Whichever call fails, the run ends with one line, and resumes from its checkpoint to the same
/// bits.
#[test]
fn a_run_resumes_after_an_error_in_any_call_of_a_save() {
    let expected = whole().newest("run", "model.safetensors");
    let all = std::env::var_os("SHEARS_FAULTS").is_some();
    let mut injected = 0;
    for (call, error) in [
        ("fsync", "EIO"),
        ("fdatasync", "EIO"),
        ("rename", "ENOSPC"),
        ("mkdir", "ENOSPC"),
        ("write", "ENOSPC"),
        ("write", "EIO"),
    ] {
        let scratch = Scratch::new();
        let train = format!("train {SHORT} --out run");
        let filter = format!("trace={call}");
        if traced(&scratch, &["-e", &filter], &train).is_none() {
            return;
        }
        let count = calls(&scratch, call);
        assert!(count > 0, "{call}");
        let stride = if all { 1 } else { (count / 3).max(1) };
        for number in (1..=count).step_by(stride) {
            let which = format!("{call} {number} of {count}, {error}");
            let scratch = Scratch::new();
            let inject = format!("inject={call}:error={error}:when={number}");
            let ran = traced(&scratch, &["-e", &filter, "-e", &inject], &train).unwrap();
            injected += 1;
            check(&scratch, &ran, &which);
            // The run resumes, or nothing blocks a new one.
            let resume = match scratch.path("run/plan.toml").exists() {
                true => "train --resume run --quiet --threads 1",
                false => &train,
            };
            let again = scratch.run(resume);
            assert_eq!(again.code, Some(0), "{which}: {again:#?}");
            assert!(
                scratch.newest("run", "model.safetensors") == expected,
                "{which}"
            );
        }
    }
    println!("{injected} calls failed");
}

/// A failure is one line with a place; a call may also fail without consequences.
fn check(scratch: &Scratch, ran: &Ran, which: &str) {
    assert!(!ran.stderr.contains("internal error"), "{which}: {ran:#?}");
    match ran.code {
        Some(0) => {}
        Some(1 | 2) => {
            let said = ran.stderr.trim_end();
            assert!(said.starts_with("shears: cannot "), "{which}: {said}");
            assert_eq!(said.lines().count(), 1, "{which}: {said}");
        }
        code => panic!("{which}: {code:?}"),
    }
    // Everything with the name of a checkpoint is a complete one.
    for name in scratch.checkpoints("run") {
        let manifest = format!("run/checkpoints/{name}/manifest.json");
        assert!(scratch.path(&manifest).exists(), "{which}: {name}");
    }
}

/// Power may fail after any call, so everything must be synced before it is renamed: a file before
/// its folder, and the log before a checkpoint that relies on its lines.
#[test]
fn everything_is_synced_before_it_is_referenced() {
    let scratch = Scratch::new();
    let trace = "trace=write,fsync,fdatasync,rename,mkdir";
    let train = format!("train {SHORT} --tensorboard --out run");
    if traced(&scratch, &["-y", "-e", trace], &train).is_none() {
        return;
    }
    let is_of_tensorboard = |path: &String| path.starts_with("run/tensorboard/");
    let mut dirty: BTreeSet<String> = BTreeSet::new();
    let mut renames = 0;
    let text = scratch.read("trace.txt");
    let here = scratch.path("").canonicalize().unwrap();
    let relative = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(&here)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    for line in text.lines() {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let open = call
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'));
        let open = open.map(|(path, _)| relative(path));
        let mut quoted = call.split('"').skip(1).step_by(2).map(relative);
        if call.starts_with("write(") {
            dirty.extend(open.filter(|path| path.starts_with("run/")));
        } else if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            dirty.remove(&open.unwrap());
        } else if call.starts_with("mkdir(") {
            let made = quoted.next().unwrap();
            dirty.insert(parent(&made));
        } else if call.starts_with("rename(") {
            renames += 1;
            let (from, to) = (quoted.next().unwrap(), quoted.next().unwrap());
            let below = |path: &&String| **path == from || path.starts_with(&format!("{from}/"));
            let unsynced: Vec<&String> = dirty.iter().filter(below).collect();
            assert!(
                unsynced.is_empty(),
                "{to} is renamed before {unsynced:?} is synced"
            );
            if to.contains("checkpoints/step-") && !to.ends_with(".json") {
                for needed in [
                    "run/events.jsonl",
                    "run/tokenizer.json",
                    "run/plan.toml",
                    "run",
                ] {
                    assert!(!dirty.contains(needed), "{to} counts on {needed}");
                }
                assert!(!dirty.iter().any(is_of_tensorboard), "{to}: {dirty:?}");
                assert!(scratch.path("run/tensorboard").is_dir());
            }
            dirty.insert(parent(&to));
        }
    }
    assert!(renames >= 6, "{renames} renames");
    // Their last lines may be lost: a resumed run repeats those steps.
    dirty.remove("run/events.jsonl");
    dirty.retain(|path| !is_of_tensorboard(path));
    dirty.remove(".");
    assert!(dirty.is_empty(), "never synced: {dirty:?}");
    println!("{renames} renames, each after its syncs");
}

/// Whichever command creates folders, it syncs what their names are in, those above included.
#[test]
fn folders_that_are_created_are_synced() {
    let scratch = Scratch::new();
    let sweep = SHORT.replace(" --quiet", "");
    for (arguments, made) in [
        (format!("train {SHORT}"), "runs"),
        (format!("train {SHORT} --out new/er/a"), "new/er/a"),
        (format!("train {SHORT} --seed 2 --out b"), "b"),
        ("compare new/er/a b --out of/report".into(), "of/report"),
        (
            format!("sweep {sweep} --clip none --out a/sweep"),
            "a/sweep",
        ),
        (
            "clip b/checkpoints/step-00000004/model.safetensors --clip none --out-dir of/clip"
                .into(),
            "of/clip",
        ),
    ] {
        let trace = "trace=fsync,mkdir,mkdirat";
        let Some(ran) = traced(&scratch, &["-y", "-e", trace], &arguments) else {
            return;
        };
        ran.succeeded();
        assert!(scratch.path(made).is_dir(), "{arguments}");
        let here = scratch.path("").canonicalize().unwrap();
        let mut dirty = BTreeSet::new();
        let mut synced = 0;
        for line in scratch.read("trace.txt").lines() {
            let quoted = line.split('"').nth(1);
            let open = line
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'));
            match (quoted, open) {
                (Some(made), _) if line.contains(" mkdir") && line.ends_with(" = 0") => {
                    dirty.insert(here.join(made).parent().unwrap().to_path_buf());
                }
                (_, Some((path, _))) if line.contains(" fsync(") => {
                    synced += usize::from(dirty.remove(Path::new(path)));
                }
                _ => {}
            }
        }
        assert!(dirty.is_empty(), "{arguments}: never synced: {dirty:?}");
        assert!(synced > 0, "{arguments}");
    }
}

/// Whoever runs it: root may delete from read-only folders.
#[test]
fn a_deletion_that_fails_is_a_warning() {
    let scratch = Scratch::new();
    let more = SHORT.replace("--save-every 2", "--save-every 1 --keep 2");
    let train = format!("train {more} --out run");
    let strace = ["-e", "trace=unlinkat", "-e", "inject=unlinkat:error=EIO"];
    let Some(ran) = traced(&scratch, &strace, &train) else {
        return;
    };
    let part = "shears: warning: cannot delete run/checkpoints/step-00000001: ";
    assert_eq!(ran.stderr.matches(part).count(), 1, "{ran:#?}");
    ran.succeeded();
    let left = || {
        let names = fs::read_dir(scratch.path("run/checkpoints")).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).count()
    };
    assert!(left() > 0);
    scratch
        .run("train --resume run --steps 5 --quiet --threads 1")
        .succeeded();
    assert_eq!(left(), 0);
}

fn parent(path: &str) -> String {
    let parent = Path::new(path).parent().unwrap();
    match parent == Path::new("") {
        true => ".".to_string(),
        false => parent.display().to_string(),
    }
}

/// A disk of a few hundred kilobytes, unmounted at the end of the test.
pub(crate) struct Disk<'a>(&'a Scratch);

impl<'a> Disk<'a> {
    /// Mounts one at `disk`; if that is not allowed, says that the test is skipped.
    pub(crate) fn mounted(scratch: &'a Scratch, size: &str) -> Option<Disk<'a>> {
        fs::create_dir(scratch.path("disk")).unwrap();
        let mount = format!("mount -t tmpfs -o size={size} tmpfs disk");
        let mut shell = Command::new("sh");
        shell.args(["-c", &mount]).current_dir(scratch.path(""));
        let mounted = shell.stderr(Stdio::null()).status().unwrap().success();
        if !mounted {
            println!("skipped: only root may mount a small disk");
        }
        mounted.then_some(Disk(scratch))
    }

    pub(crate) fn resize(&self, size: &str) {
        let mount = format!("mount -o remount,size={size} disk");
        let mut shell = Command::new("sh");
        shell.args(["-c", &mount]).current_dir(self.0.path(""));
        assert!(shell.status().unwrap().success());
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("disk").current_dir(self.0.path("")).status();
    }
}

#[test]
fn a_run_ended_by_a_full_disk_resumes_when_there_is_room() {
    let scratch = whole();
    let expected = scratch.newest("run", "model.safetensors");
    let mut full = 0;
    for kilobytes in (12..=76).step_by(16) {
        let scratch = Scratch::new();
        let Some(disk) = Disk::mounted(&scratch, &format!("{kilobytes}k")) else {
            return;
        };
        let train = format!("train {SHORT} --out disk/run");
        let ran = scratch.run(&train);
        if ran.code == Some(0) {
            continue;
        }
        full += 1;
        let said = ran.failed(1);
        assert!(
            said.contains("cannot ") && said.contains("disk/run"),
            "{said}"
        );
        has(&said, "No space left on device");
        disk.resize("4m");
        let resume = match scratch.path("disk/run/plan.toml").exists() {
            true => "train --resume disk/run --quiet --threads 1",
            false => &train,
        };
        scratch.run(resume).succeeded();
        assert!(scratch.newest("disk/run", "model.safetensors") == expected);
    }
    assert!(full >= 3, "the disks were too large");
}

#[test]
fn a_folder_that_becomes_read_only_keeps_its_files() {
    let scratch = Scratch::new();
    let Some(disk) = Disk::mounted(&scratch, "4m") else {
        return;
    };
    scratch
        .run(&format!("train {SHORT} --out disk/run"))
        .succeeded();
    disk.resize("4m,ro");
    for command in [
        "inspect disk/run",
        "eval disk/run",
        "generate disk/run --tokens 3",
    ] {
        scratch.run(command).succeeded();
    }
    let said = scratch.run("train --resume disk/run --steps 8").failed(1);
    has(&said, "Read-only file system");
    let said = scratch
        .run(&format!("train {SHORT} --out disk/other"))
        .failed(1);
    has(&said, "disk/other");
}
