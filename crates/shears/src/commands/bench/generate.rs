//! Generation, token by token.

use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use shears_generate::{Generator, Sampler, SamplingSettings};
use shears_model::{LanguageModel, Reading};
use shears_train::{Spread, peak_rss_bytes};

use super::{Measured, Timing};
use crate::memory;
use crate::model::{device_of, model_of, of_generation};
use crate::report;

/// Default number of tokens for a model without a context length.
const TOKENS: usize = 500;

/// Timed texts, after one for warm-up.
const ROUNDS: u64 = 5;

pub(super) fn run(timing: &Timing) -> anyhow::Result<Measured> {
    let (plan, vocabulary) = (&timing.plan, timing.vocabulary);
    let memory = of_generation(plan, vocabulary, 1).total();
    memory::check("generation", "a smaller --hidden or --layers fits", memory)?;
    let device = &device_of(plan);
    let model = model_of(plan, vocabulary, device).for_generation();
    let asked = timing.steps.map(usize::try_from).transpose();
    let tokens = asked.context("--steps")?.unwrap_or(match model.reading() {
        Reading::Streams => TOKENS,
        Reading::Windows { context } => context,
    });
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let mut sampler = Sampler::new(SamplingSettings::at(1.0), round)?;
        let mut generator = Generator::new(&model, device);
        let started = Instant::now();
        generator.read(&[0])?;
        for _ in 0..tokens {
            generator.next(&mut sampler)?;
        }
        if round > 0 {
            rates.push(tokens as f64 / started.elapsed().as_secs_f64());
        }
    }
    let tokens_per_second = Spread::of(rates);
    let peak = peak_rss_bytes();
    let memory = peak.map(|peak| format!("peak memory {}", report::bytes(peak)));
    Ok(Measured {
        json: json!({
            "tokens": tokens,
            "tokens_per_second": tokens_per_second,
            "peak_rss_bytes": peak,
        }),
        subject: format!("{ROUNDS} texts of {tokens} tokens"),
        unit: "",
        spreads: vec![("tokens per second", tokens_per_second)],
        remarks: memory.into_iter().collect(),
    })
}
