//! Injected faults of one of several processes: it panics, exits, is killed or stopped in each
//! phase of a run, or has wrong numbers. Without `mpirun`, or without `mpicc`, which builds the
//! injector, these tests are skipped.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::injected::Disk;
use crate::program::{Scratch, has, wait_until};
use crate::ranks::{
    TINY, can_launch, ended, goes_on, launch, launched, processes, ran, running_ranks, signal,
};

/// The library that injects, built once.
fn library() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/cli/ranks_faults/fault.c"
        );
        // Two test programs may build it at once.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, new) = (folder.join("fault.so"), NamedTempFile::new_in(folder).ok()?);
        let mut compiler = Command::new("mpicc");
        compiler.args(["-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o"]);
        let compiled = compiler.arg(new.path()).arg(source).output().ok()?;
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        new.persist(&library).unwrap();
        Some(library)
    });
    built.as_deref()
}

/// A fault of one rank: the values of `FAULT`, `FAULT_AT` and `FAULT_RANK`; see `fault.c`.
#[derive(Clone, Copy)]
struct Fault {
    deed: &'static str,
    place: &'static str,
    rank: usize,
}

/// `mpirun` as for [`launch`], with this fault; none if nothing can be injected.
fn faulty(scratch: &Scratch, fault: Fault, more: &str, arguments: &str) -> Option<Command> {
    if !can_launch() {
        return None;
    }
    let Some(library) = library() else {
        println!("skipped: there is no mpicc");
        return None;
    };
    let Fault { deed, place, rank } = fault;
    let preload = format!("-x LD_PRELOAD={}", library.display());
    let what = format!("-x FAULT={deed} -x FAULT_AT={place} -x FAULT_RANK={rank} {more}");
    Some(launch(
        scratch,
        &format!("{preload} {what} -n 2 shears {arguments}"),
        &[],
    ))
}

/// Trains, and injects the fault once `is_time`: the job ends by itself, and its files are intact.
/// Returns whether faults can be injected here.
fn ends(fault: Fault, more: &str, train: &str, is_time: impl Fn(&Scratch) -> bool) -> bool {
    let scratch = Scratch::new();
    scratch.write(
        "long.txt",
        "the cat sat on the mat, and it was. ".repeat(2000),
    );
    let more = format!("-x FAULT_WHEN={} {more}", scratch.path("now").display());
    let arguments = format!("train {train} --steps 1000000 --out run");
    let Some(mut command) = faulty(&scratch, fault, &more, &arguments) else {
        return false;
    };
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is time", || is_time(&scratch));
    scratch.write("now", "");
    let ran = ended(child);
    wait_until("all processes end", || processes(&scratch).is_empty());
    let Fault { deed, place, rank } = fault;
    let what = format!("{deed} of rank {rank} at {place}: {ran:#?}");
    // Neither the watchdog nor `timeout` ended it.
    assert!(!ran.stderr.contains("no progress"), "{what}");
    assert!(!matches!(ran.code, None | Some(0)), "{what}");
    let of_bug = ran.stderr.matches("internal error").count();
    assert_eq!(of_bug, usize::from(deed == "panic"), "{what}");
    if deed == "panic" && rank > 0 {
        assert!(ran.stderr.contains(&format!("rank {rank} on ")), "{what}");
    }
    goes_on(&scratch, "run");
    true
}

fn has_saved(scratch: &Scratch) -> bool {
    scratch.checkpoints("run").len() > 1
}

/// What can become of a process.
const DEEDS: [&str; 3] = ["panic", "exit", "kill"];

/// [`ends`] for each deed, place and rank, with more for `mpirun`.
fn each_ends<'a>(
    cases: impl IntoIterator<Item = (&'static str, &'static str, usize, &'a str)>,
    train: &str,
    is_time: impl Fn(&Scratch) -> bool,
) {
    for (deed, place, rank, more) in cases {
        if !ends(Fault { deed, place, rank }, more, train, &is_time) {
            return;
        }
    }
}

/// The step takes long enough to hit: no exchange for 10 ms is the forward or the backward pass.
#[test]
fn a_rank_that_ends_in_the_forward_pass_ends_all() {
    let train = "--model lstm --hidden 64 --layers 2 --batch 16 --window 128 --accumulate 4 \
         --eval-every 0 --save-every 2 --threads 1 --quiet";
    let cases = DEEDS.map(|deed| (deed, "quiet", 1, "-x FAULT_MS=10"));
    each_ends(cases, train, has_saved);
}

#[test]
fn a_rank_that_ends_in_the_exchange_ends_all() {
    let cases = DEEDS.map(|deed| (deed, "sum", 1, ""));
    each_ends(cases, &format!("{TINY} --eval-every 0"), has_saved);
}

/// The first rank while it writes, and another one while the first waits for it after having
/// written.
#[test]
fn a_rank_that_ends_in_a_save_ends_all() {
    // In the middle of a checkpoint.
    let first = ["exit", "kill"].map(|deed| (deed, "fsync", 0, "-x FAULT_AFTER=2"));
    let others = DEEDS.map(|deed| (deed, "barrier", 1, ""));
    let cases = first.into_iter().chain(others);
    each_ends(cases, &format!("{TINY} --eval-every 0"), has_saved);
}

