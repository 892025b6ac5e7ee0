//! Names, shapes, initial values and carried state of the models.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use shears_model::{
    Architecture, BlockConfig, Initializer, LanguageModel, ModelConfig, Nonlinearity,
    ParameterMapper, ParameterVisitor, Precision, RecurrentModel, State, Transformer, gru, lstm,
    map_parameters, parameters, rnn, visit_parameters,
};

const VOCABULARY: usize = 11;

fn config() -> ModelConfig {
    ModelConfig {
        // Ignored by the constructors.
        architecture: Architecture::Lstm,
        layers: 2,
        hidden: 6,
        embedding: 7,
        heads: 2,
        block: BlockConfig::default(),
        context: 12,
        dropout: 0.0,
        tied: false,
        forget_bias: false,
        nonlinearity: Nonlinearity::Tanh,
        precision: Precision::F32,
    }
}

/// A Transformer with Llama's block, whose three query heads share one key and value head.
fn llama(vocabulary: usize, config: &ModelConfig, initializer: &mut Initializer) -> Transformer {
    let config = ModelConfig {
        block: BlockConfig {
            inner: config.block.inner,
            ..BlockConfig::llama(1)
        },
        heads: 3,
        ..config.clone()
    };
    Transformer::new(vocabulary, &config, initializer)
}

type New<M> = fn(usize, &ModelConfig, &mut Initializer) -> M;

fn build<M>(new: New<M>, config: &ModelConfig, seed: u64) -> M {
    new(
        VOCABULARY,
        config,
        &mut Initializer::new(seed, &Device::flex()),
    )
}

fn names_and_shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    let mut found: Vec<_> = parameters(model)
        .into_iter()
        .map(|info| (info.name, info.shape))
        .collect();
    found.sort();
    found
}

