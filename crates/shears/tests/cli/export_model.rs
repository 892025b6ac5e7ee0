//! `shears export` of models: what other programs find in the folder.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::program::{LLAMA, Scratch, TINY, TINY_TRANSFORMER, has, rows};

/// A tensor of a file: its shape and elements.
fn tensor(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap();
    let elements = view.data().as_chunks::<4>().0.iter();
    let elements = elements.map(|bytes| f32::from_le_bytes(*bytes));
    (view.shape().to_vec(), elements.collect())
}

#[test]
fn a_transformer_has_the_names_and_shapes_of_gpt_2() {
    let scratch = Scratch::exported("--mlp gelu-tanh", "--checkpoint last");
    let config = scratch.read_json("hf/config.json");
    for (key, value) in [
        ("model_type", Value::from("gpt2")),
        ("activation_function", "gelu_new".into()),
        ("n_embd", 16.into()),
        ("n_head", 2.into()),
        ("n_layer", 1.into()),
        ("n_positions", 16.into()),
        ("eos_token_id", Value::Null),
        ("tie_word_embeddings", true.into()),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let plan = scratch.plan("run");
    let hash = plan["text-sha256"].as_str().unwrap();
    assert_eq!(config["shears"]["SHA-256 of the text"], hash);
    for (setting, value) in [("kv-heads", 2), ("inner", 64), ("context", 16)] {
        assert_eq!(config["shears"][setting], value.to_string(), "{setting}");
    }
    let card = scratch.read("hf/README.md");
    has(&card, hash);
    has(
        &card,
        "| clipping | global-norm:1 | & validation loss & what clipping did",
    );
    let tokenizer = scratch.read_json("hf/tokenizer_config.json");
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
    let inputs = serde_json::json!(["input_ids", "attention_mask"]);
    assert_eq!(tokenizer["model_input_names"], inputs);
    assert_eq!(
        scratch.read("hf/tokenizer.json"),
        scratch.read("run/tokenizer.json")
    );

    let (theirs, ours) = (
        fs::read(scratch.path("hf/model.safetensors")).unwrap(),
        scratch.newest("run", "model.safetensors"),
    );
    let (_, metadata) = SafeTensors::read_metadata(&theirs).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let theirs = SafeTensors::deserialize(&theirs).unwrap();
    let ours = SafeTensors::deserialize(&ours).unwrap();
    assert_eq!(theirs.len(), ours.len());
    let qkv = tensor(&ours, "blocks.0.attention.qkv.weight");
    let conv = tensor(&theirs, "transformer.h.0.attn.c_attn.weight");
    assert_eq!((&qkv.0, &conv.0), (&vec![48, 16], &vec![16, 48]));
    for (row, column) in [(0, 0), (0, 15), (47, 1), (20, 7)] {
        assert_eq!(qkv.1[row * 16 + column], conv.1[column * 48 + row]);
    }
    assert_eq!(
        tensor(&ours, "token_embedding.weight"),
        tensor(&theirs, "transformer.wte.weight")
    );
}

#[test]
fn llamas_joined_rows_are_split_on_export() {
    let scratch = Scratch::exported(format!("{LLAMA} --tied=false"), "--checkpoint last");
    let config = scratch.read_json("hf/config.json");
    for (key, value) in [
        ("model_type", Value::from("llama")),
        ("num_attention_heads", 2.into()),
        ("num_key_value_heads", 1.into()),
        ("head_dim", 8.into()),
        ("intermediate_size", 20.into()),
        ("rms_norm_eps", 0.001.into()),
        ("rope_theta", 500.0.into()),
        (
            "rope_parameters",
            serde_json::json!({ "rope_theta": 500.0, "rope_type": "default" }),
        ),
        ("attention_bias", false.into()),
        ("tie_word_embeddings", false.into()),
        ("bos_token_id", Value::Null),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let card = scratch.read("hf/README.md");
    assert!(card.contains("of Llama's shape") && card.contains("`max_position_embeddings`"));
    let (theirs, ours) = (
        fs::read(scratch.path("hf/model.safetensors")).unwrap(),
        scratch.newest("run", "model.safetensors"),
    );
    let theirs = SafeTensors::deserialize(&theirs).unwrap();
    let ours = SafeTensors::deserialize(&ours).unwrap();
    // Two norms, four matrices of the attention and three of the perceptron, and three for all.
    assert_eq!(theirs.len(), 12);
    for (joined, parts, rows) in [
        (
            "blocks.0.attention.qkv.weight",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"][..],
            &[16, 8, 8][..],
        ),
        (
            "blocks.0.mlp.expand.weight",
            &["mlp.gate_proj", "mlp.up_proj"],
            &[20, 20],
        ),
    ] {
        let mut all = Vec::new();
        for (part, rows) in parts.iter().zip(rows) {
            let (shape, elements) = tensor(&theirs, &format!("model.layers.0.{part}.weight"));
            assert_eq!(shape, [*rows, 16]);
            all.extend(elements);
        }
        assert_eq!(tensor(&ours, joined).1, all);
    }
}

#[test]
fn gguf_has_the_same_bytes_each_time_and_an_end_that_is_not_written() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY_TRANSFORMER} --hidden 32"), "run");
    for (dtype, out) in [
        ("f32", "one"),
        ("f32", "two"),
        ("f16", "half"),
        ("q8_0", "eighth"),
    ] {
        let flags = format!("--format gguf --dtype {dtype} --out {out}");
        scratch.run(&format!("export run {flags}")).succeeded();
    }
    let file = |folder: &str| fs::read(scratch.path(folder).join("model.gguf")).unwrap();
    let one = file("one");
    assert!(one.starts_with(b"GGUF\x03\0\0\0"));
    assert!(one == file("two"));
    let sizes = ["one", "half", "eighth"].map(|folder| file(folder).len());
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    for part in [
        "general.architecture",
        "<|endoftext|>",
        "tokenizer.ggml.suppress_tokens",
        "\u{2603} \u{2603}",
        "blk.0.attn_qkv.weight",
    ] {
        let part = part.as_bytes();
        assert!(
            one.windows(part.len()).any(|window| window == part),
            "{part:?}"
        );
    }
    assert!(scratch.read("one/README.md").contains("llama.cpp"));
}

