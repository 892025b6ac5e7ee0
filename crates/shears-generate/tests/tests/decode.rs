//! Decoding with carried state reads each token once and matches recomputing from scratch.

use burn::tensor::{Device, Int, Tensor, TensorData};
use shears_generate::{GenerateError, Generator, Sampler};
use shears_model::{Architecture, LanguageModel, State, Transformer};

use crate::models::{self, Counting, GREEDY, PLAIN, VOCABULARY, random};

/// The logits after each token of a text, read in a single call.
fn logits_at_once<M: LanguageModel>(model: &M, text: &[u32]) -> Vec<Vec<f32>> {
    let ids: Vec<i64> = text.iter().map(|&token| i64::from(token)).collect();
    let ids = TensorData::new(ids, [1, text.len()]);
    let ids = Tensor::<2, Int>::from_data(ids, &Device::default());
    let (logits, _) = model.forward(ids, State::default());
    let logits = logits.try_into_vec_as::<f32>().unwrap();
    logits.chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5,
            "{found} is not {expected}"
        );
    }
}

fn some_text(length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|index| (index * index + 3 * index / 2) % VOCABULARY as u32)
        .collect()
}

/// Samples `tokens` tokens after a prompt.
fn sampled<M: LanguageModel>(model: &M, prompt: &[u32], tokens: usize, seed: u64) -> Vec<u32> {
    let mut generator = Generator::new(model, &Device::default());
    let mut sampler = Sampler::new(PLAIN, seed).unwrap();
    generator.read(prompt).unwrap();
    (0..tokens)
        .map(|_| generator.next(&mut sampler).unwrap())
        .collect()
}

/// What holds for every model within its context.
fn check_model<M: LanguageModel + burn::module::ModuleDisplay>(model: M) {
    let text = some_text(30);
    let expected = logits_at_once(&model, &text);
    for prompt in [1, 2, 17, 30] {
        let mut generator = Generator::new(&model, &Device::default());
        generator.read(&text[..prompt]).unwrap();
        assert_close(generator.logits().unwrap(), &expected[prompt - 1]);
        for (index, &token) in text.iter().enumerate().skip(prompt) {
            generator.read(&[token]).unwrap();
            assert_close(generator.logits().unwrap(), &expected[index]);
        }
    }

    let model = Counting::new(model);
    sampled(&model, &text[..10], 20, 5);
    // The last token is sampled but never read.
    assert_eq!(model.reads(), 10 + 20 - 1);

    let [a, again, b] = [5, 5, 6].map(|seed| sampled(&model, &text[..10], 20, seed));
    assert_eq!(a, again);
    assert_ne!(a, b);
    check_sampled_tokens_are_read(&model);
}

/// Greedy decoding with carried state matches rereading the whole text for each token.
fn check_sampled_tokens_are_read<M: LanguageModel>(model: &M) {
    let mut sampler = Sampler::new(GREEDY, 0).unwrap();
    let mut generator = Generator::new(model, &Device::default());
    let mut text = some_text(4);
    generator.read(&text).unwrap();
    for _ in 0..20 {
        let logits = logits_at_once(model, &text);
        text.push(sampler.sample(&logits[text.len() - 1], &[]).unwrap());
        assert_eq!(generator.next(&mut sampler).unwrap(), text[text.len() - 1]);
    }
}

#[test]
fn rnn() {
    check_model(random(shears_model::rnn, Architecture::Rnn, 0));
}

#[test]
fn lstm() {
    check_model(random(shears_model::lstm, Architecture::Lstm, 0));
}

#[test]
fn gru() {
    check_model(random(shears_model::gru, Architecture::Gru, 0));
}

#[test]
fn transformer() {
    check_model(random(Transformer::new, Architecture::Transformer, 30));
}

#[test]
fn llama() {
    check_model(models::llama(30));
}