fn sorted(expected: &[(String, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let expected = expected.iter();
    let mut expected: Vec<_> = expected
        .map(|(name, shape)| (name.clone(), shape.to_vec()))
        .collect();
    expected.sort();
    expected
}

/// `recurrent_shapes` of `tools/golden/models.py`.
#[track_caller]
fn check_recurrent<M: Module>(new: New<M>, gates: usize, tied: bool) {
    let embedding = if tied { 6 } else { 7 };
    let config = ModelConfig {
        tied,
        embedding,
        ..config()
    };
    let rows = gates * 6;
    let (first, other) = ([rows, embedding], [rows, 6]);
    let mut expected: Vec<(String, &[usize])> = Vec::new();
    let embeddings = [VOCABULARY, embedding];
    expected.push(("embedding.weight".into(), &embeddings));
    let bias = [rows];
    for (layer, inputs) in [(0, &first), (1, &other)] {
        expected.push((format!("layers.{layer}.weight_ih"), inputs));
        expected.push((format!("layers.{layer}.weight_hh"), &other));
        expected.push((format!("layers.{layer}.bias_ih"), &bias));
        expected.push((format!("layers.{layer}.bias_hh"), &bias));
    }
    if !tied {
        expected.push(("output.weight".into(), &[VOCABULARY, 6]));
    }
    expected.push(("output.bias".into(), &[VOCABULARY]));
    let model = build(new, &config, 0);
    assert_eq!(names_and_shapes(&model), sorted(&expected));
}

#[test]
fn recurrent_parameters_have_pytorchs_names_and_shapes() {
    check_recurrent::<RecurrentModel>(rnn, 1, false);
    check_recurrent::<RecurrentModel>(lstm, 4, false);
    check_recurrent::<RecurrentModel>(gru, 3, false);
}

/// A tied output layer shares only the weight and keeps its bias, as in PyTorch.
#[test]
fn tied_recurrent_parameters_have_pytorchs_names_and_shapes() {
    check_recurrent::<RecurrentModel>(rnn, 1, true);
    check_recurrent::<RecurrentModel>(lstm, 4, true);
    check_recurrent::<RecurrentModel>(gru, 3, true);
}

#[test]
fn transformer_parameters_have_pytorchs_names_and_shapes() {
    for tied in [false, true] {
        let config = ModelConfig { tied, ..config() };
        let mut expected: Vec<(String, &[usize])> = vec![
            ("token_embedding.weight".into(), &[VOCABULARY, 6]),
            ("position_embedding.weight".into(), &[12, 6]),
            ("final_norm.weight".into(), &[6]),
            ("final_norm.bias".into(), &[6]),
        ];
        for block in 0..2 {
            let tensors: [(&str, &[usize]); 12] = [
                ("attention.qkv.weight", &[18, 6]),
                ("attention.qkv.bias", &[18]),
                ("attention.projection.weight", &[6, 6]),
                ("attention.projection.bias", &[6]),
                ("mlp.expand.weight", &[24, 6]),
                ("mlp.expand.bias", &[24]),
                ("mlp.project.weight", &[6, 24]),
                ("mlp.project.bias", &[6]),
                ("norm_1.weight", &[6]),
                ("norm_1.bias", &[6]),
                ("norm_2.weight", &[6]),
                ("norm_2.bias", &[6]),
            ];
            expected.extend(tensors.map(|(name, shape)| (format!("blocks.{block}.{name}"), shape)));
        }
        if !tied {
            expected.push(("output.weight".into(), &[VOCABULARY, 6]));
        }
        let model = build(Transformer::new, &config, 0);
        assert_eq!(names_and_shapes(&model), sorted(&expected));
    }
}

/// In the order of the forward pass; gate and up projection are one matrix.
#[test]
fn llama_has_neither_biases_nor_positions() {
    let names = |new: New<Transformer>, config: &ModelConfig| -> Vec<String> {
        let found = parameters(&build(new, config, 0));
        let found = found.into_iter();
        found
            .map(|of| format!("{} {:?}", of.name, of.shape))
            .collect()
    };
    let mut expected = vec!["token_embedding.weight [11, 6]".to_string()];
    for block in 0..2 {
        let tensors = [
            "norm_1.weight [6]",
            // Three query heads, one key head and one value head, each two wide.
            "attention.qkv.weight [10, 6]",
            "attention.projection.weight [6, 6]",
            "norm_2.weight [6]",
            // 8/3 of 6, rounded up to a multiple of 32, twice.
            "mlp.expand.weight [64, 6]",
            "mlp.project.weight [6, 32]",
        ];
        expected.extend(tensors.map(|tensor| format!("blocks.{block}.{tensor}")));
    }
    expected.extend(["final_norm.weight [6]", "output.weight [11, 6]"].map(str::to_string));
    assert_eq!(names(llama, &config()), expected);
    let block = BlockConfig {
        inner: 7,
        ..config().block
    };
    let given = names(llama, &ModelConfig { block, ..config() });
    assert!(given.contains(&"blocks.1.mlp.expand.weight [14, 6]".to_string()));
    let block = BlockConfig {
        bias: false,
        ..config().block
    };
    let without = names(Transformer::new, &ModelConfig { block, ..config() });
    assert!(
        without.iter().all(|name| !name.contains("bias")),
        "{without:?}"
    );
    assert!(without.contains(&"position_embedding.weight [12, 6]".to_string()));
}

#[test]
fn listing_parameters_allocates_nothing() {
    let config = ModelConfig {
        layers: 3,
        hidden: 100_000,
        embedding: 100_000,
        ..config()
    };
    let started = Instant::now();
    let elements = |infos: Vec<shears_model::ParameterInfo>| -> usize {
        infos
            .iter()
            .map(shears_model::ParameterInfo::elements)
            .sum()
    };
    // 960 GB of weights.
    let lstm = elements(parameters(&build(lstm, &config, 0)));
    assert!(lstm > 240_000_000_000, "{lstm}");
    let transformer = elements(parameters(&build(Transformer::new, &config, 0)));
    assert!(transformer > 360_000_000_000, "{transformer}");
    assert!(started.elapsed().as_secs() < 5);
}

/// All weights by name.
fn weights<M: Module>(model: &M) -> Vec<(String, Vec<f32>)> {
    struct Reader(Vec<(String, Vec<f32>)>);
    impl ParameterVisitor for Reader {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            let values = param.val().into_data().iter::<f32>().collect();
            self.0.push((name, values));
        }
    }
    let mut reader = Reader(Vec::new());
    visit_parameters(model, &mut reader);
    reader.0
}

fn mean_and_std(values: &[f32]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let square = values.iter().map(|&v| (f64::from(v) - mean).powi(2));
    (mean, (square.sum::<f64>() / count).sqrt())
}

/// The standard error of a standard deviation from n values is `1 / sqrt(2 n)`; five of these are
/// allowed.
#[track_caller]
fn check_distribution(name: &str, values: &[f32], std: f64) {
    let (mean, got) = mean_and_std(values);
    let count = values.len() as f64;
    assert!(mean.abs() < 5.0 * std / count.sqrt(), "{name}: mean {mean}");
    let slack = 5.0 / (2.0 * count).sqrt();
    assert!((got / std - 1.0).abs() < slack, "{name}: {got} for {std}");
}

#[test]
fn recurrent_weights_are_initialised_as_in_pytorch() {
    let config = ModelConfig {
        hidden: 64,
        embedding: 48,
        ..config()
    };
    // A uniform distribution within 1 / sqrt(64).
    let bound = 0.125;
    for (name, values) in weights(&build(lstm, &config, 1)) {
        if name == "embedding.weight" {
            check_distribution(&name, &values, 1.0);
        } else {
            check_distribution(&name, &values, bound / 3.0_f64.sqrt());
            assert!(values.iter().all(|v| f64::from(v.abs()) <= bound), "{name}");
        }
    }
    let tied = ModelConfig {
        tied: true,
        embedding: 64,
        ..config
    };
    let tied = weights(&build(gru, &tied, 1));
    let (name, embedding) = &tied[0];
    check_distribution(name, embedding, bound / 3.0_f64.sqrt());
}

#[test]
fn the_forget_gate_bias_starts_at_one_if_requested() {
    let config = ModelConfig {
        hidden: 64,
        forget_bias: true,
        ..config()
    };
    let all = weights(&build(lstm, &config, 1));
    for layer in 0..2 {
        let gate = |name: &str, gate: usize| -> Vec<f32> {
            let name = format!("layers.{layer}.{name}");
            let (_, values) = all.iter().find(|(found, _)| *found == name).unwrap();
            values[gate * 64..(gate + 1) * 64].to_vec()
        };
        // The two biases are summed; gates are i, f, g, o.
        assert_eq!(gate("bias_ih", 1), [1.0; 64]);
        assert_eq!(gate("bias_hh", 1), [0.0; 64]);
        for other in [0, 2, 3] {
            let std = 0.125 / 3.0_f64.sqrt();
            check_distribution("bias_ih", &gate("bias_ih", other), std);
            check_distribution("bias_hh", &gate("bias_hh", other), std);
        }
    }
}

#[test]
fn transformer_weights_are_initialised_as_in_gpt_2() {
    let config = ModelConfig {
        layers: 8,
        hidden: 64,
        ..config()
    };
    // GPT-2's 0.02 at width 768, scaled to this width.
    let std = 0.02 * (768.0_f64 / 64.0).sqrt();
    for (name, values) in weights(&build(Transformer::new, &config, 1)) {
        if name.contains("norm") && name.ends_with("weight") {
            assert!(values.iter().all(|&v| v == 1.0), "{name}");
        } else if name.ends_with("bias") {
            assert!(values.iter().all(|&v| v == 0.0), "{name}");
        } else if name.contains("projection") || name.contains("project.") {
            check_distribution(&name, &values, std / 16.0_f64.sqrt());
        } else {
            check_distribution(&name, &values, std);
        }
    }
}

fn tokens(range: std::ops::Range<usize>) -> Tensor<2, Int> {
    const BATCH: usize = 2;
    let rows = (0..BATCH).flat_map(|row| {
        let places = range.clone();
        places.map(move |place| ((place * place + 3 * place + 5 * row) % VOCABULARY) as i32)
    });
    let values: Vec<i32> = rows.collect();
    let data = TensorData::new(values, [BATCH, range.len()]);
    Tensor::from_data(data, &Device::flex())
}

/// Runs `check` for each of the models.
macro_rules! for_all_models {
    ($check:ident) => {
        $check::<RecurrentModel>("rnn", rnn);
        $check::<RecurrentModel>("lstm", lstm);
        $check::<RecurrentModel>("gru", gru);
        $check::<Transformer>("transformer", Transformer::new);
        $check::<Transformer>("llama", llama);
    };
}

fn check_seeds<M: LanguageModel>(name: &str, new: New<M>) {
    let first = weights(&build(new, &config(), 5));
    assert_eq!(first, weights(&build(new, &config(), 5)), "{name}");
    let other = weights(&build(new, &config(), 6));
    let random = |all: &[(String, Vec<f32>)]| all[0].1.clone();
    assert_ne!(random(&first), random(&other), "{name}");

    // Reading a text first initialises the weights in another order.
    let used = build(new, &config(), 5);
    let _ = used.forward(tokens(0..3), State::default());
    assert_eq!(first, weights(&used), "{name}");
}

#[test]
fn weights_depend_only_on_the_seed() {
    for_all_models!(check_seeds);
}

#[test]
fn parameters_do_not_depend_on_the_order_of_first_use() {
    let pair = || {
        let mut initializer = Initializer::new(9, &Device::flex());
        let first = initializer.normal([5], 1.0);
        (first, initializer.normal([5], 1.0))
    };
    let values =
        |param: &Param<Tensor<1>>| -> Vec<f32> { param.val().into_data().iter::<f32>().collect() };
    let (first, second) = pair();
    let forwards = (values(&first), values(&second));
    let (first, second) = pair();
    let last = values(&second);
    assert_eq!(forwards, (values(&first), last));
    assert_ne!(forwards.0, forwards.1);
}

fn check_cuts<M: LanguageModel>(name: &str, new: New<M>) {
    const TIME: usize = 12;
    let model = build(new, &config(), 2);
    let logits = |cuts: &[usize]| -> (Vec<Vec<f32>>, usize) {
        let mut state = State::default();
        let mut parts = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&TIME]) {
            let (logits, after) = model.forward(tokens(start..end), state);
            parts.push(logits);
            state = after;
            start = end;
        }
        let all = Tensor::cat(parts, 1).swap_dims(0, 1);
        let data = all.into_data();
        let values: Vec<f32> = data.iter::<f32>().collect();
        let by_time = values.chunks(values.len() / TIME).map(<[f32]>::to_vec);
        (by_time.collect(), state.position)
    };
    let (whole, position) = logits(&[]);
    assert_eq!(position, TIME);
    let scale = whole
        .iter()
        .flatten()
        .fold(0.0_f32, |max, v| max.max(v.abs()));
    let one_by_one: Vec<usize> = (1..TIME).collect();
    for cuts in [&[5_usize][..], &[1], &[2, 3, 9], &one_by_one] {
        let (cut, position) = logits(cuts);
        assert_eq!(position, TIME);
        for (time, (got, expected)) in cut.iter().zip(&whole).enumerate() {
            for (got, expected) in got.iter().zip(expected) {
                // Products of different shapes may sum in another order.
                assert!(
                    (got - expected).abs() <= 1e-5 * scale,
                    "{name} cut at {cuts:?}, token {time}: {got} for {expected}"
                );
            }
        }
    }
    // Control: without the state, the second part differs.
    let (alone, _) = model.forward(tokens(5..TIME), State::default());
    let alone: Vec<f32> = alone.swap_dims(0, 1).into_data().iter::<f32>().collect();
    let differs = alone.iter().zip(whole[5..].iter().flatten());
    assert!(
        differs
            .into_iter()
            .any(|(a, b)| (a - b).abs() > 1e-3 * scale),
        "{name} ignores its state"
    );
}

