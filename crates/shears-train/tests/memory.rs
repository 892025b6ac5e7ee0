//! What training takes is what was estimated before. A binary of its own: its size is part of the
//! peaks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::Device;
use shears_data::Tokens;
use shears_model::{
    Architecture, Initializer, LanguageModel, ModelConfig, RecurrentModel, Transformer, lstm,
    parameters,
};
use shears_train::{
    Batches, Plan, Preset, Streams, Trainer, estimate_memory, evaluate, peak_rss_bytes,
};
use std::process::Command;

/// Preset, batch, vocabulary: where training takes the most, and where an evaluation does.
const CASES: [(&str, usize, usize); 4] = [
    ("lstm-128", 50, 65),
    ("lstm-128", 1, 50_257),
    ("gpt-128", 12, 65),
    ("gpt-128", 1, 50_257),
];

/// The variable that tells a process which case is its own.
const CASE: &str = "SHEARS_MEMORY_CASE";

/// Peaks are of a process, so that each case has one: this test, started again.
#[test]
fn estimates_are_within_a_sixth_of_the_peaks() {
    if let Ok(case) = std::env::var(CASE) {
        let (preset, batch, vocabulary) = CASES[case.parse::<usize>().unwrap()];
        let plan = Plan {
            batch,
            ..preset.parse::<Preset>().unwrap().plan()
        };
        return match plan.model {
            Architecture::Transformer => check::<Transformer>(Transformer::new, &plan, vocabulary),
            _ => check::<RecurrentModel>(lstm, &plan, vocabulary),
        };
    }
    for (number, case) in CASES.iter().enumerate() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["estimates_are_within_a_sixth_of_the_peaks", "--nocapture"]);
        let status = again.env(CASE, number.to_string()).status().unwrap();
        assert!(status.success(), "{case:?}");
    }
}

/// Trains for three steps, looks at an update, and evaluates.
fn check<M: LanguageModel>(
    new: fn(usize, &ModelConfig, &mut Initializer) -> M,
    plan: &Plan,
    vocabulary: usize,
) {
    let device = Device::flex().autodiff();
    let mut initializer = Initializer::new(plan.seed, &device);
    let model = new(vocabulary, &plan.model_config(), &mut initializer);
    let estimate = estimate_memory(plan, &parameters(&model), vocabulary).unwrap();
    let tokens = (0..10_000).map(|place: usize| (place * place % vocabulary) as u32);
    let tokens: Tokens = tokens.collect::<Vec<u32>>()[..].into();
    let batches = Batches::new(plan, model.reading(), tokens.clone()).unwrap();
    let mut trainer = Trainer::new(plan.clone(), model, batches, 2, &device);
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    trainer.weigh_next_update();
    trainer.step().unwrap();
    let trained = peak_rss_bytes();
    let (model, plain) = (trainer.model().valid(), device.without_autodiff());
    evaluate(&model, &tokens, tokens.len(), Streams::default(), &plain).unwrap();
    // Systems that do not tell have nothing to compare.
    let Some(peak) = peak_rss_bytes() else { return };
    let (name, total) = (plan.preset, estimate.total());
    println!("{name} {vocabulary}: {trained:?} {peak} {total} {estimate:?}");
    let ratio = peak as f64 / total as f64;
    assert!((5.0 / 6.0..=7.0 / 6.0).contains(&ratio), "{name}: {ratio}");
}
