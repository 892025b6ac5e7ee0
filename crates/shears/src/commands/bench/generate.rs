//! Generation, token by token.

use std::time::Instant;

use anyhow::Context;
use burn::tensor::Device;
use shears_generate::{Generator, Sampler, SamplingSettings};
use shears_model::{LanguageModel, Reading, parameters};
use shears_train::{Spread, estimate_generation, peak_rss_bytes};

use super::{Timing, say_spreads};
use crate::memory;
use crate::model::{Work, with_model};
use crate::output::say;
use crate::report;

/// Tokens of a text by a model that has no context, unless `--steps` says otherwise.
const TOKENS: usize = 500;

/// Texts that are timed, after one that is not.
const ROUNDS: u64 = 5;

pub(super) fn run(timing: Timing) -> anyhow::Result<()> {
    let (tokens, tokens_per_second) = with_model(&timing.plan, timing.vocabulary, Bench(&timing))?;
    let (plan, threads) = (&timing.plan, timing.threads);
    if timing.json {
        let line = serde_json::json!({
            "part": "generate",
            "preset": plan.preset.to_string(),
            "threads": threads,
            "tokens": tokens,
            "tokens_per_second": tokens_per_second,
            "peak_rss_bytes": peak_rss_bytes(),
        });
        say!("{line}");
        return Ok(());
    }
    say!(
        "{} ({}), {threads} threads, {ROUNDS} texts of {tokens} tokens",
        plan.preset,
        plan.model
    );
    say_spreads("", [("tokens a second", &tokens_per_second)]);
    if let Some(peak) = peak_rss_bytes() {
        say!("  peak memory {}", report::bytes(peak));
    }
    Ok(())
}

struct Bench<'a>(&'a Timing);

impl Work for Bench<'_> {
    type Output = anyhow::Result<(usize, Spread)>;

    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
        let (parameters, vocabulary) = (parameters(&model), self.0.vocabulary);
        let memory = estimate_generation(&self.0.plan, &parameters, vocabulary, 1).total();
        memory::check("generation", "a smaller --hidden or --layers fits", memory)?;
        let asked = self.0.steps.map(usize::try_from).transpose();
        let tokens = asked.context("--steps")?.unwrap_or(match model.reading() {
            Reading::Streams => TOKENS,
            Reading::Windows { context } => context,
        });
        let model = model.for_generation();
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
        Ok((tokens, Spread::of(rates)))
    }
}
