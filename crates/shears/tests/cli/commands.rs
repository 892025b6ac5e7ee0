//! Each command does what its help says.

use serde_json::Value;

use crate::program::{Ran, Scratch, TINY, TINY_TRANSFORMER, has};

fn with_run(flags: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.train(flags, "run");
    scratch
}

fn generate(scratch: &Scratch, flags: &str) -> String {
    scratch.run(&format!("generate run {flags}")).succeeded()
}

fn last_evaluation(scratch: &Scratch) -> Value {
    let events = scratch.events("run").into_iter().rev();
    let mut evaluations = events.filter(|event| event["event"] == "evaluation");
    evaluations.next().unwrap()
}

#[test]
fn eval_agrees_with_the_run() {
    for flags in [TINY, TINY_TRANSFORMER] {
        let scratch = with_run(flags);
        let lines = scratch.run("eval run --checkpoint last --json").json();
        assert_eq!(lines.len(), 1);
        let known = last_evaluation(&scratch);
        for key in ["val_loss", "bits_per_char", "perplexity"] {
            let (now, then) = (
                lines[0][key].as_f64().unwrap(),
                known[key].as_f64().unwrap(),
            );
            assert!((now - then).abs() <= 1e-9, "{key}: {now} {then}");
        }
        let checkpoint = lines[0]["checkpoint"].as_str().unwrap();
        assert!(checkpoint.ends_with("step-00000040"), "{checkpoint}");
        let by_number = scratch.run("eval run --checkpoint 40 --json").json();
        assert_eq!(by_number, lines);
        let exact = scratch
            .run("eval run --checkpoint last --exact --json")
            .json();
        let loss = |line: &Value| line["val_loss"].as_f64().unwrap();
        assert!(
            (loss(&exact[0]) - loss(&lines[0])).abs() < 1e-4,
            "{exact:?} {lines:?}"
        );
        assert_eq!(exact[0]["tokens"], lines[0]["tokens"]);
        let text = scratch.run("eval run").succeeded();
        assert!(
            text.contains("nats") && text.contains("bits per character"),
            "{text}"
        );
    }
}

/// Where text is not printed, a warning says that the processor has no units for bf16.
#[test]
fn a_processor_without_bf16_is_named_in_every_mode() {
    let scratch = Scratch::new();
    let train = |flags: &str| {
        let few = TINY.replace("--steps 40", "--steps 2");
        let ran = scratch.run(&format!("train {few} --precision {flags}"));
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        ran
    };
    let text = train("bf16 --out text");
    assert_eq!(text.stderr, "");
    let warnings = usize::from(text.stdout.contains("by f32 units"));
    let bench = "bench --hidden 16 --batch 2 --window 4 --steps 1 --precision bf16 --json";
    for ran in [
        train("bf16 --quiet --out quiet"),
        train("bf16 --json --out json"),
        scratch.run(bench),
    ] {
        let words = "shears: warning: products in bf16 by f32 units: ";
        assert_eq!(ran.stderr.matches(words).count(), warnings, "{ran:#?}");
        assert_eq!(ran.stderr.lines().count(), warnings, "{ran:#?}");
    }
    assert_eq!(train("f32 --quiet --out f32").stderr, "");
}

#[test]
fn a_bf16_run_is_labelled_and_differs_from_f32() {
    for flags in [TINY, TINY_TRANSFORMER] {
        let scratch = Scratch::new();
        let train = |precision: &str| {
            let flags = format!("train {flags} --precision {precision} --out {precision}");
            scratch.run(&flags).succeeded()
        };
        let (bf16, f32) = (train("bf16"), train("f32"));
        has(&bf16, "products in bf16 by");
        assert!(!f32.contains("bf16"), "{f32}");
        let loss = |run: &str| {
            let line = scratch.run(&format!("eval {run} --json")).json().remove(0);
            line["val_loss"].as_f64().unwrap()
        };
        let difference = (loss("bf16") - loss("f32")).abs();
        assert!(difference > 0.0 && difference < 0.02, "{difference}");
        let text = || {
            scratch
                .run("generate bf16 --tokens 60 --seed 3")
                .succeeded()
        };
        assert_eq!(text(), text());
    }
}