#[test]
fn the_result_does_not_depend_on_how_a_text_is_split() {
    for_all_models!(check_cuts);
}

fn check_prediction<M: LanguageModel>(name: &str, new: New<M>) {
    for tied in [false, true] {
        let embedding = if tied { 6 } else { 7 };
        let config = ModelConfig {
            tied,
            embedding,
            ..config()
        };
        let model = build(new, &config, 2);
        let values = |logits: Tensor<2>| -> Vec<f32> { logits.into_data().iter().collect() };
        for end in [1, 5, 11] {
            let (all, state) = model.forward(tokens(0..end), State::default());
            let last: Tensor<2> = all.narrow(1, end - 1, 1).squeeze_dim(1);
            let (alone, state_alone) = model.predict(tokens(0..end), State::default());
            assert_eq!(alone.dims(), [2, VOCABULARY]);
            let pairs = values(alone).into_iter().zip(values(last));
            for (found, expected) in pairs {
                assert!(
                    (found - expected).abs() <= 1e-6,
                    "{name} {end}: {found} {expected}"
                );
            }
            assert_eq!(state_alone.position, end);
            // Its state is equivalent to that of `forward`.
            let (after, _) = model.predict(tokens(end..end + 1), state_alone);
            let (expected, _) = model.predict(tokens(end..end + 1), state);
            assert_eq!(values(after), values(expected), "{name}");
        }
    }
}

