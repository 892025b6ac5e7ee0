//! Files from strangers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use shears_exchange::ModelSource;
use tempfile::TempDir;

use crate::golden::folder;

/// A copy of a model, to be corrupted.
fn copy(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// The one-line message for a model that cannot be opened or read.
#[track_caller]
fn refusal(path: &Path) -> String {
    let error = match ModelSource::open(path) {
        Err(error) => error,
        Ok(source) => source.read().unwrap_err(),
    };
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[track_caller]
fn check(path: &Path, part: &str) {
    let message = refusal(path);
    assert!(message.contains(part), "{message}");
}

fn change(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn configs_of_unsupported_models_are_refused_by_name() {
    for (key, value, part) in [
        (
            "model_type",
            json!("bert"),
            "has model_type bert; only gpt2 and llama are supported",
        ),
        ("model_type", Value::Null, "has model_type none"),
        (
            "add_cross_attention",
            json!(true),
            "add_cross_attention true",
        ),
        (
            "scale_attn_weights",
            json!(false),
            "scale_attn_weights false",
        ),
        (
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            "only false is supported",
        ),
        (
            "reorder_and_upcast_attn",
            json!(true),
            "only false is supported",
        ),
        (
            "layer_norm_epsilon",
            json!(0.0),
            "has layer_norm_epsilon 0.0; it must be a number above 0 and finite",
        ),
        (
            "activation_function",
            json!("relu"),
            "has activation_function relu",
        ),
        (
            "n_inner",
            json!(32),
            "`transformer.h.0.mlp.c_fc.bias` has shape [64] in place of [32]",
        ),
        (
            "n_embd",
            json!(-1),
            "has n_embd -1; it must be a whole number from 1 to",
        ),
        (
            "n_embd",
            json!(16.0),
            "has n_embd 16.0; it must be a whole number",
        ),
        ("n_layer", json!(1_u64 << 40), "has n_layer 1099511627776"),
        (
            "n_layer",
            json!(1001),
            "it must be a whole number from 1 to 1000",
        ),
        (
            "n_head",
            json!(3),
            "hidden (16) must be a multiple of heads (3)",
        ),
        ("vocab_size", json!("x"), "has vocab_size \"x\""),
    ] {
        let folder = copy("gpt2-tied");
        change(folder.path(), key, value);
        check(folder.path(), part);
    }
}

#[test]
fn values_of_another_type_are_refused_by_name() {
    for (key, value, part) in [
        (
            "tie_word_embeddings",
            json!("yes"),
            "config.json has tie_word_embeddings \"yes\"; it must be true or false",
        ),
        (
            "scale_attn_weights",
            json!(1),
            "has scale_attn_weights 1; it must be true or false",
        ),
        (
            "activation_function",
            json!(["gelu"]),
            "has activation_function [\"gelu\"]; it must be a text",
        ),
        (
            "model_type",
            json!(2),
            "has model_type 2; it must be a text",
        ),
        (
            "eos_token_id",
            json!("</s>"),
            "has eos_token_id \"</s>\"; it must be the number of a token, or a list",
        ),
    ] {
        let folder = copy("gpt2-tied");
        change(folder.path(), key, value);
        check(folder.path(), part);
    }
    for (key, value, part) in [
        (
            "rope_parameters",
            json!({ "rope_theta": "500" }),
            "has rope_theta \"500\"; it must be a number above 0 and finite",
        ),
        (
            "rope_scaling",
            json!("linear"),
            "has rope_scaling \"linear\"; it must be null or an object",
        ),
        (
            "mlp_bias",
            json!("no"),
            "has mlp_bias \"no\"; it must be true or false",
        ),
    ] {
        let folder = copy("llama");
        change(folder.path(), key, value);
        check(folder.path(), part);
    }
}

/// Null stands for the default, as in `transformers`.
#[test]
fn null_in_a_config_is_the_default() {
    let folder = copy("gpt2-tied");
    for key in [
        "tie_word_embeddings",
        "scale_attn_weights",
        "activation_function",
        "layer_norm_epsilon",
        "n_inner",
        "eos_token_id",
    ] {
        change(folder.path(), key, Value::Null);
    }
    let source = ModelSource::open(folder.path()).unwrap();
    assert!(source.config.tied);
    assert_eq!((source.config.inner(), source.end_token), (64, None));
}

#[test]
fn unsupported_llamas_are_refused_by_name() {
    let scaled = json!({ "rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5 });
    let linear = json!({ "type": "linear", "factor": 2.0 });
    for (key, value, part) in [
        (
            "rope_parameters",
            scaled,
            "has rope_parameters of type llama3; scaled positions are not supported",
        ),
        ("rope_scaling", linear, "has rope_scaling of type linear"),
        (
            "partial_rotary_factor",
            json!(0.5),
            "partial rotation is not supported",
        ),
        (
            "head_dim",
            json!(8),
            "has head_dim 8; only hidden_size divided by num_attention_heads (4)",
        ),
        (
            "rope_parameters",
            json!({ "rope_type": "default", "partial_rotary_factor": 0.5 }),
            "partial rotation is not supported",
        ),
        ("hidden_act", json!("gelu"), "has hidden_act gelu"),
        (
            "rms_norm_eps",
            json!("small"),
            "has rms_norm_eps \"small\"; it must be a number above 0 and finite",
        ),
        (
            "num_key_value_heads",
            json!(3),
            "heads (4) must be a multiple of kv-heads (3)",
        ),
        (
            "num_key_value_heads",
            json!(1),
            "`model.layers.0.self_attn.k_proj.weight` has shape [8, 16] in place of [4, 16]",
        ),
        (
            "attention_bias",
            json!(true),
            "`model.layers.1.self_attn.v_proj.bias` is missing",
        ),
        (
            "intermediate_size",
            json!(25),
            "`model.layers.0.mlp.up_proj.weight` has shape [24, 16] in place of [25, 16]",
        ),
        (
            "num_attention_heads",
            json!(16),
            "divided by heads (16) must be even, but is 1",
        ),
    ] {
        let folder = copy("llama");
        change(folder.path(), "head_dim", Value::Null);
        change(folder.path(), key, value);
        check(folder.path(), part);
    }
}

#[test]
fn all_differences_are_listed() {
    let folder = copy("gpt2-tied");
    change(folder.path(), "vocab_size", json!(41));
    change(folder.path(), "n_layer", json!(1));
    change(folder.path(), "tie_word_embeddings", json!(false));
    let message = refusal(folder.path());
    for part in [
        "`transformer.wte.weight` has shape [40, 16] in place of [41, 16]",
        "`lm_head.weight` is missing",
        "`transformer.h.1.attn.c_attn.bias` is not in the model",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // Nothing is allocated before the file is known to match its config.
    change(folder.path(), "vocab_size", json!(1 << 24));
    check(folder.path(), "in place of [16777216, 16]");
}

#[test]
fn files_that_are_not_models_are_identified() {
    let weights = |bytes: &[u8]| {
        let folder = copy("gpt2-tied");
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        folder
    };
    for (bytes, part) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..],
            "git lfs pull",
        ),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"\x1f\x8b0000000000", "is compressed by gzip"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "is a GGUF file"),
        (b"", "is empty"),
        (b"\x10\0\0\0\0\0\0\0{}", "is cut off"),
        (b"\xff\xff\xff\xff\0\0\0\0{}", "is larger than any may be"),
        (b"\x02\0\0\0\0\0\0\0[]", "is not a whole safetensors file"),
    ] {
        check(weights(bytes).path(), part);
    }
    let folder = copy("gpt2-tied");
    fs::write(folder.path().join("config.json"), "<html>").unwrap();
    check(folder.path(), "config.json is a web page");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    check(folder.path(), "is neither a run nor a model");
    check(&folder.path().join("nothing"), "does not exist");
    check(&folder.path().join("model.safetensors"), "give the folder");
    let text = folder.path().join("text.pt");
    fs::write(&text, "To be, or not to be").unwrap();
    check(&text, "cannot be read as a PyTorch file");
    let folder = copy("gpt2-tied");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    check(folder.path(), "has no weights");
}

#[test]
fn foreign_types_and_non_finite_elements_are_refused_by_name() {
    // Of the same length, so that the header keeps its size.
    let replace = |from: &str, to: &str| {
        let folder = copy("gpt2-untied-f16");
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let from = from.as_bytes();
        let place = bytes
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        bytes[place..place + from.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bytes).unwrap();
        folder
    };
    let folder = replace("\"F16\"", "\"I16\"");
    check(folder.path(), "only F32, F16 and BF16 are supported");

    let folder = copy("gpt2-untied-f16");
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    // Infinity in half precision.
    bytes[end - 2..].copy_from_slice(&[0x00, 0x7c]);
    fs::write(&path, bytes).unwrap();
    check(folder.path(), "has inf in `");
}

#[test]
fn a_file_without_a_recognised_model_is_described() {
    let message = refusal(&folder("gpt2-pickle").join("pytorch_model.bin"));
    for part in [
        "has no RNN that can be recognised by name and shape",
        "`lm_head.weight` [40, 16]",
        "more",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_duplicate_tensor_is_refused() {
    let folder = copy("gpt2-tied");
    let path = folder.path().join("model.safetensors");
    let file = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    // The same again, so that all offsets are right.
    let header = std::str::from_utf8(&file[8..end]).unwrap().trim_end();
    let (name, entry) = header.split_once("\"transformer.h.0.ln_1.bias\":").unwrap();
    let entry = &entry[..=entry.find('}').unwrap()];
    assert!(name.starts_with('{'));
    let header = header.strip_suffix('}').unwrap();
    let header = format!("{header},\"transformer.h.0.ln_1.bias\":{entry}}}");
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length, header.as_bytes(), &file[end..]].concat()).unwrap();
    check(folder.path(), "has two tensors `transformer.h.0.ln_1.bias`");
}

#[test]
fn an_index_cannot_name_files_outside_its_folder() {
    for name in ["../model.safetensors", "/etc/passwd", "", ".."] {
        let folder = copy("gpt2-sharded-bf16");
        let index = json!({ "weight_map": { "transformer.wte.weight": name } });
        let path = folder.path().join("model.safetensors.index.json");
        fs::write(path, index.to_string()).unwrap();
        check(folder.path(), "names a file that is not in the folder");
    }
    let folder = copy("gpt2-sharded-bf16");
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    check(folder.path(), "cannot read");
}

#[test]
fn truncated_files_are_refused() {
    for (name, file) in [
        ("gpt2-tied", "model.safetensors"),
        ("gpt2-tied", "config.json"),
        ("gpt2-sharded-bf16", "model.safetensors.index.json"),
        ("gpt2-pickle", "pytorch_model.bin"),
        ("gpt2-pickles", "pytorch_model-00002-of-00002.bin"),
        ("gpt2-pickles", "pytorch_model.bin.index.json"),
        ("llama", "model.safetensors"),
        ("nanogpt", "ckpt.pt"),
        ("lstm", "model.pt"),
    ] {
        let folder = copy(name);
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        for part in 0..60 {
            let length = match part {
                // The last bytes, and the first.
                0..10 => whole.len() - 1 - part,
                10..20 => part - 10,
                _ => whole.len() * (part - 20) / 40,
            };
            // The last brace of JSON is followed by a line break.
            if length + 1 == whole.len() && file.ends_with(".json") {
                continue;
            }
            fs::write(&path, &whole[..length]).unwrap();
            let is_alone = file.ends_with(".pt");
            refusal(if is_alone { &path } else { folder.path() });
        }
    }
}
