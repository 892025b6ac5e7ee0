//! Several processes that train one run under `mpirun`, if that is installed and the feature `mpi`
//! is on.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::program::{LLAMA, Ran, Scratch, TINY_TRANSFORMER, has, rows, send, wait_until};

/// A tiny model with dropout and carried state, whose run has the same bits for 1, 2 and 4 ranks.
pub(crate) const TINY: &str = "--model lstm --hidden 16 --layers 1 --batch 4 --window 8 --dropout \
     0.2 --accumulate 2 --shards 4 --eval-every 20 --save-every 10 --quiet";

/// Whether jobs can be started; otherwise says that the test is skipped.
pub(crate) fn can_launch() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    let can = cfg!(feature = "mpi") && found;
    if !can {
        println!("skipped: there is no mpirun, or the program is built without the feature mpi");
    }
    can
}

/// `mpirun` with these arguments, in the folder.
pub(crate) fn launch(scratch: &Scratch, arguments: &str, variables: &[(&str, &str)]) -> Command {
    let program = scratch.command([""]).get_program().to_owned();
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "120", "mpirun", "--map-by", ":OVERSUBSCRIBE"]);
    for word in arguments.split_whitespace() {
        match word {
            "shears" => command.arg(&program),
            word => command.arg(word),
        };
    }
    command.current_dir(scratch.path("")).env_remove("CARGO");
    // Waiting ranks yield their cores; as root, mpirun wants two confirmations.
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.envs(variables.iter().copied());
    command.stdin(Stdio::null());
    command
}

pub(crate) fn launched(scratch: &Scratch, arguments: &str) -> Ran {
    ran(launch(scratch, arguments, &[]))
}

pub(crate) fn ran(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

/// The result of a job that was started with pipes.
pub(crate) fn ended(job: Child) -> Ran {
    job.wait_with_output().unwrap().into()
}

/// The lines of the evaluations of a run.
fn evaluations(scratch: &Scratch, run: &str) -> Vec<String> {
    let text = scratch.read(format!("{run}/events.jsonl"));
    let lines = text.lines().filter(|line| line.contains("\"evaluation\""));
    lines.map(str::to_string).collect()
}

/// The processes that run in the folder, with their ranks.
pub(crate) fn processes(scratch: &Scratch) -> Vec<(u32, Option<usize>)> {
    let folder = fs::canonicalize(scratch.path("")).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        // A zombie has no folder any more.
        (fs::read_link(path.join("cwd")).ok()? == folder).then_some(())?;
        let environment = fs::read(path.join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let rank = variables.find_map(|variable| {
            let value = variable.strip_prefix(b"OMPI_COMM_WORLD_RANK=")?;
            std::str::from_utf8(value).ok()?.parse().ok()
        });
        Some((pid, rank))
    });
    found.collect()
}

pub(crate) fn running_ranks(scratch: &Scratch) -> usize {
    let all = processes(scratch).into_iter();
    all.filter(|(_, rank)| rank.is_some()).count()
}

pub(crate) fn signal(scratch: &Scratch, rank: usize, signal: &str) {
    let all = processes(scratch);
    let found = all.iter().find(|(_, own)| *own == Some(rank));
    let (pid, _) = found.unwrap_or_else(|| panic!("there is no rank {rank}: {all:?}"));
    send(*pid, signal);
}

/// The process that started the ranks, and forwards signals.
fn launcher(scratch: &Scratch) -> u32 {
    let all = processes(scratch).into_iter();
    // `timeout` is older.
    let launchers = all.filter(|(_, rank)| rank.is_none());
    launchers.map(|(pid, _)| pid).max().unwrap()
}

/// Starts a long run of two ranks, acts on it once it has saved, and returns how it ended, when no
/// process is left.
fn disturbed(variables: &[(&str, &str)], disturb: impl Fn(&Scratch)) -> (Scratch, Ran) {
    let scratch = Scratch::new();
    let arguments = format!("-n 2 shears train {TINY} --steps 1000000 --eval-every 0 --out run");
    let mut command = launch(&scratch, &arguments, variables);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("it saves", || scratch.checkpoints("run").len() > 1);
    disturb(&scratch);
    let ran = ended(child);
    wait_until("all processes end", || processes(&scratch).is_empty());
    (scratch, ran)
}

