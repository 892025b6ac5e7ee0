//! `shears train --init-from`: a run that starts from a trained model.

use std::fs;

use crate::program::{LLAMA, Scratch, TINY, TINY_TRANSFORMER, has};

/// The loss of a run before its first step, as its log has it.
fn initial_loss(scratch: &Scratch, run: &str) -> f64 {
    let events = scratch.events(run);
    let first = events.iter().find(|event| event["event"] == "evaluation");
    let first = first.unwrap();
    assert_eq!(first["step"], 0);
    first["val_loss"].as_f64().unwrap()
}

fn loss_of(scratch: &Scratch, run: &str) -> f64 {
    let line = scratch.run(&format!("eval {run} --json")).json().remove(0);
    line["val_loss"].as_f64().unwrap()
}

#[test]
fn a_run_that_starts_from_another_does_not_need_it_afterwards() {
    let scratch = Scratch::trained();
    let more = "--batch 4 --window 8 --eval-every 10 --save-every 10 --lr 1e-3 --quiet";
    let train =
        |out: &str, steps: u64| format!("train --init-from run {more} --out {out} --steps {steps}");
    let said = format!(
        "train --init-from run {} --out said --steps 1",
        more.replace("--quiet", "")
    );
    let said = scratch.run(&said).succeeded();
    has(&said, "starting from run (a run of shears)");
    has(&said, "step      0  val loss");
    scratch.run(&train("whole", 20)).succeeded();
    assert_eq!(initial_loss(&scratch, "whole"), loss_of(&scratch, "run"));
    let plan = scratch.plan("whole");
    assert_eq!(plan["hidden"].as_integer(), Some(16));
    assert_eq!(plan["init-from"].as_str(), Some("run"));
    let hash = plan["init-sha256"][0].as_str().unwrap();
    assert!(hash.ends_with("  model.safetensors"), "{hash}");
    // The optimizer starts fresh.
    scratch.run(&train("half", 10)).succeeded();
    fs::rename(scratch.path("run"), scratch.path("gone")).unwrap();
    scratch
        .run("train --resume half --steps 20 --quiet")
        .succeeded();
    let model = |run: &str| scratch.newest(run, "model.safetensors");
    assert!(model("half") == model("whole"));
    // Readers accept a log that begins with step 0.
    for command in [
        "inspect whole",
        "export whole",
        "compare whole gone",
        "generate whole --tokens 5",
    ] {
        scratch.run(command).succeeded();
    }
}

#[test]
fn a_run_stopped_before_its_first_step_resumes_without_its_source() {
    let scratch = Scratch::trained();
    let train = "train --init-from run --batch 4 --window 8 --steps 9 --quiet --out new";
    scratch.run(train).succeeded();
    // As if it had been killed right after its first checkpoint, and right before it.
    for name in scratch.checkpoints("new").into_iter().skip(1) {
        fs::remove_dir_all(scratch.path("new/checkpoints").join(name)).unwrap();
    }
    scratch.write("new/events.jsonl", "");
    fs::rename(scratch.path("run"), scratch.path("gone")).unwrap();
    scratch.run("train --resume new --quiet").succeeded();
    fs::remove_dir_all(scratch.path("new/checkpoints")).unwrap();
    scratch.write("new/events.jsonl", "");
    let message = scratch.run("train --resume new").failed(2);
    has(&message, "stopped before its first checkpoint");
}

#[test]
fn a_damaged_or_edited_run_is_refused_as_a_source() {
    let scratch = Scratch::trained();
    let best = "run/checkpoints/step-00000040/model.safetensors";
    let mut bytes = fs::read(scratch.path(best)).unwrap();
    bytes[200] ^= 1;
    scratch.write(best, bytes);
    let train = "train --init-from run --batch 4 --window 8 --steps 1 --quiet --out";
    let ran = scratch.run(&format!("{train} new"));
    has(&ran.stderr, "step-00000040 & ; using run/checkpoints/step-");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    ran.succeeded();
    let plan = scratch.read("run/plan.toml");
    let edited = plan.replace("forget-bias = true", "forget-bias = false");
    let edited = edited.replace("tied = false", "tied = true");
    assert_ne!(edited, plan);
    scratch.write("run/plan.toml", edited);
    let ran = scratch.run(&format!("{train} other"));
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    has(&ran.stderr, "plan.toml was changed (");
    assert!(!scratch.path("other").exists());
}

