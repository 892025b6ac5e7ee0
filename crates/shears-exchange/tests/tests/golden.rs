//! Small models in other programs' formats, with their predictions, made by
//! `tools/golden/exchange.py`.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use shears_exchange::ModelSource;
use shears_model::{
    Architecture, BlockConfig, Initializer, LanguageModel, Mlp, ModelConfig, State, Transformer,
    gru, lstm, rnn,
};
use shears_train::{NamedTensor, load_parameters};

/// The largest difference of a logit; the models' logits go up to 30.
const TOLERANCE: f32 = 1e-5;

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The model's predictions at every position.
fn logits(
    config: &ModelConfig,
    vocabulary: usize,
    read: Vec<NamedTensor>,
    tokens: &[u32],
) -> Vec<f32> {
    let device = Device::flex();
    let start = &mut Initializer::new(1, &device);
    let model = match config.architecture {
        Architecture::Transformer => {
            return of(
                load_parameters(Transformer::new(vocabulary, config, start), read),
                tokens,
            );
        }
        Architecture::Rnn => rnn(vocabulary, config, start),
        Architecture::Lstm => lstm(vocabulary, config, start),
        Architecture::Gru => gru(vocabulary, config, start),
    };
    of(load_parameters(model, read), tokens)
}

fn of<M: LanguageModel>(model: Result<M, String>, tokens: &[u32]) -> Vec<f32> {
    let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
    let ids = TensorData::new(ids, [1, tokens.len()]);
    let ids = Tensor::<2, Int>::from_data(ids, &Device::flex());
    let (logits, _) = model.unwrap().forward(ids, State::default());
    logits.into_data().iter::<f32>().collect()
}

/// Reads a model, and compares its predictions with those of the program that it comes from.
#[track_caller]
fn check(name: &str, path: &Path) -> ModelSource {
    let expected = fs::read(folder(name).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        expected
            .tensor(name)
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .to_vec()
    };
    let tokens: Vec<u32> = words("tokens")
        .into_iter()
        .map(u32::from_le_bytes)
        .collect();
    let theirs: Vec<f32> = words("logits")
        .into_iter()
        .map(f32::from_le_bytes)
        .collect();
    let source = ModelSource::open(path).unwrap();
    let (config, vocabulary) = (source.config.clone(), source.vocabulary);
    let read = ModelSource::open(path).unwrap().read().unwrap();
    assert!(
        read.sha256
            .iter()
            .all(|line| line.len() > 66 && line.as_bytes()[64] == b' ')
    );
    let ours = logits(&config, vocabulary, read.tensors, &tokens);
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs
        .iter()
        .fold(1.0_f32, |scale, value| scale.max(value.abs()));
    let differences = ours
        .iter()
        .zip(&theirs)
        .map(|(ours, theirs)| (ours - theirs).abs());
    let worst = differences.fold(0.0_f32, f32::max);
    assert!(
        worst <= TOLERANCE * scale,
        "{name}: logits of up to {scale} differ by {worst}"
    );
    println!(
        "{name}: {} logits of up to {scale:.1}, within {worst:.1e}",
        ours.len()
    );
    source
}

#[test]
fn gpt_2_folders_predict_what_transformers_predicts() {
    for (name, tied, mlp) in [
        ("gpt2-tied", true, Mlp::GeluTanh),
        ("gpt2-untied-f16", false, Mlp::Gelu),
        ("gpt2-sharded-bf16", true, Mlp::GeluTanh),
        ("gpt2-without-prefix", true, Mlp::GeluTanh),
        ("gpt2-pickle", true, Mlp::GeluTanh),
        // Inner width and epsilon are its own.
        ("gpt2-pickles", true, Mlp::GeluTanh),
    ] {
        let source = check(name, &folder(name));
        assert_eq!(
            (source.config.tied, source.config.block.mlp),
            (tied, mlp),
            "{name}"
        );
        assert_eq!((source.vocabulary, source.end_token), (40, Some(7)));
        assert!(source.tokenizer.is_none());
    }
}

#[test]
fn llama_folders_predict_what_transformers_predicts() {
    for (name, tied, kv_heads, epsilon, theta, bias) in [
        ("llama", false, 2, 0.01, 100.0, false),
        ("llama-tied-sharded-bf16", true, 1, 1e-6, 1e4, false),
        ("llama-biases-f16", false, 4, 1e-6, 1e4, true),
    ] {
        let source = check(name, &folder(name));
        let block = BlockConfig {
            norm_epsilon: epsilon,
            rope_theta: theta,
            inner: 24,
            bias,
            ..BlockConfig::llama(kv_heads)
        };
        assert_eq!(
            (source.config.block, source.config.tied),
            (block, tied),
            "{name}"
        );
        assert_eq!((source.vocabulary, source.end_token), (40, Some(7)));
    }
}

#[test]
fn checkpoints_of_pytorch_predict_what_it_predicts() {
    let nano = check("nanogpt", &folder("nanogpt/ckpt.pt"));
    assert_eq!(
        (nano.config.block.mlp, nano.config.context),
        (Mlp::Gelu, 12)
    );
    let (kind, tokenizer) = nano.tokenizer.unwrap();
    assert_eq!(kind.to_string(), "char");
    assert_eq!(tokenizer.encode("\n !A\u{e9}").unwrap(), [0, 1, 2, 3, 39]);
    for (name, architecture, layers, embedding) in [
        ("lstm", Architecture::Lstm, 2, 12),
        ("gru-one-hot", Architecture::Gru, 1, 40),
        ("rnn-whole", Architecture::Rnn, 1, 16),
    ] {
        let source = check(name, &folder(name).join("model.pt"));
        let found = &source.config;
        assert_eq!(
            (found.architecture, found.layers),
            (architecture, layers),
            "{name}"
        );
        assert_eq!(
            (found.embedding, source.vocabulary),
            (embedding, 40),
            "{name}"
        );
    }
}

#[test]
fn gpt_2s_vocabulary_and_merges_are_a_tokenizer() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder("gpt2-tied").join(file), copy.path().join(file)).unwrap();
    }
    let space = '\u{120}';
    let tokens = [
        "a",
        "b",
        "ab",
        &format!("{space}"),
        &format!("{space}ab"),
        "#",
        "##",
    ];
    let ids = tokens.iter().chain(&["<|endoftext|>"]).zip(0..);
    let ids = ids.map(|(token, id)| (token.to_string(), serde_json::Value::from(id)));
    let vocabulary = serde_json::Value::Object(ids.collect()).to_string();
    fs::write(copy.path().join("vocab.json"), vocabulary).unwrap();
    let merges = "#version: 0.2\na b\n\u{120} ab\n# #\n";
    fs::write(copy.path().join("merges.txt"), merges).unwrap();
    let (_, tokenizer) = ModelSource::open(copy.path()).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.encode("ab ab##").unwrap(), [2, 4, 6]);
    assert_eq!(tokenizer.encode("a<|endoftext|>").unwrap(), [0, 7]);
    assert_eq!(tokenizer.decode(&[2, 4, 6, 7]), "ab ab##<|endoftext|>");
}