/// The run can be resumed from its files, here by one process.
pub(crate) fn goes_on(scratch: &Scratch, run: &str) {
    let last = scratch.checkpoints(run).pop().unwrap();
    let step: u64 = last.trim_start_matches("step-").parse().unwrap();
    let steps = step + 20;
    scratch
        .run(&format!(
            "train --resume {run} --quiet --eval-every 0 --steps {steps}"
        ))
        .succeeded();
    let last = scratch.checkpoints(run).pop();
    assert_eq!(last, Some(format!("step-{steps:08}")));
}

#[test]
fn any_number_of_processes_trains_and_resumes_one_run() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    scratch
        .run(&format!("train {TINY} --steps 40 --out one"))
        .succeeded();
    let files = |run: &str| {
        let names = ["model", "optimizer", "carried"];
        names.map(|name| {
            let path = format!("{run}/checkpoints/step-00000040/{name}.safetensors");
            fs::read(scratch.path(path)).unwrap()
        })
    };
    launched(
        &scratch,
        &format!("-n 4 shears train {TINY} --steps 20 --out run"),
    )
    .succeeded();
    for (ranks, steps) in [(2, 30), (1, 40)] {
        let arguments = format!("-n {ranks} shears train --resume run --quiet --steps {steps}");
        launched(&scratch, &arguments).succeeded();
    }
    assert!(files("run") == files("one"), "other bits");
    launched(
        &scratch,
        &format!("-n 2 shears train {TINY} --steps 40 --out two"),
    )
    .succeeded();
    assert!(files("two") == files("one"), "other bits");
    assert_eq!(evaluations(&scratch, "two"), evaluations(&scratch, "one"));
}

/// Every kind of model, each with an adaptive rule.
#[test]
fn four_processes_have_the_bits_of_one() {
    if !can_launch() {
        return;
    }
    for (model, clip) in [
        ("rnn", "zclip"),
        ("gru", "autoclip:10"),
        ("transformer --heads 2", "adagc"),
    ] {
        let scratch = Scratch::new();
        let train = format!(
            "train --model {model} --hidden 16 --layers 1 --batch 4 --window 8 --shards 4 --clip \
             {clip} --steps 30 --eval-every 15 --quiet --out"
        );
        scratch.run(&format!("{train} one")).succeeded();
        launched(&scratch, &format!("-n 4 shears {train} four")).succeeded();
        let model_of = |run: &str| scratch.newest(run, "model.safetensors");
        assert!(model_of("four") == model_of("one"), "{model}: other bits");
        let clipper = |run: &str| {
            let state = scratch.newest(run, "state.json");
            let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
            assert!(state["clipper"].is_object(), "{state}");
            state["clipper"].clone()
        };
        assert_eq!(clipper("four"), clipper("one"), "{model}");
    }
}

/// With grouped heads, and samples during the run.
#[test]
fn a_llama_of_two_processes_has_the_bits_of_one() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let train = format!(
        "train {TINY_TRANSFORMER} {LLAMA} --schedule constant --dropout 0.1 --shards 2 \
         --sample-every 15 --quiet --out"
    );
    scratch.run(&format!("{train} one")).succeeded();
    launched(&scratch, &format!("-n 2 shears {train} two")).succeeded();
    let half = train.replace("--steps 40", "--steps 20");
    scratch.run(&format!("{half} resumed")).succeeded();
    let resume = "-n 2 shears train --resume resumed --quiet --steps 40";
    launched(&scratch, resume).succeeded();
    for name in ["model", "optimizer"] {
        let file = |run: &str| scratch.newest(run, &format!("{name}.safetensors"));
        assert!(file("two") == file("one"), "{name}");
        assert!(file("resumed") == file("one"), "{name} of the resumed run");
    }
    let samples = |run: &str| {
        let events = scratch.events(run).into_iter();
        let samples = events.filter(|event| event["event"] == "sample");
        samples.collect::<Vec<_>>()
    };
    assert_eq!(samples("one").len(), 2);
    assert_eq!(samples("two"), samples("one"));
    let generate = |run: &str| {
        scratch
            .run(&format!("generate {run} --tokens 40"))
            .succeeded()
    };
    assert_eq!(generate("two"), generate("one"));
}