#[test]
fn a_hugging_face_folder_round_trips() {
    let scratch = Scratch::exported("--mlp gelu-tanh --tied=false", "");
    let more = "--batch 4 --window 8 --steps 4 --quiet --out new";
    scratch
        .run(&format!("train --init-from hf {more}"))
        .succeeded();
    let difference = initial_loss(&scratch, "new") - loss_of(&scratch, "run");
    assert!(difference.abs() < 1e-6, "{difference}");
    let plan = scratch.plan("new");
    // A window shorter than the context leaves all positions where they are.
    assert_eq!(plan["context"].as_integer(), Some(16));
    assert_eq!(plan["window"].as_integer(), Some(8));
    assert_eq!(plan["mlp"].as_str(), Some("gelu-tanh"));
    assert_eq!(plan["tied"].as_bool(), Some(false));
    scratch.run("generate new --tokens 40").succeeded();
    scratch
        .run("export new --format huggingface --out again")
        .succeeded();
    let config = scratch.read("again/config.json");
    has(&config, "\"n_positions\": 16");
    // The plan is a config of its own: the same run again.
    fs::rename(scratch.path("new"), scratch.path("old")).unwrap();
    scratch
        .run("train --config old/plan.toml --quiet --out new")
        .succeeded();
    assert!(
        scratch.newest("new", "model.safetensors") == scratch.newest("old", "model.safetensors")
    );
}

#[test]
fn a_llama_round_trips() {
    let scratch = Scratch::exported(LLAMA, "");
    let more = "--batch 4 --window 8 --steps 2 --out new";
    let said = scratch.run(&format!("train --init-from hf {more}"));
    let said = said.succeeded();
    assert!(
        said.contains("(a Llama of 1 x 16 from a Hugging Face folder)"),
        "{said}"
    );
    let difference = initial_loss(&scratch, "new") - loss_of(&scratch, "run");
    assert!(difference.abs() < 1e-6, "{difference}");
    let (before, after) = (scratch.plan("run"), scratch.plan("new"));
    for setting in LLAMA.split(" --").chain(["--tied true", "--context 16"]) {
        let words = setting.trim_start_matches("--");
        let name = words.split([' ', '=']).next().unwrap();
        let expected = match name {
            "context" => Some(&toml::Value::Integer(16)),
            name => before.get(name),
        };
        assert_eq!(after.get(name), expected, "{name}");
    }
    scratch
        .run("train --resume new --steps 3 --quiet")
        .succeeded();
    scratch.run("generate new --tokens 40").succeeded();
}

#[test]
fn a_folder_for_pytorch_round_trips() {
    let scratch = Scratch::new();
    for (name, flags) in [
        ("lstm", "--layers 2 --embedding 8"),
        ("rnn", "--model rnn --nonlinearity relu --tied"),
    ] {
        let (run, folder, new) = (
            format!("run-{name}"),
            format!("pt-{name}"),
            format!("new-{name}"),
        );
        let tiny = TINY.replace("--layers 1", "");
        scratch.train(format!("{tiny} {flags}"), &run);
        scratch
            .run(&format!("export {run} --format pytorch --out {folder}"))
            .succeeded();
        let more = "--batch 4 --window 8 --steps 2 --quiet";
        let train = format!("train --init-from {folder} {more} --out {new}");
        scratch.run(&train).succeeded();
        let difference = initial_loss(&scratch, &new) - loss_of(&scratch, &run);
        assert!(difference.abs() < 1e-6, "{difference}");
        let (before, after) = (scratch.plan(&run), scratch.plan(&new));
        for setting in ["model", "layers", "embedding", "nonlinearity", "tied"] {
            assert_eq!(after.get(setting), before.get(setting), "{setting}");
        }
        let mut config = scratch.read_json(format!("{folder}/config.json"));
        config["hidden_size"] = 17.into();
        config["tied"] = "yes".into();
        for words in [
            "config.json has tied \"yes\"; it must be true or false",
            "config.json has hidden_size 17; it must be 16, as its weights have it",
        ] {
            scratch.write(&format!("{folder}/config.json"), config.to_string());
            let train = format!("train --init-from {folder} --out other");
            scratch.refuses(2, &train, words);
            config["tied"] = (name == "rnn").into();
        }
    }
}

/// The text of the sample that a run has written after a step.
fn sample(scratch: &Scratch, run: &str) -> String {
    let events = scratch.events(run);
    let event = events.iter().find(|event| event["event"] == "sample");
    event.unwrap()["text"].as_str().unwrap().to_string()
}

