//! Misuse: exit code 2, one line that names the thing, and nothing written.

use crate::program::{Scratch, TINY, has, rows};

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
    scratch.write("one.txt", "x");
    scratch.write("folder/picture.png", "none");
    scratch.write("broken.json", "{\"model\":");
    scratch.write("no-toml.toml", "steps = = 4");
    scratch.write("unknown-key.toml", "stpes = 4");
    scratch.write("wrong-type.toml", "steps = \"many\"");
    scratch.write("negative.toml", "steps = -4");
    scratch.write("bad-clip.toml", "clip = \"global-nrom:1\"");
    scratch.write("bad-model.toml", "model = \"perceptron\"");
    scratch.write("bad-preset.toml", "preset = \"lstm-129\"");
    scratch.write("no-run/notes.txt", "no run");
    scratch
}

#[test]
fn texts_and_settings() {
    let scratch = scratch();
    for [arguments, parts] in rows(
        "missing.txt               | missing.txt does not exist
         good.txt missing.txt      | missing.txt does not exist
         good.txt --val missing.txt| missing.txt does not exist
         empty.txt                 | empty.txt is empty
         latin1.txt                | latin1.txt is not UTF-8 & offset 3 & --encoding latin1
         utf16.txt                 | utf16.txt is not UTF-8 & --encoding utf-16
         short.txt                 | too short & batch 4 & window 8 & 33
         short.txt --model transformer --heads 2 | too short
         folder                    | no text file in folder
         good.txt -                | cannot be combined
         -                         | standard input is empty
         good.txt --val one.txt    | validation & too short
         --preset lstm-129         | lstm-129 & lstm-128
         --model perceptron        | perceptron & transformer
         --preset gpt-128 --model rnn | rnn & gpt-128
         --clip global-norm:0      | global-norm:0 & greater than 0
         --clip global-nrom:1      | did you mean `global-norm`?
         --non-finite ignore       | ignore & skip
         --tokenizer words         | words & bpe:N
         --tokenizer bpe:3         | bpe:3 & 257
         --tokenizer missing.json  | missing.json
         --tokenizer broken.json   | broken.json
         --lr NaN                  | lr is NaN & above 0
         --model transformer --heads 3 | hidden (16) & heads (3)
         --optimizer adma          | adma & adam
         --schedule cosin          | cosin & cosine
         --device tpu              | device `tpu` & cpu
         --hidden 60000 --quiet    | training would take about & --hidden
         --threads 0               | --threads is 0
         --threads 20000           | --threads is 20000 & 1024
         --json --quiet            | --json & --quiet",
    ) {
        scratch.refuses(2, &format!("train {TINY} --out out {arguments}"), parts);
    }
}

#[test]
fn config_files() {
    let scratch = scratch();
    for [file, parts] in rows(
        "missing.toml     | missing.toml
         no-toml.toml     | no-toml.toml
         unknown-key.toml | unknown-key.toml & `stpes` & did you mean `steps`?
         wrong-type.toml  | wrong-type.toml & `steps` & line 1 & \"many\" is not a whole number
         negative.toml    | negative.toml & `steps` & -4
         bad-clip.toml    | `clip` & did you mean `global-norm`?
         bad-model.toml   | perceptron & transformer
         bad-preset.toml  | lstm-129 & lstm-128",
    ) {
        // Flags would override the file.
        scratch.refuses(2, &format!("train --config {file} --out out"), parts);
    }
}

#[test]
fn numbers_beyond_the_plan() {
    let seed = "train --seed 18446744073709551615 --out out";
    let parts = "--seed & a whole number from 0 to 9223372036854775807";
    Scratch::new().refuses(2, seed, parts);
}

#[test]
fn a_folder_that_holds_a_run() {
    let train = format!("train {TINY} --out run");
    Scratch::trained().refuses(2, &train, "run: holds a run already & --resume");
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
        has(&message, &holds);
        assert_eq!(scratch.read(format!("out/{name}")), "mine");
        assert_eq!(scratch.listing(), before);
    }
}

#[test]
fn folders_that_are_not_runs_are_refused() {
    let scratch = scratch();
    for command in ["generate", "eval", "inspect"] {
        let missing = "nowhere: there is no such run";
        scratch.refuses(2, &format!("{command} nowhere"), missing);
        let other = "no-run & is not the folder of a run";
        scratch.refuses(2, &format!("{command} no-run"), other);
    }
    scratch.refuses(2, "train --resume no-run", "no-run & no plan.toml");
}

#[test]
fn generate_and_eval() {
    let scratch = scratch();
    scratch.train(format!("good.txt {TINY}"), "run");
    for [command, flags, parts] in rows(
        "generate | --top-p 2                | is 2 & at most 1
         generate | --top-k 0                | is 0
         generate | --num-samples 0          | --num-samples
         generate | --min-p -0.5             | -0
         generate | --temperature=-1         | temperature is -1
         generate | --temperature -1         | -1
         generate | --repetition-penalty 0   | is 0
         generate | --stop=                  | stop text is empty
         generate | --prompt 日              | '日' & U+65E5 & vocabulary
         generate | --checkpoint 7           | no checkpoint `7`
         eval     | --checkpoint newest      | --checkpoint newest & best, last
         eval     | --data missing.txt       | missing.txt does not exist
         eval     | --data empty.txt         | empty.txt is empty",
    ) {
        scratch.refuses(2, &format!("{command} run {flags}"), parts);
    }
}

#[test]
fn commands() {
    let scratch = Scratch::new();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let ran = scratch.run_with([std::ffi::OsStr::from_bytes(b"\xff")], b"");
        assert_eq!(ran.code, Some(2), "{ran:#?}");
    }
    for part in ["train", "clip", "generate"] {
        for [flags, parts] in rows(
            "--steps 0                    | steps is 0
             --vocabulary 0               | --vocabulary & 0
             --hidden 4611686018427387904 | hidden is 4611686018427387904
             --hidden 1000000             | would take about & --hidden",
        ) {
            scratch.refuses(2, &format!("bench --part {part} {flags}"), parts);
        }
    }
    for [arguments, parts] in rows(
        "trian                    | trian & 'train'
         train --stpes 4          | --stpes & --steps
         train --sted 3           | '--seed'
         train --preset lstm-12   | 'lstm-512'
         completions cmd          | cmd & bash
         bench --part clp         | clp & train & clip & generate
         advise run               | advise & shears inspect RUN
         help advise              | shears inspect RUN
         experiment run           | experiment & --example temporal-order
         export-events run        | export-events & shears export",
    ) {
        scratch.refuses(2, arguments, parts);
    }
    for [command, old, new] in rows(
        "replay | --policy    | --clip
         clip   | --policy    | --clip
         clip   | --nonfinite | --non-finite
         sweep  | --set       | --optimizer sgd & --KEY VALUE",
    ) {
        let parts = format!("`{old}` is now & {new}");
        scratch.refuses(2, &format!("{command} run {old} none"), &parts);
        let help = scratch.run(&format!("{command} --help")).succeeded();
        assert!(!help.contains(old), "{help}");
    }
}