#[test]
fn inspect_reports_every_figure() {
    let scratch = with_run(TINY);
    let text = scratch.run("inspect run").succeeded();
    has(
        &text,
        "run run & lstm & 40 of 40 steps & step-00000040  (best) & global-norm:5 & 0 of 40 steps \
         clipped & idle: the threshold 5 was never reached & try next:  & 57 symbols",
    );
    let object = scratch.run("inspect run --json").json().remove(0);
    assert_eq!(object["plan"]["hidden"], 16);
    assert_eq!(object["history"].as_array().unwrap().len(), 2);
    assert_eq!(object["checkpoints"].as_array().unwrap().len(), 3);
    assert_eq!(object["verdict"]["steps"], 40);
    assert!(object["parameters"].as_u64().unwrap() > 1000);
    let best = object["best_checkpoint"].as_str().unwrap();
    has(&best, "step-");
    for key in ["tokenizer", "gradient_flow"] {
        assert!(!object[key].is_null(), "{key}");
    }
}

#[test]
fn advice_has_reasons() {
    let scratch = with_run(TINY);
    let few = scratch.run("inspect run --json").json().remove(0);
    assert!(few["advice"].is_null(), "40 steps are few");
    let scratch = with_run(&TINY.replace("--steps 40", "--steps 120"));
    let said = scratch.run("inspect run").succeeded();
    has(&said, "replay run --clip");
    let advice = scratch.run("inspect run --json").json().remove(0)["advice"].take();
    let policy = advice["policy"].as_str().unwrap();
    has(&said, &format!("advice: --clip {policy}"));
    scratch
        .run(&format!("replay run --clip {policy}"))
        .succeeded();
    // The end of a run prints the same.
    let resumed = scratch.run("train --resume run --json").json().remove(0);
    assert_eq!(resumed["advice"], advice);
}

#[test]
fn the_seed_decides_the_text() {
    let scratch = with_run(TINY);
    let text = generate(&scratch, "--seed 5 --tokens 100");
    assert_eq!(text.chars().count(), 100);
    assert_eq!(generate(&scratch, "--seed 5 --tokens 100"), text);
    assert_eq!(
        generate(&scratch, "--seed 5 --tokens 100 --threads 1"),
        text
    );
    assert_ne!(generate(&scratch, "--seed 6 --tokens 100"), text);

    let likeliest = generate(&scratch, "--temperature 0");
    assert_eq!(generate(&scratch, "--temperature 0 --seed 9"), likeliest);
    assert_eq!(generate(&scratch, "--top-k 1"), likeliest);
    assert_ne!(generate(&scratch, "--temperature 2"), likeliest);
    assert_eq!(generate(&scratch, "--tokens 0"), "");
}

#[test]
fn several_samples() {
    let scratch = with_run(TINY);
    let flags = "generate run --num-samples 3 --seed 4 --tokens 30 --json";
    let lines = scratch.run(flags).json();
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        let seed = 4 + index;
        assert_eq!(line["seed"], seed);
        assert_eq!(line["prompt"], "");
        let alone = generate(&scratch, &format!("--seed {seed} --tokens 30"));
        assert_eq!(line["text"], alone);
    }
    let text = generate(&scratch, "--num-samples 3 --seed 4 --tokens 30");
    assert_eq!(text.matches("\n---\n").count(), 2, "{text}");
}

#[test]
fn prompts_and_stops() {
    let scratch = with_run(TINY);
    let prompt = "Lorem ipsum";
    let as_argument = ["generate", "run", "--prompt", prompt, "--tokens", "60"];
    let whole = scratch.run_with(as_argument, b"").succeeded();
    assert!(whole.starts_with(prompt), "{whole}");
    let as_input = ["generate", "run", "--prompt", "-", "--tokens", "60"];
    let read = scratch.run_with(as_input, prompt.as_bytes()).succeeded();
    assert_eq!(read, whole);

    let written: Vec<char> = whole.chars().skip(prompt.len()).collect();
    assert_eq!(written.len(), 60);
    let stop: String = written[30..32].iter().collect();
    let written: String = written.into_iter().collect();
    let before = written.split(&stop).next().unwrap();
    let stopped = as_argument
        .into_iter()
        .chain(["--stop", "\u{1}", "--stop", &stop]);
    let text = scratch.run_with(stopped, b"").succeeded();
    assert_eq!(text, format!("{prompt}{before}"));
}

