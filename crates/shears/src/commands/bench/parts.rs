//! The parts that can be timed.

use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use shears_generate::{Generator, Sampler, SamplingSettings};
use shears_model::{LanguageModel, Reading, parameters};
use shears_train::{Batches, Spread, Trainer, bench, bench_clip, estimate_memory, peak_rss_bytes};

use super::{Measured, Timing};
use crate::memory::{self, refuse_too_large};
use crate::model::{device_of, model_of, of_generation};
use crate::report::{bf16_line, bytes, count};
use crate::world::World;

/// Default number of timed steps or rounds.
const STEPS: u64 = 20;

/// Full training steps.
pub(super) fn train(world: &World, timing: &Timing) -> anyhow::Result<Measured> {
    let (plan, vocabulary) = (&timing.plan, timing.vocabulary);
    let device = &device_of(plan).autodiff();
    let model = model_of(plan, vocabulary, device);
    let ranks = world.ranks().size();
    let mut memory = estimate_memory(plan, &parameters(&model), vocabulary, ranks);
    // No checkpoint is saved.
    (memory.saving, memory.log) = (0, 0);
    let estimate = memory.total();
    refuse_too_large(estimate, world.local())?;
    let count = plan.batch * (8 * plan.window + 1) + 1;
    let tokens = random_tokens(count, vocabulary)[..].into();
    let batches = Batches::new(plan, model.reading(), tokens)?;
    let trainer = Trainer::new(plan.clone(), model, batches, timing.threads, device);
    let mut trainer = trainer
        .with_ranks(world.ranks())?
        .with_heartbeat(world.heartbeat());
    let report = bench(&mut trainer, timing.steps.unwrap_or(STEPS))?;
    let mut json = serde_json::to_value(&report)?;
    json["ranks"] = ranks.into();
    json["memory_estimate_bytes"] = estimate.into();
    let mut subject = format!(
        "batch {} x window {}, {} steps",
        plan.batch, plan.window, report.steps
    );
    if ranks > 1 {
        subject += &format!(", {ranks} ranks");
    }
    let phases = ["forward", "backward", "exchange", "clip", "update"].into_iter();
    let phases = phases.filter_map(|phase| Some((phase, *report.phases.get(phase)?)));
    let speed = format!("{:.0} tokens per second", report.tokens_per_second);
    let memory = report.peak_rss_bytes.map(|peak| {
        let [peak, estimate] = [peak, estimate].map(bytes);
        format!("peak memory {peak} (estimated {estimate})")
    });
    let remarks = [bf16_line(plan), Some(speed), memory];
    Ok(Measured {
        json,
        subject,
        unit: "ms per step",
        spreads: [("whole", report.ms_per_step)]
            .into_iter()
            .chain(phases)
            .collect(),
        remarks: remarks.into_iter().flatten().collect(),
    })
}

/// Clipping and update, compared with reading the gradients once.
pub(super) fn clip(timing: &Timing) -> anyhow::Result<Measured> {
    let (plan, vocabulary) = (&timing.plan, timing.vocabulary);
    let device = &device_of(plan).autodiff();
    let model = model_of(plan, vocabulary, device);
    let memory = estimate_memory(plan, &parameters(&model), vocabulary, 1);
    // The weights have the size of their gradients.
    let tensors = memory.gradients.saturating_mul(2);
    let bytes = tensors.saturating_add(memory.moments);
    memory::check("clipping", "a smaller --hidden or --layers fits", bytes)?;
    let rounds = timing.steps.unwrap_or(STEPS);
    let report = bench_clip(plan, model, timing.threads, device, rounds)?;
    let timed = [
        ("read", "read"),
        ("clip", "clip"),
        ("clip and update", "clip_and_update"),
        ("clip in place", "clip_in_place"),
    ];
    let ratio = report.ms["clip"].median / report.ms["read"].median;
    Ok(Measured {
        json: serde_json::to_value(&report)?,
        subject: format!(
            "{} and {}, {} parameters in {} tensors",
            plan.clip,
            plan.optimizer,
            count(report.parameters as u64),
            report.tensors
        ),
        unit: "ms",
        spreads: timed.map(|(name, key)| (name, report.ms[key])).to_vec(),
        remarks: vec![format!(
            "clipping takes {ratio:.2} times as long as reading"
        )],
    })
}

/// Default number of tokens for a model without a context length.
const TOKENS: usize = 500;

/// Timed texts, after one for warm-up.
const ROUNDS: u64 = 5;

/// Generation, token by token.
pub(super) fn generate(timing: &Timing) -> anyhow::Result<Measured> {
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
    let memory = peak.map(|peak| format!("peak memory {}", bytes(peak)));
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

/// Tokens without any pattern, the same at each call (Marsaglia's xorshift64).
fn random_tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % vocabulary as u64) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}