#[test]
fn gguf_holds_the_hyperparameters_of_llama_and_refuses_another_block() {
    let scratch = Scratch::new();
    for (run, flags) in [("llama", LLAMA), ("between", "--norm rms")] {
        scratch.train(format!("{TINY_TRANSFORMER} {flags}"), run);
    }
    scratch
        .run("export llama --format gguf --out gguf")
        .succeeded();
    let file = fs::read(scratch.path("gguf/model.gguf")).unwrap();
    let number = |name: &str, kind: u32, bytes: [u8; 4]| {
        [name.as_bytes(), &kind.to_le_bytes(), &bytes].concat()
    };
    for part in [
        b"llama.vocab_size".to_vec(),
        b"blk.0.ffn_gate.weight".to_vec(),
        b"blk.0.attn_k.weight".to_vec(),
        number("llama.attention.head_count_kv", 4, 1_u32.to_le_bytes()),
        number("llama.rope.dimension_count", 4, 8_u32.to_le_bytes()),
        number("llama.feed_forward_length", 4, 20_u32.to_le_bytes()),
        number("llama.rope.freq_base", 6, 500_f32.to_le_bytes()),
        number(
            "llama.attention.layer_norm_rms_epsilon",
            6,
            1e-3_f32.to_le_bytes(),
        ),
    ] {
        assert!(
            file.windows(part.len()).any(|window| window == part),
            "{}",
            String::from_utf8_lossy(&part)
        );
    }
    for (run, flags, part) in [
        (
            "llama",
            "--format gguf --dtype q8_0",
            "a width of 16 in q8_0",
        ),
        (
            "between",
            "--format gguf",
            "GGUF does not support this Transformer block",
        ),
        (
            "between",
            "--format huggingface",
            "and Llama's (norm rms, position rope, swiglu)",
        ),
    ] {
        let export = format!("export {run} {flags} --out out");
        let message = scratch.run(&export).failed(2);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_recurrent_model_has_the_names_of_pytorch() {
    let scratch = Scratch::new();
    for (flags, names, vocabulary) in [
        ("--model gru --embedding 16 --tied", 7, true),
        ("--model rnn --nonlinearity relu", 7, false),
    ] {
        let (run, out) = (format!("run-{vocabulary}"), format!("out-{vocabulary}"));
        scratch.train(format!("{TINY} {flags}"), &run);
        let export = format!("export {run} --format pytorch --out {out}");
        scratch.run(&export).succeeded();
        let bytes = fs::read(scratch.path(&out).join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), names);
        let config = scratch.read_json(format!("{out}/config.json"));
        let rows = config["vocab_size"].as_u64().unwrap() as usize;
        let encoder = tensor(&file, "encoder.weight");
        let decoder = tensor(&file, "decoder.weight");
        assert_eq!((encoder.0[0], decoder.0[0]), (rows, rows));
        assert_eq!(encoder == decoder, vocabulary, "tied");
        let cells = config["nonlinearity"].as_str().map_or(3, |name| {
            assert_eq!(name, "relu");
            1
        });
        assert_eq!(tensor(&file, "rnn.weight_hh_l0").0, [16 * cells, 16]);
        assert!(
            scratch
                .read(format!("{out}/README.md"))
                .contains("load_state_dict")
        );
    }
}

#[test]
fn unsupported_features_of_a_format_are_refused_and_leave_no_files() {
    let scratch = Scratch::trained();
    scratch.write("full/file", "");
    for [flags, part] in rows(
        "--format huggingface --out hf                | --format pytorch writes it
         --format huggingface                         | give one with --out FOLDER
         --format huggingface --out full              | contains other files
         --format huggingface --out run/plan.toml     | is not a folder
         --format huggingface --out hf --force        | --force is for tables
         --format huggingface --out hf --checkpoint 7 | no checkpoint `7`
         --format gguf --out gguf                     | --format pytorch writes it
         --format huggingface --dtype f16 --out hf    | --dtype is for gguf
         --checkpoint best                            | --checkpoint is for models",
    ) {
        scratch.refuses(2, &format!("export run {flags}"), part);
    }
}

#[test]
fn a_card_has_the_settings_of_its_checkpoint() {
    let scratch = Scratch::new();
    scratch.train(format!("{TINY} --clip none --lr 0.003"), "run");
    let resume = "train --resume run --quiet --steps 50 --lr 0.5 --clip value:0.001";
    scratch.run(resume).succeeded();
    let card = |step: u32| {
        let export = format!("export run --format pytorch --checkpoint {step} --out card-{step}");
        scratch.run(&export).succeeded();
        scratch.read(format!("card-{step}/README.md"))
    };
    let before = card(40);
    has(&before, "0.003 & off: nothing was clipped");
    assert!(!before.contains("value:0.001"), "{before}");
    has(&card(50), "0.5 & value:0.001");
}