#[test]
fn a_transformer_writes_beyond_its_context() {
    let scratch = with_run(TINY_TRANSFORMER);
    let text = generate(&scratch, "--tokens 80");
    assert_eq!(text.chars().count(), 80);
    assert_eq!(generate(&scratch, "--tokens 80"), text);
    // The first tokens do not depend on how many follow.
    assert_eq!(
        generate(&scratch, "--tokens 200")
            .chars()
            .take(80)
            .collect::<String>(),
        text
    );
    let long = "o".repeat(50);
    let prompted = ["generate", "run", "--prompt", &long, "--tokens", "10"];
    let text = scratch.run_with(prompted, b"").succeeded();
    assert_eq!(text.chars().count(), 60);
}

#[test]
fn bench_measures() {
    let scratch = Scratch::new();
    let flags = "bench --preset rnn-128 --hidden 16 --batch 2 --window 4 --steps 3";
    let object = scratch.run(&format!("{flags} --json")).json().remove(0);
    assert_spread(&object["ms_per_step"]);
    for phase in ["forward", "backward", "clip", "update"] {
        assert_spread(&object["phases"][phase]);
    }
    assert!(object["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(object["memory_estimate_bytes"].as_u64().unwrap() > 0);
    if cfg!(target_os = "linux") {
        assert!(object["peak_rss_bytes"].as_u64().unwrap() > 1_000_000);
    }
    let text = scratch.run(flags).succeeded();
    assert!(
        text.contains("rnn-128") && text.contains("3 steps"),
        "{text}"
    );
    assert!(scratch.listing().is_empty());
}

fn assert_spread(value: &Value) {
    let [min, median, max] = ["min", "median", "max"].map(|key| value[key].as_f64().unwrap());
    assert!(0.0 < min && min <= median && median <= max, "{value}");
}

#[test]
fn bench_measures_clipping_and_update() {
    let scratch = Scratch::new();
    let flags = "bench --part clip --preset gpt-128 --layers 1 --hidden 16 --heads 2 --window 8 \
                 --vocabulary 300 --tied=false --steps 3 --threads 2";
    let object = scratch.run(&format!("{flags} --json")).json().remove(0);
    assert_eq!(object["part"], "clip");
    assert_eq!(object["threads"], 2);
    for key in ["read", "clip", "clip_and_update", "clip_in_place"] {
        assert_spread(&object["ms"][key]);
    }
    // Two tables of 300 tokens, one of 8 places, and a block with its norms.
    let block = 4 * (16 * 16 + 16) + 2 * (16 * 64) + 64 + 16 + 2 * (2 * 16);
    let rest = 2 * 300 * 16 + 8 * 16 + 2 * 16;
    assert_eq!(object["parameters"], block + rest);
    let text = scratch.run(flags).succeeded();
    has(&text, "global-norm:1 and adamw");
    for policy in ["value:0.1", "agc:0.01", "zclip", "update-rms:1"] {
        let flags = format!("{flags} --clip {policy}");
        assert_spread(&scratch.run(&format!("{flags} --json")).json()[0]["ms"]["clip_and_update"]);
    }
}

#[test]
fn bench_measures_generation() {
    let scratch = Scratch::new();
    for (model, tokens) in [
        (
            "--preset gpt-128 --layers 1 --hidden 16 --heads 2 --window 8",
            8,
        ),
        ("--preset lstm-128 --hidden 16 --steps 30", 30),
        (
            "--preset gpt-128 --layers 1 --hidden 16 --heads 2 --window 8 --steps 20",
            20,
        ),
    ] {
        let flags = format!("bench --part generate {model} --threads 1");
        let object = scratch.run(&format!("{flags} --json")).json().remove(0);
        assert_eq!(object["part"], "generate");
        assert_eq!(object["threads"], 1);
        assert_eq!(object["tokens"], tokens);
        assert_spread(&object["tokens_per_second"]);
        if cfg!(target_os = "linux") {
            assert!(object["peak_rss_bytes"].as_u64().unwrap() > 1_000_000);
        }
        let text = scratch.run(&flags).succeeded();
        has(&text, &format!("5 texts of {tokens} tokens"));
    }
}

#[test]
fn help_and_completions() {
    let scratch = Scratch::new();
    for command in [
        "",
        "train",
        "demo",
        "eval",
        "generate",
        "inspect",
        "bench",
        "clip",
        "replay",
        "compare",
        "sweep",
        "export",
        "dash",
        "completions",
    ] {
        for help in ["--help", "-h"] {
            let text = scratch.run(&format!("{command} {help}")).succeeded();
            has(&text, "Usage: shears");
        }
    }
    let version = scratch.run("--version").succeeded();
    assert_eq!(version, format!("shears {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = scratch.run(&format!("completions {shell}")).succeeded();
        assert!(script.contains("COMPLETE"), "{shell}: {script}");
    }
}

/// The completions for the last of these words.
fn completed(scratch: &Scratch, words: &str) -> Vec<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = scratch.command(["--", "shears"].iter().chain(&words));
    command.envs([("COMPLETE", "bash"), ("_CLAP_IFS", "\n")]);
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let output = command.output().unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_string).collect()
}

#[test]
fn completions_know_presets_policies_runs_and_files() {
    let scratch = Scratch::new();
    let train = format!("train {TINY} --steps 2 --quiet --out runs/mine");
    scratch.run(&train).succeeded();
    scratch.write("book.txt", "text");
    for (words, offered) in [
        ("tr", vec!["train"]),
        ("train --save", vec!["--save-every"]),
        ("train --preset lstm", vec!["lstm-128", "lstm-512"]),
        ("train --clip glob", vec!["global-norm"]),
        ("sweep --clip skip:6+gl", vec!["skip:6+global-norm"]),
        ("inspect ru", vec!["runs/mine"]),
        // The run is optional, so this may be a text as well.
        ("train --resume runs/m", vec!["runs/mine", "runs/mine/"]),
        ("train bo", vec!["book.txt"]),
        // Names of earlier versions.
        ("clip --pol", vec![]),
        ("clip --nonf", vec![]),
        ("adv", vec![]),
    ] {
        assert_eq!(completed(&scratch, words), offered, "{words}");
    }
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY} --lr 5 --lr 0.001"), "run");
    assert_eq!(scratch.plan("run")["lr"].as_float(), Some(0.001));
    let tokens = "generate run --tokens 9 --tokens 3";
    assert_eq!(scratch.run(tokens).succeeded().chars().count(), 3);
}