/// The script that runs a command as two ranks in two network namespaces; if that is impossible,
/// says that the test is skipped.
fn two_hosts() -> Option<&'static str> {
    if !can_launch() {
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/two_hosts.sh");
    let check = Command::new(script).arg("true").output().unwrap();
    if !check.status.success() {
        let why = String::from_utf8_lossy(&check.stderr);
        println!("skipped: {}", why.trim());
        return None;
    }
    Some(script)
}

/// The program on two hosts, in the folder.
fn on_two_hosts(scratch: &Scratch, script: &str, arguments: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "120", script]);
    command.arg(scratch.command([""]).get_program());
    command.args(arguments.split_whitespace());
    command.current_dir(scratch.path("")).env_remove("CARGO");
    command
}

/// Each side ends by itself; `mpirun` would wait for an unreachable host.
#[test]
fn a_cut_link_is_noticed_on_both_sides() {
    let Some(script) = two_hosts() else { return };
    let scratch = Scratch::new();
    let arguments = format!("train {TINY} --steps 1000000 --eval-every 0 --out run");
    let mut command = on_two_hosts(&scratch, script, &arguments);
    command
        .env("SHEARS_PATIENCE", "10")
        .env("CUT_WHEN", scratch.path("cut"));
    let told = fs::File::create(scratch.path("told")).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(told).spawn().unwrap();
    wait_until("it saves", || scratch.checkpoints("run").len() > 1);
    assert_eq!(running_ranks(&scratch), 2);
    scratch.write("cut", "");
    wait_until("both ranks end", || running_ranks(&scratch) == 0);
    // The output of a rank comes through mpirun, after its end.
    wait_until("the reason is said", || {
        scratch
            .read("told")
            .contains(": no progress for 10 s, in step")
    });
    for (pid, _) in processes(&scratch) {
        // Some end with others.
        let _ = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .output();
    }
    child.wait().unwrap();
    wait_until("all processes end", || processes(&scratch).is_empty());
    goes_on(&scratch, "run");
}

/// Over TCP.
#[test]
fn two_hosts_train_the_run_of_one_process() {
    let Some(script) = two_hosts() else { return };
    let scratch = Scratch::new();
    let train = "--model transformer --heads 2 --hidden 16 --layers 1 --batch 4 --window 16 \
         --shards 2 --steps 6 --eval-every 3 --quiet --out";
    scratch.run(&format!("train {train} one")).succeeded();
    ran(on_two_hosts(
        &scratch,
        script,
        &format!("train {train} two"),
    ))
    .succeeded();
    let model = |run: &str| {
        let path = format!("{run}/checkpoints/step-00000006/model.safetensors");
        fs::read(scratch.path(path)).unwrap()
    };
    assert!(model("two") == model("one"), "other bits");
    let log = scratch.read("two/events.jsonl");
    has(&log, r#""hosts":["h1","h2"]"#);
    let shown = scratch.run("inspect two").succeeded();
    has(&shown, "2 ranks on 2 machines (h1, h2)");
    has(&shown, "each rank exchanged");
    // Each has read half of the validation text.
    assert_eq!(evaluations(&scratch, "two"), evaluations(&scratch, "one"));
}

/// Only the first rank has the text; all find that gradients are not finite, and one reports it.
#[test]
fn standard_input_is_trained_on_and_divergence_has_its_exit_code() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let train = |flags: &str| {
        let arguments = format!("-n 2 shears train - {TINY} {flags}");
        let mut command = launch(&scratch, &arguments, &[]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let text = "the cat sat on the mat. ".repeat(200);
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    };
    let output = train("--steps 3 --out run");
    assert!(output.status.success(), "{output:?}");
    assert!(scratch.path("run/input.txt").exists());
    let flags = "--optimizer sgd --lr 1e38 --clip none --steps 60 --max-skips 3 --out diverged";
    let output = train(flags);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("not finite").count(), 1, "{told}");
    let log = scratch.read("diverged/events.jsonl");
    assert!(log.trim_end().ends_with('}') && log.contains("\"diverged\""));
}