/// Each rank reads its half of the validation text for long, without an exchange.
#[test]
fn a_rank_that_ends_in_an_evaluation_ends_all() {
    let train = "--model transformer --heads 2 --hidden 64 --layers 2 --batch 4 --window 16 \
         --val long.txt --eval-every 5 --save-every 5 --threads 1 --quiet";
    // A line of the step after which it evaluates, and none of the evaluation.
    let evaluates = |scratch: &Scratch| {
        let log = fs::read_to_string(scratch.path("run/events.jsonl")).unwrap_or_default();
        log.contains("\"step\":10,")
    };
    let cases = DEEDS.map(|deed| (deed, "quiet", 1, "-x FAULT_MS=50"));
    each_ends(cases, train, evaluates);
}

/// One rank contributes a NaN: all ranks skip this step, and no other.
#[test]
fn all_ranks_skip_a_non_finite_sum() {
    let scratch = Scratch::new();
    let (deed, place, rank) = ("nan", "sum", 1);
    let fault = Fault { deed, place, rank };
    // After the sums that are tried at the start. At step 65 all compare what they have.
    let arguments = format!("train {TINY} --steps 70 --eval-every 0 --out run");
    let Some(command) = faulty(&scratch, fault, "-x FAULT_AFTER=30", &arguments) else {
        return;
    };
    ran(command).succeeded();
    let log = scratch.read("run/events.jsonl");
    let skipped: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(r#""action":"skip""#))
        .collect();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(
        skipped[0].contains(r#""first_non_finite":""#),
        "{skipped:?}"
    );
    assert!(log.contains(r#""same_bits":true"#));
}

/// One rank receives another sum than the others, as with faulty memory.
#[test]
fn a_rank_that_has_drifted_is_named() {
    let scratch = Scratch::new();
    let (deed, place, rank) = ("drift", "sum", 1);
    let fault = Fault { deed, place, rank };
    let arguments = format!("train {TINY} --steps 1000 --eval-every 0 --out run");
    let Some(command) = faulty(&scratch, fault, "-x FAULT_AFTER=30", &arguments) else {
        return;
    };
    let ran = ran(command);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let told = "before step 65 the parameters or the clipper of rank 1 differ from those of rank 0";
    assert_eq!(ran.stderr.matches(told).count(), 1, "{ran:#?}");
    goes_on(&scratch, "run");
}

#[test]
fn a_full_disk_of_the_first_rank_ends_all() {
    let scratch = Scratch::new();
    if !can_launch() {
        return;
    }
    let Some(disk) = Disk::mounted(&scratch, "200k") else {
        return;
    };
    let arguments =
        format!("-n 2 shears train {TINY} --steps 1000000 --eval-every 0 --out disk/run");
    let ran = launched(&scratch, &arguments);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(
        ran.stderr.matches("No space left on device").count(),
        1,
        "{ran:#?}"
    );
    wait_until("all processes end", || processes(&scratch).is_empty());
    disk.resize("4m");
    goes_on(&scratch, "disk/run");
}

/// A job that reads its text from standard input, which never ends.
fn waiting_for_text(scratch: &Scratch, patience: &str) -> (Child, ChildStdin) {
    let arguments = format!("-n 2 shears train - {TINY} --steps 4 --out run");
    let mut command = launch(scratch, &arguments, &[("SHEARS_PATIENCE", patience)]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take().unwrap();
    wait_until("both ranks are there", || running_ranks(scratch) == 2);
    (child, input)
}

/// The first rank reads while the other waits: whichever hangs, the other reports it.
#[test]
fn a_rank_that_stops_before_the_first_step_is_noticed() {
    if !can_launch() {
        return;
    }
    let check = |rank: usize| {
        let scratch = Scratch::new();
        let (child, input) = waiting_for_text(&scratch, "10");
        // Both wait for the text.
        sleep(Duration::from_secs(1));
        signal(&scratch, rank, "-STOP");
        let ran = ended(child);
        drop(input);
        wait_until("all processes end", || processes(&scratch).is_empty());
        assert!(!matches!(ran.code, None | Some(0)), "{ran:#?}");
        let told = format!("rank {} on ", 1 - rank);
        let mut lines = ran.stderr.lines();
        let line = lines.find(|line| line.contains("no progress for 10 s, in step 0 (start)"));
        assert!(line.is_some_and(|line| line.contains(&told)), "{ran:#?}");
        assert!(!scratch.path("run").exists());
    };
    // They wait, most of the time.
    std::thread::scope(|scope| {
        scope.spawn(|| check(0));
        scope.spawn(|| check(1));
    });
}

/// A text may arrive more slowly than the patience with a silent rank. On a busy machine ranks are
/// silent for seconds.
#[test]
fn a_slow_text_is_awaited() {
    use std::io::Write;
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let (child, mut input) = waiting_for_text(&scratch, "15");
    sleep(Duration::from_secs(20));
    let text = "the cat sat on the mat. ".repeat(200);
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    ended(child).succeeded();
    let last = scratch.checkpoints("run").pop();
    assert_eq!(last.as_deref(), Some("step-00000004"));
}

/// Without its watchdog, a rank could wait for ever. Threads that ask for a stack of 2^60 bytes are
/// refused.
#[test]
fn a_rank_without_a_watchdog_does_not_start() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let arguments = format!("-n 2 shears train {TINY} --threads 1 --out run");
    let stack = (1_u64 << 60).to_string();
    let ran = ran(launch(&scratch, &arguments, &[("RUST_MIN_STACK", &stack)]));
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    has(
        &ran.stderr,
        "the system refuses this process another thread",
    );
    assert!(!ran.stderr.contains("internal error"), "{ran:#?}");
    assert!(!scratch.path("run").exists());
}