#[test]
fn generate_announces_when_the_first_checkpoint_is_due() {
    let scratch = Scratch::trained();
    std::fs::remove_dir_all(scratch.path("run/checkpoints")).unwrap();
    for command in ["generate run", "eval run --checkpoint last"] {
        let message = scratch.run(command).failed(2);
        assert!(
            message.contains("no checkpoint yet; the first is written at step 10"),
            "{message}"
        );
    }
}

#[test]
fn a_run_ends_with_a_verdict_its_figures_and_a_command() {
    let scratch = Scratch::new();
    let train = format!("train {TINY} --out run");
    let text = scratch.run(&train).succeeded();
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    let judged = scratch.run("inspect run --json").json().remove(0)["verdict"].take();
    assert_eq!(last[2], judged["sentence"].as_str().unwrap());
    assert_eq!(last[1], judged["numbers"].as_str().unwrap());
    let next = judged["next"].as_str().unwrap();
    assert_eq!(last[0], format!("try next: {next}"));
    assert!(
        !text.contains('\u{1b}') && !text.contains("memory:"),
        "{text}"
    );
    let all = scratch
        .run(&format!("train {TINY} --verbose --out more"))
        .succeeded();
    has(
        &all,
        "memory: about & 57 symbols & gradients reach every layer",
    );
    // A diverged run says so, too.
    let lost = scratch.run(&format!("train {DIVERGING} --out lost"));
    assert_eq!(lost.code, Some(3));
    assert!(
        lost.stdout.contains("not finite from step"),
        "{}",
        lost.stdout
    );
    assert!(!lost.stdout.contains("NaN"), "{}", lost.stdout);
    let lost = scratch.run(&format!("train {DIVERGING} --json --out json"));
    let line: Value = serde_json::from_str(lost.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(line["reason"], "diverged");
    assert!(line["verdict"]["sentence"].is_string());
}

#[test]
fn train_as_json() {
    let scratch = Scratch::new();
    let train = format!("train {TINY} --sample-every 15 --json --out run");
    let lines = scratch.run(&train).json();
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!(count("step"), 40);
    assert_eq!(count("evaluation"), 2);
    assert_eq!(count("sample"), 2);
    assert_eq!(count("end"), 1);
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "end");
    assert_eq!(last["reason"], "finished");
    assert_eq!(last["step"], 40);
    assert_eq!(last["run"], "run");
    assert_eq!(last["verdict"]["steps"], 40);
    assert_eq!(last["val_loss"], last_evaluation(&scratch)["val_loss"]);
}

