//! Texts of all kinds and from all sources.

use crate::program::{Scratch, TINY, has};

/// About 3,000 Chinese characters without an obvious pattern.
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
fn tokens_left_out_of_an_epoch_are_reported() {
    let scratch = Scratch::new();
    let text: String = english().chars().cycle().take(5502).collect();
    scratch.write("half.txt", text);
    let model = "--hidden 16 --layers 1 --out";
    let said = scratch
        .run(&format!("train half.txt --batch 50 --steps 2 {model} a"))
        .succeeded();
    let note = "note: one pass over the text reads 2,500 of its tokens, in whole windows; the next \
                starts later, and 2 passes read all";
    has(&said, note);
    let said = scratch
        .run(&format!(
            "train half.txt --batch 10 --window 9 --steps 2 {model} b"
        ))
        .succeeded();
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn derived_quantities_of_the_settings_are_printed() {
    let scratch = Scratch::new();
    scratch.write("text.txt", english());
    let train = |flags: &str| {
        let run = flags.replace([' ', '-'], "");
        let model = "--preset gpt-128 --hidden 16 --layers 1 --batch 2";
        let ran = scratch.run(&format!("train text.txt {model} {flags} --out {run}"));
        ran.succeeded()
    };
    let said = train("--steps 2 --lr 5e-5");
    has(
        &said,
        "min-lr is 5e-6, a tenth of lr: that of preset gpt-128, 0.0001, is above it & \
         warmup is 100 (of preset gpt-128), and the run has 2 steps: the learning rate rises to \
         9.901e-7 and never reaches 5e-5",
    );
    let said = train("--steps 2 --warmup 3 --window 200");
    has(&said, "warmup is 3, and the run has 2 steps");
    has(
        &said,
        "the validation text has 176 tokens, less than one window of 200",
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
    // If it is missing, nothing waits for the terminal, and no other text is accepted.
    let kept = scratch.path("run/input.txt");
    std::fs::rename(&kept, scratch.path("away.txt")).unwrap();
    for command in ["train --resume run", "eval run"] {
        let ran = scratch.run_with(command.split(' '), text.as_bytes());
        let message = ran.failed(1);
        has(&message, "run/input.txt is missing");
    }
    // The same text from a file is the same run.
    scratch.write("text.txt", &text);
    scratch.train(format!("text.txt {TINY}"), "other");
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
    scratch.train(format!("text.txt {flags} --lr 0.02"), "run");
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

/// Metaspace marks each word, and its decoder has no space before the first.
const METASPACE: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
    "decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
    "model":{"type":"WordLevel","unk_token":"<unk>",
             "vocab":{"<unk>":0,"▁red":1,"▁green":2,"▁blue":3}}}"#;

/// What BERT's tokenizers do: words without marks, and lower case.
const WORDS: &str = r###"{"version":"1.0","added_tokens":[],"normalizer":{"type":"Lowercase"},
    "pre_tokenizer":{"type":"Whitespace"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
    "model":{"type":"WordLevel","unk_token":"<unk>",
             "vocab":{"<unk>":0,"red":1,"green":2,"blue":3}}}"###;

#[test]
fn a_space_separates_prompt_and_continuation() {
    let scratch = Scratch::new();
    scratch.write("text.txt", "red green blue ".repeat(200));
    let settings = TINY.replace("--steps 40", "--steps 150");
    for (name, tokenizer) in [("metaspace", METASPACE), ("words", WORDS)] {
        scratch.write(&format!("{name}.json"), tokenizer);
        let train = format!(
            "train text.txt {settings} --lr 0.02 --tokenizer {name}.json --quiet --out {name}"
        );
        scratch.run(&train).succeeded();
        for prompt in ["red green", "red green "] {
            let flags = ["--temperature", "0", "--tokens", "3", "--prompt", prompt];
            let generate = ["generate", name].into_iter().chain(flags);
            let text = scratch.run_with(generate.clone(), b"").succeeded();
            let words = text
                .split(' ')
                .all(|word| ["red", "green", "blue"].contains(&word));
            assert!(words && text.starts_with("red green "), "{name}: {text}");
            assert_eq!(text.split(' ').count(), 5, "{name}: {text}");
            let line = scratch.run_with(generate.chain(["--json"]), b"").json();
            let both = format!("{prompt}{}", line[0]["text"].as_str().unwrap());
            assert_eq!(both, text);
        }
        let start = scratch.run(&format!("generate {name} --tokens 3"));
        assert!(!start.succeeded().starts_with(' '));
    }
}

#[test]
fn lost_characters_of_a_tokenizer_are_reported() {
    let scratch = Scratch::new();
    scratch.write("words.json", WORDS);
    let train = |text: &str, flags: &str| {
        scratch.write("text.txt", text);
        scratch.run(&format!(
            "train text.txt {TINY} --tokenizer words.json --out run {flags}"
        ))
    };
    // One word in thirty begins with another letter than comes back.
    let some = format!("Red green blue {}", "red green blue ".repeat(19)).repeat(10);
    let said = train(&some, "").succeeded();
    // The last tenth is for validation, and the last space is not a token.
    has(&said, "note: the tokenizer loses 1");
    assert!(
        said.contains(", most of all 'R'; bits per character are"),
        "{said}"
    );
    has(&said, "bits per character of the altered text, perplexity");
    let said = scratch.run("eval run").succeeded();
    has(&said, " bits per character of the altered text\n");
    std::fs::remove_dir_all(scratch.path("run")).unwrap();

    let most = "Red GREEN blue ".repeat(100);
    let said = train(&most, "").failed(2);
    has(&said, "loses 40 % of the characters & with --lossy");
    assert!(!scratch.path("run").exists());
    train(&most, "--lossy").succeeded();
    // It was accepted once.
    scratch.run("train --resume run --quiet").succeeded();
    scratch.run("eval run").succeeded();
    // No note if nothing is lost.
    let said = scratch
        .run(&format!(
            "train text.txt {TINY} --tokenizer bpe:300 --out whole"
        ))
        .succeeded();
    assert!(!said.contains("loses"), "{said}");
}

#[test]
fn texts_in_other_encodings() {
    let scratch = Scratch::new();
    let text = "un café, s'il vous plaît. ".repeat(60);
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
    scratch.write("utf-8.txt", &text);
    for (name, bytes, encoding) in [
        ("wide.txt", &utf_16, "utf-16"),
        ("latin.txt", &latin, "latin1"),
    ] {
        scratch.write(name, bytes);
        let said = scratch.run(&format!("train {name} {TINY}")).failed(2);
        has(&said, &format!("--encoding {encoding}"));
        let train = format!("train {name} --encoding {encoding} {TINY} --quiet --out {encoding}");
        scratch.run(&train).succeeded();
        scratch
            .run(&format!("train --resume {encoding} --quiet"))
            .succeeded();
        let of_run = scratch
            .run(&format!("eval {encoding} --checkpoint last --json"))
            .json();
        let events = scratch.events(encoding);
        let last = events.iter().rfind(|event| event["event"] == "evaluation");
        assert_eq!(of_run[0]["val_loss"], last.unwrap()["val_loss"]);
        let eval = format!("eval {encoding} --data utf-8.txt --encoding utf-8");
        scratch.run(&eval).succeeded();
    }
    let said = scratch.run("train --encoding latin1").failed(2);
    has(&said, "encoding needs a text, and none is given");
    // They are the same text.
    let hash = |run: &str| scratch.plan(run)["text-sha256"].clone();
    assert_eq!(hash("utf-16"), hash("latin1"));
    // From standard input the run keeps UTF-8.
    let train = format!("train - --encoding latin1 {TINY} --quiet --out piped");
    scratch.run_with(train.split(' '), &latin).succeeded();
    assert_eq!(scratch.read("piped/input.txt"), text);
    scratch.run("eval piped").succeeded();
}

#[test]
fn the_tokenizer_of_bytes_takes_any_file() {
    let scratch = Scratch::new();
    let bytes: Vec<u8> = (0..2000_u32).map(|i| (i * i / 7) as u8).collect();
    scratch.write("any.bin", &bytes);
    let said = scratch.run(&format!("train any.bin {TINY}")).failed(2);
    has(&said, "the tokenizer `byte` takes any bytes");
    let train = format!("train any.bin {TINY} --tokenizer byte --out run");
    let said = scratch.run(&train).succeeded();
    has(&said, "not UTF-8: each byte is a character");
    has(&said, "1,800 training and 200 validation tokens");
    scratch.run("eval run").succeeded();
    scratch.run("eval run --data any.bin").succeeded();
    let train = format!("train - {TINY} --tokenizer byte --quiet --out piped");
    scratch.run_with(train.split(' '), &bytes).succeeded();
    assert_eq!(
        std::fs::read(scratch.path("piped/input.txt")).unwrap(),
        bytes
    );
    assert_eq!(
        scratch.newest("piped", "model.safetensors"),
        scratch.newest("run", "model.safetensors")
    );
}

/// A mark is not part of a prompt, and `echo` ends a line that nobody has typed.
#[test]
fn prompts_from_files_and_standard_input() {
    let scratch = Scratch::trained();
    let written = |flags: &str, input: &[u8]| {
        let generate = format!("generate run --tokens 20 {flags}");
        scratch.run_with(generate.split(' '), input).succeeded()
    };
    let typed = written("--prompt qui", b"");
    for input in [&b"qui"[..], b"qui\n", b"qui\r\n", b"\xEF\xBB\xBFqui\n"] {
        assert_eq!(written("--prompt -", input), typed, "{input:?}");
    }
    scratch.write("prompt.txt", b"\xEF\xBB\xBFqui");
    assert_eq!(written("--prompt-file prompt.txt", b""), typed);
    // All of a file.
    scratch.write("prompt.txt", "qui\n");
    assert!(written("--prompt-file prompt.txt", b"").starts_with("qui\n"));
    let both = scratch.run("generate run --prompt a --prompt-file prompt.txt");
    assert_eq!(both.code, Some(2), "{both:?}");
}