#[test]
fn a_prediction_equals_the_last_position_of_forward() {
    for_all_models!(check_prediction);
}

/// A decoder predicts what the model does, token by token and in pieces, also when it is restarted.
/// In bf16 it reads rounded weights, and activations in f32.
fn check_decoder<M: LanguageModel>(name: &str, new: New<M>) {
    let text: Vec<u32> = (0..12).map(|at| at * 7 % VOCABULARY as u32).collect();
    let device = Device::flex();
    // With the second embedding, recurrent models keep the products of tokens.
    for embedding in [7, 12] {
        let of = |precision| {
            let config = ModelConfig {
                precision,
                embedding,
                ..config()
            };
            build(new, &config, 2)
        };
        let plain = (of(Precision::F32), of(Precision::F32));
        let in_bf16 = (
            of(Precision::Bf16).for_generation(),
            rounded(of(Precision::F32)),
        );
        // Pieces of several tokens have rounded activations in bf16.
        let alone: &[&[usize]] = &[&[1; 12], &[1; 12]];
        let in_pieces: &[&[usize]] = &[&[1; 12], &[1, 5, 1, 5], &[12]];
        for ((model, reference), ways) in [(plain, in_pieces), (in_bf16, alone)] {
            let mut decoder = model.decoder(&device);
            for pieces in ways {
                let (mut state, mut at) = (State::default(), 0);
                for &piece in *pieces {
                    let tokens = &text[at..at + piece];
                    at += piece;
                    let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
                    let ids = Tensor::from_data(TensorData::new(ids, [1, piece]), &device);
                    let (expected, after) = reference.predict(ids, state);
                    state = after;
                    let expected: Vec<f32> = expected.into_data().iter().collect();
                    let found = decoder.read(tokens).unwrap();
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(&expected) {
                        let far = (found - expected).abs() > 1e-6;
                        assert!(!far, "{name} {embedding}, {at}: {found} {expected}");
                    }
                }
                decoder.restart();
            }
        }
    }
}