#[test]
fn train_quietly_and_with_samples() {
    let scratch = Scratch::new();
    let quiet = scratch.run(&format!("train {TINY} --sample-every 10 -q --out quiet"));
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    quiet.succeeded();
    let text = scratch.run(&format!("train {TINY} --sample-every 10 --out run"));
    let text = text.succeeded();
    has(
        &text,
        "step     10  sample: & step     30  sample: & val loss & it writes:",
    );
    has(&text, "shears generate run");
}

const DIVERGING: &str = "--model rnn --nonlinearity relu --hidden 16 --layers 1 --batch 4 \
                         --window 8 --steps 40 --lr 1e30 --optimizer sgd --clip none";

#[test]
fn too_many_skips_end_the_run() {
    let scratch = Scratch::new();
    let run = |flags: &str| -> Ran {
        scratch.run(&format!("train {DIVERGING} --quiet --max-skips 3 {flags}"))
    };
    let message = run("--out without --save-every 0").failed(3);
    has(
        &message,
        "3 steps in a row & embedding.weight & there is no good checkpoint yet & `shears \
         inspect` says what to try",
    );
    let message = run("--out with --save-every 1").failed(3);
    let last = scratch.checkpoints("with").pop().unwrap();
    let part = format!("the last good checkpoint is with/checkpoints/{last}");
    has(&message, &part);
    // No skipped step was saved, and the run can be inspected.
    let mut skipped = scratch.events("with").into_iter().rev();
    assert_eq!(skipped.next().unwrap()["how"], "diverged");
    assert_eq!(
        skipped
            .take_while(|event| event["clip"]["action"] == "skip")
            .count(),
        3
    );
    scratch.run("inspect with").succeeded();
    // Resuming ends in the same way.
    scratch.run("train --quiet --resume with").failed(3);
}

#[test]
fn a_non_finite_gradient_can_be_an_error() {
    let scratch = Scratch::new();
    let train = format!("train {DIVERGING} --quiet --non-finite error --out run");
    let message = scratch.run(&train).failed(3);
    has(&message, "--non-finite skip");
    // The log has the step, so that share and tensor are known.
    let steps = scratch.events("run").into_iter();
    let steps: Vec<Value> = steps.filter(|event| event["event"] == "step").collect();
    let last = &steps.last().unwrap()["clip"];
    assert_eq!(last["action"], "skip");
    assert_eq!(last["skip_reason"], "non-finite gradients");
    let said = scratch.run("inspect run --json").json().remove(0)["verdict"].take();
    let sentence = said["sentence"].as_str().unwrap();
    let taken = steps.len();
    let share = format!("not finite from step {taken} (1 of {taken} steps, ");
    has(&sentence, &share);
    has(&sentence, " %, first in `");
}