/// Three runs over two processes, each run of one.
#[test]
fn a_sweep_is_spread_over_processes() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let sweep = "sweep --clip none --clip global-norm:1 --clip value:1 --hidden 16 --layers 1 \
         --batch 4 --window 8 --steps 8 --eval-every 4 --out";
    let told = launched(&scratch, &format!("-n 2 shears {sweep} two")).succeeded();
    assert_eq!(told.matches("3 runs:").count(), 1, "{told}");
    // A line for each run before the table, whichever process trained it.
    let lines: Vec<&str> = told.lines().collect();
    let ended: Vec<usize> = (0..lines.len())
        .filter(|line| lines[*line].contains(": finished, val loss "))
        .collect();
    assert_eq!(ended.len(), 3, "{told}");
    let table = lines
        .iter()
        .position(|line| line.contains("report: "))
        .unwrap();
    assert!(ended.iter().all(|line| *line < table), "{told}");
    scratch.run(&format!("{sweep} one")).succeeded();
    let cells = |folder: &str| {
        let runs = scratch.path(folder).join("runs");
        let entries = fs::read_dir(runs).unwrap().flatten();
        let mut losses: Vec<(String, String)> = entries
            .filter_map(|entry| {
                let log = fs::read_to_string(entry.path().join("events.jsonl")).ok()?;
                let line = log.lines().rfind(|line| line.contains("\"evaluation\""))?;
                let name = entry.file_name().into_string().ok()?;
                Some((name, line.to_string()))
            })
            .collect();
        losses.sort();
        losses
    };
    assert_eq!(cells("one").len(), 3);
    assert_eq!(cells("two"), cells("one"));
    assert!(scratch.path("two/report.html").exists());
}

/// This includes a build without MPI, and one with another MPI than the launcher has.
#[test]
fn processes_that_do_not_find_each_other_are_refused() {
    let scratch = Scratch::new();
    let started = |rank: &str, arguments: &str| {
        let mut command = scratch.command(arguments.split_whitespace());
        command.env("PMI_SIZE", "3").env("PMI_RANK", rank);
        ran(command)
    };
    let train = format!("train {TINY} --steps 5 --out run");
    let refused = started("0", &train).failed(2);
    let expected = match cfg!(feature = "mpi") {
        true => "finds 1",
        false => "this build has no MPI",
    };
    has(&refused, "MPICH started 3 processes");
    has(&refused, expected);
    // The first one prints for all.
    let other = started("1", &train);
    assert_eq!((other.code, other.stderr), (Some(2), String::new()));
    assert!(!scratch.path("run").exists());
    for command in [
        "demo",
        "eval run",
        "generate run",
        "inspect run",
        "export run",
    ] {
        let refused = started("0", command).failed(2);
        has(&refused, "each would do the same");
    }
}