#[test]
fn a_decoder_predicts_what_the_model_does() {
    for_all_models!(check_decoder);
}

/// A long prompt is read with products of many rows.
#[test]
fn a_decoder_reads_a_long_prompt() {
    let text: Vec<u32> = (0..40).map(|at| at * at % VOCABULARY as u32).collect();
    let device = Device::flex();
    for new in [rnn as New<RecurrentModel>, lstm, gru] {
        for (precision, limit) in [(Precision::F32, 1e-6), (Precision::Bf16, 1e-2)] {
            let config = ModelConfig {
                precision,
                embedding: 12,
                ..config()
            };
            let model = build(new, &config, 2).for_generation();
            let mut decoder = model.decoder(&device);
            let at_once = decoder.read(&text).unwrap();
            decoder.restart();
            let read = text.iter().map(|token| decoder.read(&[*token]).unwrap());
            let one_by_one = read.last().unwrap();
            for (found, expected) in at_once.iter().zip(&one_by_one) {
                assert!((found - expected).abs() < limit, "{found} {expected}");
            }
        }
    }
}

/// Within automatic differentiation, a model reads a text by its own `predict`.
#[test]
fn a_model_with_gradients_has_a_decoder() {
    let plain = build(lstm, &config(), 2);
    let device = Device::flex().autodiff();
    let tracked = lstm(VOCABULARY, &config(), &mut Initializer::new(2, &device));
    let (mut expected, mut found) = (plain.decoder(&Device::flex()), tracked.decoder(&device));
    for token in [3, 1, 4, 1, 5] {
        let (found, expected) = (found.read(&[token]), expected.read(&[token]));
        assert_eq!(found.unwrap(), expected.unwrap());
    }
}