/// A checkpoint is saved before its evaluation.
#[test]
fn a_checkpoint_whose_evaluation_is_not_finite_is_not_called_good() {
    let scratch = Scratch::new();
    let train = |flags: &str| {
        let each = "--quiet --save-every 1 --eval-every 1 --non-finite zero";
        scratch.run(&format!("train {DIVERGING} {each} {flags}"))
    };
    // Only the weights of the first step are finite.
    let message = train("--out first").failed(3);
    has(&message, "step 1: the validation loss is not finite");
    has(&message, "there is no good checkpoint yet");
    assert_eq!(scratch.checkpoints("first"), ["step-00000001"]);
    // Later, the previous checkpoint is good.
    let message = train("--out later --lr 30").failed(3);
    let saved = scratch.checkpoints("later");
    let (last, before) = (saved.len() - 1, saved.len() - 2);
    has(&message, "the validation loss is not finite");
    has(
        &message,
        &format!("is later/checkpoints/{};", saved[before]),
    );
    assert!(!message.contains(&saved[last]), "{message}");
}

const RUINED: &str = "train --batch 4 --window 8 --steps 40 --eval-every 10 --optimizer sgd \
                      --clip none --max-skips 1000 --out run";

#[test]
fn a_loss_that_is_not_finite_leaves_a_readable_run() {
    let scratch = Scratch::new();
    let message = scratch
        .run(&format!("{RUINED} --quiet --lr 1e30"))
        .failed(3);
    has(&message, "the validation loss is not finite");
    let events = scratch.events("run");
    assert_eq!(events.last().unwrap()["how"], "diverged");
    scratch.run("inspect run").succeeded();
    scratch.run("inspect run --json").succeeded();
}

#[test]
fn a_perplexity_that_overflows_leaves_a_readable_run() {
    let scratch = Scratch::new();
    scratch.run(&format!("{RUINED} --lr 1e6")).succeeded();
    let events = scratch.events("run").into_iter();
    let mut evaluations = events.filter(|event| event["event"] == "evaluation");
    assert!(
        !evaluations.all(|event| event["perplexity"].is_f64()),
        "choose another rate"
    );
    scratch.run("inspect run").succeeded();
    scratch.run("inspect run --json").succeeded();
    scratch.run("train --resume run").succeeded();
}

/// Under every rule for gradients that are not finite.
#[test]
fn a_model_that_is_not_finite_ends_the_run() {
    let scratch = Scratch::new();
    for rule in ["zero", "error", "skip"] {
        let train = format!("train {DIVERGING} --non-finite {rule} --quiet --out {rule}");
        let message = scratch.run(&train).failed(3);
        assert!(
            message.contains("not finite") || message.contains("non-finite"),
            "{message}"
        );
        assert_eq!(scratch.events(rule).last().unwrap()["how"], "diverged");
        scratch.run(&format!("inspect {rule}")).succeeded();
    }
}

/// Adam takes steps of the learning rate, whatever the gradient.
#[test]
fn weights_that_are_not_finite_are_no_good_checkpoint() {
    for rule in ["zero", "skip"] {
        let scratch = Scratch::new();
        let train = format!(
            "train {} --optimizer adam --lr 1e38 --clip none --quiet --non-finite {rule} \
             --out run",
            TINY.replace(
                "--eval-every 20 --save-every 10",
                "--eval-every 0 --save-every 1"
            )
        );
        let ran = scratch.run(&train);
        assert!(matches!(ran.code, Some(1 | 3)), "{ran:#?}");
        for name in scratch.checkpoints("run") {
            let path = scratch.path("run/checkpoints").join(name);
            let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in tensors.iter() {
                let values = tensor.data().as_chunks::<4>().0.iter();
                let mut values = values.map(|bytes| f32::from_le_bytes(*bytes));
                assert!(values.all(f32::is_finite), "{name}");
            }
        }
    }
}

