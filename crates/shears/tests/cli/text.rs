//! Texts of all kinds, from all places.

use crate::program::{Scratch, TINY};

/// About 3,000 characters of Chinese, without a pattern that is too simple.
fn chinese() -> String {
    let subjects = [
        "春天的风",
        "山上的老人",
        "河边的孩子",
        "远方的朋友",
        "窗外的雨",
    ];
    let verbs = [
        "轻轻地吹过",
        "慢慢地走向",
        "高兴地看见",
        "静静地等待",
        "忽然想起了",
    ];
    let objects = [
        "青青的草地",
        "古老的村庄",
        "明亮的月光",
        "去年的故事",
        "一封没有写完的信",
    ];
    let mut text = String::new();
    let mut number = 7_usize;
    while text.chars().count() < 3000 {
        number = (number * 137 + 61) % 9973;
        text.push_str(subjects[number % 5]);
        text.push_str(verbs[number / 5 % 5]);
        text.push_str(objects[number / 25 % 5]);
        text.push_str(if number.is_multiple_of(3) {
            "。\n"
        } else {
            "，"
        });
    }
    text
}

fn is_cjk(character: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&character)
}

fn english() -> String {
    "the quick brown fox jumps over the lazy dog\n".repeat(40)
}

#[test]

fn chinese_with_every_tokenizer() {
    let scratch = Scratch::new();
    scratch.write("text.txt", chinese());
    for tokenizer in ["char", "bpe:300", "byte"] {
        let out = tokenizer.replace(':', "-");
        let train = format!("train text.txt {TINY} --tokenizer {tokenizer} --out {out}");
        // The sample at the end is UTF-8 as well: the helper reads nothing else.
        scratch.run(&train).succeeded();
        let evaluation = scratch.run(&format!("eval {out} --json")).json();
        let [loss, bits] =
            ["val_loss", "bits_per_char"].map(|k| evaluation[0][k].as_f64().unwrap());
        assert!(loss > 0.0 && bits > 0.0, "{evaluation:?}");
        let text = scratch
            .run(&format!("generate {out} --tokens 120"))
            .succeeded();
        assert!(!text.is_empty());
        if tokenizer == "char" {
            assert!(text.chars().any(is_cjk), "{text}");
            assert_eq!(text.chars().count(), 120);
        }
        let prompted = ["generate", &out, "--prompt", "春天的风", "--tokens", "20"];
        let text = scratch.run_with(prompted, b"").succeeded();
        assert!(text.starts_with("春天的风"), "{text}");
    }
}

#[test]
fn files_and_folders() {
    let scratch = Scratch::new();
    let text = english();
    let (first, second) = text.split_at(800);
    scratch.write("all/b/second.md", second);
    scratch.write("all/a.txt", first);
    scratch.write("all/c.png", [0xFF, 0xFE]);
    for (texts, out) in [("all", "x"), ("all/a.txt all/b/second.md", "y")] {
        let train = format!("train {texts} {TINY} --quiet --out {out}");
        scratch.run(&train).succeeded();
    }
    assert_eq!(
        scratch.plan("x")["text-sha256"],
        scratch.plan("y")["text-sha256"]
    );
    assert_eq!(
        scratch.newest("x", "model.safetensors"),
        scratch.newest("y", "model.safetensors")
    );
}