/// The model with each matrix rounded to bf16, except for embeddings.
fn rounded<M: Module>(model: M) -> M {
    struct Round;
    impl ParameterMapper for Round {
        fn map<const D: usize>(
            &mut self,
            name: String,
            parameter: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            match D == 2 && !name.ends_with("embedding.weight") {
                true => parameter.map(|tensor| tensor.cast(DType::BF16).cast(DType::F32)),
                false => parameter,
            }
        }
    }
    map_parameters(model, &mut Round)
}

fn check_generation<M: LanguageModel>(name: &str, new: New<M>) {
    let values = |logits: Tensor<2>| -> Vec<f32> { logits.into_data().iter().collect() };
    for tied in [false, true] {
        let config = |precision| ModelConfig {
            tied,
            embedding: if tied { 6 } else { 7 },
            precision,
            ..config()
        };
        let model = build(new, &config(Precision::Bf16), 2).for_generation();
        let of = |precision| rounded(build(new, &config(precision), 2));
        let assert_near = |what: &str, found: Tensor<2>, expected: Tensor<2>| {
            for (found, expected) in values(found).into_iter().zip(values(expected)) {
                let far = (found - expected).abs() > 1e-5;
                assert!(!far, "{name} {tied}, {what}: {found} {expected}");
            }
        };
        // Token by token, activations stay f32.
        let exact = of(Precision::F32);
        let (_, mut state) = exact.predict(tokens(0..1), State::default());
        let mut exact_state = state.clone();
        for at in 1..11 {
            let (found, after) = model.predict(tokens(at..at + 1), state);
            let (expected, exact_after) = exact.predict(tokens(at..at + 1), exact_state);
            assert_near(&format!("token {at}"), found, expected);
            (state, exact_state) = (after, exact_after);
        }
        // Many tokens at once are read as in training, with the same weights, because rounding
        // twice changes nothing.
        let (found, state) = model.predict(tokens(0..10), State::default());
        let (expected, whole) = of(Precision::Bf16).predict(tokens(0..10), State::default());
        assert_near("a prompt", found, expected);
        for (key, tensor) in state.tensors {
            let expected = whole.tensors[&key].to_data();
            assert_eq!(tensor.to_data(), expected, "{name} {tied} {key}");
        }
    }
}

#[test]
fn generation_in_bf16_reads_bf16_weights() {
    for_all_models!(check_generation);
    let model = build(lstm, &config(), 2);
    let before = weights(&model);
    assert_eq!(
        weights(&model.for_generation()),
        before,
        "in f32 nothing changes"
    );
}

/// Twelve tokens of a vocabulary of three: `W_ih` is multiplied by the embedding once, instead of
/// by the row of each token.
#[test]
fn generation_in_bf16_reads_a_short_prompt_of_a_small_vocabulary() {
    let config = ModelConfig {
        precision: Precision::Bf16,
        ..config()
    };
    let mut initializer = Initializer::new(2, &Device::flex());
    let model = gru(3, &config, &mut initializer).for_generation();
    let prompt = TensorData::new([0_i32, 1, 2, 0, 1, 2, 0, 0, 1, 1, 2, 2].to_vec(), [1, 12]);
    let prompt: Tensor<2, Int> = Tensor::from_data(prompt, &Device::flex());
    let (at_once, _) = model.predict(prompt.clone(), State::default());
    let (mut one_by_one, mut state) = (None, State::default());
    for token in prompt.split(1, 1) {
        let (logits, after) = model.predict(token, state);
        (one_by_one, state) = (Some(logits), after);
    }
    let values = |logits: Tensor<2>| -> Vec<f32> { logits.into_data().iter().collect() };
    let pairs = values(at_once).into_iter().zip(values(one_by_one.unwrap()));
    for (found, expected) in pairs {
        assert!((found - expected).abs() < 1e-2, "{found} {expected}");
    }
}

#[test]
#[should_panic(expected = "do not fit in a context of 12")]
fn a_text_longer_than_the_context_is_refused() {
    let model = build(Transformer::new, &config(), 0);
    let _ = model.forward(tokens(0..13), State::default());
}