#[test]
fn a_long_prompt_of_a_recurrent_model_is_read_in_chunks() {
    let model = Counting::new(random(shears_model::gru, Architecture::Gru, 0));
    let text = some_text(600);
    let expected = logits_at_once(&model, &text);
    let mut generator = Generator::new(&model, &Device::default());
    generator.read(&text).unwrap();
    assert_close(generator.logits().unwrap(), &expected[599]);
    assert_eq!(model.reads(), 600 + 600);
}

#[test]
fn a_full_context_restarts_from_its_last_half() {
    let model = Counting::new(random(Transformer::new, Architecture::Transformer, 8));
    let mut generator = Generator::new(&model, &Device::default());
    let mut sampler = Sampler::new(PLAIN, 1).unwrap();
    let mut text = some_text(3);
    generator.read(&text).unwrap();
    // Eight tokens fit. The ninth keeps the last four, which are read again; then four more fit.
    let windows = [3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5];
    let mut reads = 3;
    for (index, window) in windows.into_iter().enumerate() {
        let restarted = index > 0 && window == 4 && windows[index - 1] == 8;
        if index > 0 {
            reads += if restarted { 4 } else { 1 };
        }
        generator.logits().unwrap();
        assert_eq!(model.reads(), reads, "after {} tokens", text.len());
        let expected = logits_at_once(&model.clone(), &text[text.len() - window..]);
        reads += window; // the clone shares the counter
        assert_close(generator.logits().unwrap(), &expected[window - 1]);
        text.push(generator.next(&mut sampler).unwrap());
    }
}

#[test]
fn no_token_is_read_more_than_twice() {
    for context in [1, 2, 3, 7, 16] {
        let model = Counting::new(random(Transformer::new, Architecture::Transformer, context));
        let tokens = 200;
        sampled(&model, &[1], tokens, 9);
        let restart = (context / 2).max(1);
        // Every restart reads `restart` tokens, one of them for the first time.
        let restarts = (tokens - context).div_ceil(context - restart + 1);
        assert_eq!(
            model.reads(),
            tokens + restarts * (restart - 1),
            "context {context}"
        );
        assert!(model.reads() <= 2 * tokens);
    }
}

#[test]
fn a_prompt_beyond_the_context_matches_reading_it_token_by_token() {
    let gpt = |context| random(Transformer::new, Architecture::Transformer, context);
    let models = [1, 2, 5, 8].map(gpt).into_iter().zip([1, 2, 5, 8]);
    for (model, context) in models.chain([(models::llama(5), 5)]) {
        let model = Counting::new(model);
        for length in 1..40 {
            let text = some_text(length);
            let mut one_by_one = Generator::new(&model, &Device::default());
            for token in &text {
                one_by_one.read(&[*token]).unwrap();
            }
            let before = model.reads();
            let mut at_once = Generator::new(&model, &Device::default());
            at_once.read(&text).unwrap();
            assert!(model.reads() - before <= context);
            assert_close(at_once.logits().unwrap(), one_by_one.logits().unwrap());
            let mut in_two = Generator::new(&model, &Device::default());
            in_two.read(&text[..length / 3]).unwrap();
            in_two.read(&text[length / 3..]).unwrap();
            assert_close(in_two.logits().unwrap(), one_by_one.logits().unwrap());
        }
    }
}

#[test]
fn generation_continues_far_beyond_the_context() {
    let model = random(Transformer::new, Architecture::Transformer, 100);
    let text = sampled(&model, &[1], 1000, 2);
    assert_eq!(text.len(), 1000);
}

#[test]
fn sampling_before_reading_is_an_error() {
    let model = random(shears_model::rnn, Architecture::Rnn, 0);
    let mut generator = Generator::new(&model, &Device::default());
    let mut sampler = Sampler::new(PLAIN, 0).unwrap();
    assert_eq!(
        generator.next(&mut sampler),
        Err(GenerateError::NothingRead)
    );
    generator.read(&[]).unwrap();
    assert_eq!(generator.logits().unwrap_err(), GenerateError::NothingRead);
    generator.read(&[1]).unwrap();
    assert!(generator.next(&mut sampler).is_ok());
}