#[test]
fn a_refusal_is_printed_once() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    scratch.write("taken/plan.toml", "");
    // Whether the message names a rank, because not all have the problem.
    let alone = "-n 1 shears train --steps 3 : -n 1";
    let cases = format!(
        "-n 2 shears train {TINY} --out taken    | no  | holds a run already
         -n 3 shears train --batch 2             | no  | with 3 ranks
         -n 2 shears train --tui                 | no  | --tui takes the terminal
         -n 2 shears train nothing.txt           | no  | nothing.txt does not exist
         -n 2 shears train --hiden 3             | no  | unexpected argument '--hiden'
         {alone} shears train --steps 4          | yes | other arguments than rank 0
         {alone} shears train --hiden 3          | yes | unexpected argument '--hiden'
         {alone} ./other train --steps 3         | yes | another program than rank 0"
    );
    // Another build: the same with a byte appended.
    let copy = ["-c", "cp \"$0\" other && printf x >> other"];
    let mut shell = Command::new("sh");
    shell.args(copy).arg(scratch.command([""]).get_program());
    assert!(
        shell
            .current_dir(scratch.path(""))
            .status()
            .unwrap()
            .success()
    );
    for [arguments, names_a_rank, expected] in rows(&cases) {
        let ran = launched(&scratch, arguments);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert_eq!(
            ran.stderr.matches(expected).count(),
            1,
            "{arguments}: {ran:#?}"
        );
        let named = ran.stderr.contains("rank 1 on");
        assert_eq!(named, names_a_rank == "yes", "{arguments}: {ran:#?}");
    }
}

/// Files on the machines of other ranks do not matter, and need not exist.
#[test]
fn the_first_rank_distributes_text_and_settings() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let text = |word: &str| format!("the {word} sat on the mat. ").repeat(200);
    scratch.write("text.txt", text("cat"));
    scratch.write("settings.toml", "lr = 0.01\n");
    scratch.write("elsewhere/text.txt", text("owl"));
    scratch.write("elsewhere/settings.toml", "lr = 0.5\n");
    fs::create_dir(scratch.path("nowhere")).unwrap();
    let train = format!("train text.txt {TINY} --config settings.toml --steps 4 --out");
    scratch.run(&format!("{train} one")).succeeded();
    let ranks = ["", "--wdir elsewhere", "--wdir nowhere", "--wdir elsewhere"];
    let ranks = ranks.map(|place| format!("-n 1 {place} shears {train} run"));
    launched(&scratch, &ranks.join(" : ")).succeeded();
    let model = |run: &str| scratch.newest(run, "model.safetensors");
    assert!(model("run") == model("one"), "other bits");
    // The same goes for its folder.
    let resume = "train --quiet --steps 8 --resume";
    scratch.run(&format!("{resume} one")).succeeded();
    let ranks = ["", "--wdir nowhere"].map(|place| format!("-n 1 {place} shears {resume} run"));
    launched(&scratch, &ranks.join(" : ")).succeeded();
    assert!(model("run") == model("one"), "other bits");
}