#[test]
fn the_token_that_ends_a_text_ends_samples() {
    let scratch = Scratch::exported("", "");
    let more = "--batch 4 --window 8 --steps 2 --lr 1e-9 --sample-every 1";
    let train = |out: &str| scratch.run(&format!("train --init-from hf {more} --out {out}"));
    let without = train("without").succeeded();
    let whole = sample(&scratch, "without");
    // The last letter that did not occur before.
    let is_new = |(place, letter): &(usize, char)| {
        letter.is_alphabetic() && !whole[..*place].contains(*letter)
    };
    let (place, letter) = whole.char_indices().rfind(is_new).unwrap();
    let tokenizer = scratch.read_json("hf/tokenizer.json");
    let mut config = scratch.read_json("hf/config.json");
    config["eos_token_id"] = tokenizer["model"]["vocab"][letter.to_string()].clone();
    scratch.write("hf/config.json", config.to_string());
    let with = train("with").succeeded();
    let expected = whole[..place].trim_end_matches('\n');
    assert_eq!(sample(&scratch, "with"), expected);
    // The same for the sample at the end of the run.
    let at_the_end = |said: &str| {
        let (_, written) = said.split_once("it writes:\n").unwrap();
        written.split_once("  more: ").unwrap().0.contains(letter)
    };
    assert!(at_the_end(&without) && !at_the_end(&with), "{with}");
}

#[test]
fn unused_embedding_rows_are_kept_and_never_sampled() {
    let scratch = Scratch::exported("--tokenizer byte", "");
    // The tokenizer of another text has fewer tokens than the 256 of the model.
    scratch.train(TINY, "small");
    fs::copy(
        scratch.path("small/tokenizer.json"),
        scratch.path("hf/tokenizer.json"),
    )
    .unwrap();
    let mut config = scratch.read_json("hf/config.json");
    config["eos_token_id"] = 3.into();
    scratch.write("hf/config.json", config.to_string());
    scratch
        .run("train --init-from hf --batch 4 --window 8 --steps 2 --quiet --out new")
        .succeeded();
    let plan = scratch.plan("new");
    assert_eq!(plan["vocabulary"].as_integer(), Some(256));
    assert_eq!(plan["end-token"].as_integer(), Some(3));
    scratch
        .run("generate new --tokens 300 --temperature 5")
        .succeeded();
    scratch.run("eval new").succeeded();
    scratch
        .run("train --resume new --steps 3 --quiet")
        .succeeded();
    scratch
        .run("export new --format huggingface --out again")
        .succeeded();
    let again = scratch.read_json("again/config.json");
    assert_eq!(
        (&again["vocab_size"], &again["eos_token_id"]),
        (&256.into(), &3.into())
    );
}

#[test]
fn a_size_of_the_model_may_be_given_or_derived() {
    let scratch = Scratch::new();
    scratch.train(TINY_TRANSFORMER, "derived");
    scratch.train(format!("{TINY_TRANSFORMER} --kv-heads 2"), "given");
    for (source, kv_heads) in [("derived", 2), ("given", 0)] {
        let train = format!("train --init-from {source} --steps 1 --batch 2 --window 8 --quiet");
        let out = format!("--out from-{source}");
        let refused = scratch
            .run(&format!("{train} --kv-heads 1 {out}"))
            .failed(2);
        has(&refused, "kv-heads: it has");
        let again = format!("{train} --kv-heads {kv_heads} {out}");
        scratch.run(&again).succeeded();
        assert_eq!(
            scratch.plan(&format!("from-{source}"))["kv-heads"],
            kv_heads.into()
        );
    }
}

#[test]
fn settings_that_contradict_the_model_are_refused_with_a_list() {
    let scratch = Scratch::trained();
    scratch.write("page/config.json", "<html>");
    for (flags, parts) in [
        (
            "--init-from run --hidden 32 --layers 2 --tokenizer byte",
            &[
                "hidden: it has 16, not 32",
                "layers: it has 1, not 2",
                "tokenizer: it has \"char\"",
            ][..],
        ),
        (
            "--init-from run --preset gpt-128",
            &["does not match preset gpt-128"],
        ),
        (
            "--init-from run --forget-bias",
            &["forget-bias is for new weights"],
        ),
        ("--init-from nowhere", &["nowhere does not exist"]),
        ("--init-from page", &["config.json is a web page"]),
        (
            "--model transformer --context 4 --window 8",
            &["window is 8; it must be at most context (4)"],
        ),
    ] {
        let message = scratch.run(&format!("train {flags} --out new")).failed(2);
        for part in parts {
            has(&message, part);
        }
        assert!(!scratch.path("new").exists());
    }
    let message = scratch.run("train --resume run --init-from run").failed(2);
    has(&message, "init-from");
    assert_eq!(scratch.run("sweep --init-from run").code, Some(2));
}