#[test]

fn patience_ends_a_run_that_cannot_improve() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--eval-every 20", "--eval-every 5");
    let train = format!("train {flags} --optimizer sgd --lr 1e-30 --patience 1 --json --out run");
    let lines = scratch.run(&train).json();
    let last = lines.last().unwrap();
    assert_eq!(last["reason"], "out-of-patience");
    assert_eq!(last["step"], 10);
    let resumed = scratch.run("train --resume run --json").json();
    assert_eq!(resumed.len(), 1);
    assert_eq!(resumed[0]["reason"], "out-of-patience");
}

#[test]
fn the_newest_and_the_best_checkpoints_are_kept() {
    let scratch = Scratch::new();
    let flags = TINY.replace("--save-every 10", "--save-every 5 --keep 2");
    // Nothing improves, so the first evaluation stays the best.
    scratch.train(format!("{flags} --optimizer sgd --lr 1e-30"), "run");
    let expected = ["step-00000020", "step-00000035", "step-00000040"];
    assert_eq!(scratch.checkpoints("run"), expected);
    let best = scratch.run("eval run --json").json().remove(0);
    let best = best["checkpoint"].as_str().unwrap();
    assert!(best.ends_with(expected[0]), "{best}");
}

#[test]
fn threads_change_no_bit() {
    let models = ["rnn", "lstm", "gru", "transformer --heads 4"];
    for model in models {
        let scratch = Scratch::new();
        for threads in [1, 2] {
            let train = format!(
                "train --model {model} --hidden 64 --layers 2 --batch 8 --window 32 --steps 6 \
                 --eval-every 3 --threads {threads} --quiet --out threads-{threads}"
            );
            scratch.run(&train).succeeded();
        }
        for file in ["model", "optimizer", "carried"] {
            let file = format!("{file}.safetensors");
            let [one, two] = ["threads-1", "threads-2"].map(|run| scratch.newest(run, &file));
            assert!(one == two, "{model}: {file}");
        }
    }
}

#[test]
fn a_closed_pipe_of_output_is_no_error() {
    let scratch = with_run(TINY);
    let train = format!("train {TINY} --sample-every 10 --out other");
    let train_json = format!("train {TINY} --json --out json");
    for command in [
        "--help",
        "inspect run",
        "inspect run --json",
        "eval run",
        "generate run --tokens 2000",
        "bench --preset rnn-128 --hidden 16 --batch 2 --window 4 --steps 2",
        &train,
        &train_json,
    ] {
        let ran = scratch.run_unread(command);
        assert_eq!(ran.stderr, "", "{command}");
        assert_eq!(ran.code, Some(0), "{command}");
    }
    // A run continues without a reader.
    for run in ["other", "json"] {
        assert_eq!(
            scratch.newest(run, "model.safetensors"),
            scratch.newest("run", "model.safetensors")
        );
    }
}

#[test]

fn a_closed_pipe_of_completions_is_no_error() {
    let scratch = Scratch::new();
    let ran = scratch.run_unread("completions bash");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
}

#[test]

fn a_cause_is_printed_once() {
    let scratch = Scratch::new();
    scratch.write("file", "no folder");
    let train = format!("train {TINY} --quiet --out file/run");
    let message = scratch.run(&train).stderr;
    has(&message, "file/run");
    assert_eq!(message.matches("os error").count(), 1, "{message}");
    let train = format!("train {DIVERGING} --quiet --non-finite error --out run");
    let message = scratch.run(&train).failed(3);
    assert_eq!(message.matches("embedding.weight").count(), 1, "{message}");
}

/// A device that accepts nothing acts as a full disk.
#[cfg(target_os = "linux")]
#[test]
fn output_that_is_lost_is_a_failure() {
    let scratch = with_run(TINY);
    for arguments in [
        "inspect run",
        "eval run",
        "completions bash",
        "inspect run --json",
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = scratch.command(arguments.split_whitespace());
        let output = command.stdout(full.unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.contains("standard output"),
            "{arguments}: {message}"
        );
    }
}