/// Rows are divided without changing the batch; the program says that bits are not promised then.
#[test]
fn ranks_that_divide_nothing_train_the_same_run() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let train = TINY.replace("--quiet", "--optimizer sgd --lr 0.1 --steps 20");
    scratch.run(&format!("train {train} --out one")).succeeded();
    let told = launched(&scratch, &format!("-n 3 shears train {train} --out three")).succeeded();
    let expected = "1 or 2 of 4 rows each; with other numbers of ranks it is the same run up to \
                    rounding (1, 2, 4, 8 ... ranks can have the same bits)";
    assert!(told.replace('\n', " ").contains(expected), "{told}");
    let losses = |run: &str| -> Vec<f64> {
        let events = scratch.events(run).into_iter();
        let steps = events.filter(|event| event["event"] == "step");
        steps.map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    let (three, one) = (losses("three"), losses("one"));
    assert_eq!(three.len(), 20);
    for (found, expected) in three.iter().zip(&one) {
        assert!(
            (found / expected - 1.0).abs() < 1e-5,
            "{found} for {expected}"
        );
    }
    assert!(
        scratch
            .read("three/events.jsonl")
            .contains(r#""same_bits":false"#)
    );
}

/// Open MPI gives its processes a pseudo-terminal.
#[test]
fn output_under_mpirun_has_no_colours() {
    if !can_launch() {
        return;
    }
    let scratch = Scratch::new();
    let train = TINY.replace("--quiet", "--steps 20 --out");
    let mut told = String::new();
    for (ranks, run) in [(2, "two"), (1, "one")] {
        let arguments = format!("-n {ranks} shears train {train} {run}");
        let mut command = launch(&scratch, &arguments, &[]);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let ran = ran(command);
        told += &ran.stderr;
        told += &ran.succeeded();
    }
    told += &launched(&scratch, "-n 2 shears train --help").succeeded();
    assert!(told.contains("finished after 20 steps"), "{told}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
    assert_eq!(told.matches("Usage:").count(), 1, "{told}");
}

/// `mpirun` binds each process to a core by default.
#[test]
fn a_rank_bound_to_a_core_is_reported() {
    if !can_launch() {
        return;
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        println!("skipped: there is one core");
        return;
    }
    let scratch = Scratch::new();
    let train = TINY.replace("--quiet", "--steps 4");
    let told = |bind: &str, run: &str| {
        let arguments = format!("-n 1 --bind-to {bind} shears train {train} --out {run}");
        launched(&scratch, &arguments).succeeded()
    };
    let bound = format!("this rank is bound to 1 of {cores} cores; `mpirun --bind-to none`");
    let told_bound = told("core", "bound");
    assert!(told_bound.contains(&bound), "{told_bound}");
    let told_free = told("none", "free");
    assert!(!told_free.contains("bound to"), "{told_free}");
}

#[test]
fn a_rank_that_is_killed_ends_all_and_leaves_what_was_saved() {
    if !can_launch() {
        return;
    }
    let (scratch, ran) = disturbed(&[], |scratch| signal(scratch, 1, "-KILL"));
    assert!(ran.code != Some(0), "{ran:#?}");
    goes_on(&scratch, "run");
}

#[test]
fn a_stalled_rank_is_noticed() {
    if !can_launch() {
        return;
    }
    let patience = [("SHEARS_PATIENCE", "10")];
    let (scratch, ran) = disturbed(&patience, |scratch| signal(scratch, 1, "-STOP"));
    assert!(ran.code != Some(0), "{ran:#?}");
    assert!(
        ran.stderr.contains(": no progress for 10 s, in step"),
        "{ran:#?}"
    );
    goes_on(&scratch, "run");
}

#[test]
fn a_rank_that_pauses_is_waited_for_and_usr1_saves_and_stops() {
    if !can_launch() {
        return;
    }
    let patience = [("SHEARS_PATIENCE", "16")];
    let (scratch, ran) = disturbed(&patience, |scratch| {
        signal(scratch, 1, "-STOP");
        sleep(Duration::from_secs(8));
        signal(scratch, 1, "-CONT");
        // It makes progress, rather than merely not ending.
        let saved = scratch.checkpoints("run");
        wait_until("it saves", || scratch.checkpoints("run") != saved);
        send(launcher(scratch), "-USR1");
    });
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(!ran.stderr.contains("no progress"), "{ran:#?}");
    let log = scratch.read("run/events.jsonl");
    assert!(
        log.trim_end()
            .lines()
            .last()
            .unwrap()
            .contains("\"stopped\"")
    );
    goes_on(&scratch, "run");
}

/// Whether or not it manages to save within the second that Open MPI allows: the files are intact.
#[test]
fn a_run_resumes_after_a_terminated_launcher() {
    if !can_launch() {
        return;
    }
    let (scratch, ran) = disturbed(&[], |scratch| send(launcher(scratch), "-TERM"));
    assert!(ran.code != Some(0), "{ran:#?}");
    goes_on(&scratch, "run");
}

#[test]
fn a_first_rank_that_cannot_save_ends_all() {
    if !can_launch() {
        return;
    }
    let (_scratch, ran) = disturbed(&[], |scratch| {
        let folder = scratch.path("run/checkpoints");
        fs::rename(&folder, scratch.path("elsewhere")).unwrap();
        fs::write(&folder, "in the way").unwrap();
    });
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(ran.stderr.matches("shears: cannot").count(), 1, "{ran:#?}");
}