/// Rows of 99 tokens hold one window of 50; the other half is read by every second pass.
#[test]
fn what_a_pass_over_the_text_leaves_out_is_said() {
    let scratch = Scratch::new();
    let text: String = english().chars().cycle().take(5502).collect();
    scratch.write("half.txt", text);
    let model = "--hidden 16 --layers 1 --out";
    let said = scratch
        .run(&format!("train half.txt --batch 50 --steps 2 {model} a"))
        .succeeded();
    let note = "note: one pass over the text reads 2,500 of its tokens, in whole windows; the next \
                starts later, and 2 passes read all";
    assert!(said.contains(note), "{said}");
    let said = scratch
        .run(&format!(
            "train half.txt --batch 10 --window 9 --steps 2 {model} b"
        ))
        .succeeded();
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn what_the_settings_come_to_is_said() {
    let scratch = Scratch::new();
    scratch.write("text.txt", english());
    let train = |flags: &str| {
        let run = flags.replace([' ', '-'], "");
        let model = "--preset gpt-128 --hidden 16 --layers 1 --batch 2";
        let ran = scratch.run(&format!("train text.txt {model} {flags} --out {run}"));
        ran.succeeded()
    };
    let said = train("--steps 2 --lr 5e-5");
    for part in [
        "min-lr is 5e-6, a tenth of lr: that of preset gpt-128, 0.0001, is above it",
        "warmup is 100 (of preset gpt-128), and the run has 2 steps: the learning rate rises to \
         9.901e-7 and never reaches 5e-5",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let said = train("--steps 2 --warmup 3 --window 200");
    assert!(
        said.contains("warmup is 3, and the run has 2 steps"),
        "{said}"
    );
    assert!(
        said.contains("the validation text has 176 tokens, less than one window of 200"),
        "{said}"
    );
    let said = train("--steps 2 --warmup 1 --window 16");
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn standard_input_is_kept_for_resuming() {
    let scratch = Scratch::new();
    let text = english();
    let train = format!("train - {TINY} --quiet --out run");
    scratch
        .run_with(train.split_whitespace(), text.as_bytes())
        .succeeded();
    assert_eq!(scratch.read("run/input.txt"), text);
    let whole = scratch.newest("run", "model.safetensors");
    // Back to step 30, without the text this time.
    std::fs::remove_dir_all(scratch.path("run/checkpoints/step-00000040")).unwrap();
    scratch.run("train --resume run --quiet").succeeded();
    assert_eq!(scratch.newest("run", "model.safetensors"), whole);
    let evaluation = scratch.run("eval run --checkpoint last --json").json();
    let events = scratch.events("run").into_iter().rev();
    let last = events
        .into_iter()
        .find(|event| event["event"] == "evaluation");
    assert_eq!(evaluation[0]["val_loss"], last.unwrap()["val_loss"]);
    // Without it nobody waits for it at the terminal, and another text is not taken for it.
    let kept = scratch.path("run/input.txt");
    std::fs::rename(&kept, scratch.path("away.txt")).unwrap();
    for command in ["train --resume run", "eval run"] {
        let ran = scratch.run_with(command.split(' '), text.as_bytes());
        let message = ran.failed(1);
        assert!(message.contains("run/input.txt is gone"), "{message}");
    }
    // The same text from a file is the same run.
    scratch.write("text.txt", &text);
    let train = format!("train text.txt {TINY} --quiet --out other");
    scratch.run(&train).succeeded();
    assert_eq!(scratch.newest("other", "model.safetensors"), whole);
}

#[test]
fn a_validation_file() {
    let scratch = Scratch::new();
    scratch.write("text.txt", english());
    // Characters that the training text does not have belong to the vocabulary.
    scratch.write("val.txt", "THE QUICK BROWN FOX\n".repeat(5));
    let train = format!("train text.txt --val val.txt {TINY} --json --out run");
    let lines = scratch.run(&train).json();
    let last = lines.last().unwrap();
    let evaluation = scratch.run("eval run --checkpoint last --json").json();
    assert_eq!(evaluation[0]["val_loss"], last["val_loss"]);
    assert_eq!(evaluation[0]["tokens"], 99);
    let given = scratch
        .run("eval run --checkpoint last --data val.txt --json")
        .json();
    assert_eq!(given[0]["val_loss"], last["val_loss"]);
    let other = scratch
        .run("eval run --checkpoint last --data text.txt --json")
        .json();
    assert_ne!(other[0]["val_loss"], last["val_loss"]);
}

#[test]
fn line_ends_stay_as_they_are() {
    let scratch = Scratch::new();
    scratch.write("text.txt", "ab\r\n".repeat(400));
    let flags = TINY.replace("--steps 40", "--steps 200");
    let train = format!("train text.txt {flags} --lr 0.02 --quiet --out run");
    scratch.run(&train).succeeded();
    let likeliest = [
        "generate",
        "run",
        "--prompt",
        "ab",
        "--temperature",
        "0",
        "--tokens",
        "6",
    ];
    let text = scratch.run_with(likeliest, b"").succeeded();
    assert_eq!(text, "ab\r\nab\r\n");
}

#[test]

fn a_tokenizer_json_by_path() {
    let scratch = Scratch::new();
    scratch.write("text.txt", english());
    for kind in ["bpe:300", "char", "byte"] {
        let first = kind.replace(':', "-");
        let second = format!("{first}-again");
        for (tokenizer, out) in [
            (kind, &first),
            (&*format!("{first}/tokenizer.json"), &second),
        ] {
            let train =
                format!("train text.txt {TINY} --tokenizer {tokenizer} --quiet --out {out}");
            scratch.run(&train).succeeded();
        }
        assert_eq!(
            scratch.newest(&first, "model.safetensors"),
            scratch.newest(&second, "model.safetensors"),
            "{kind}"
        );
        // The run keeps the tokenizer itself, not only its path.
        std::fs::remove_file(scratch.path(&first).join("tokenizer.json")).unwrap();
        scratch
            .run(&format!("generate {second} --tokens 10"))
            .succeeded();
    }
}
