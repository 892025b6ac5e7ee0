//! Full training steps.

use shears_model::{LanguageModel, parameters};
use shears_train::{Batches, Trainer, bench, estimate_memory};

use super::{Measured, STEPS, Timing};
use crate::memory::refuse_too_large;
use crate::model::{device_of, model_of};
use crate::report;
use crate::world::World;

pub(super) fn run(world: &World, timing: &Timing) -> anyhow::Result<Measured> {
    let (plan, vocabulary) = (&timing.plan, timing.vocabulary);
    let device = &device_of(plan).autodiff();
    let model = model_of(plan, vocabulary, device);
    let mut memory = estimate_memory(plan, &parameters(&model), vocabulary);
    // No checkpoint is saved.
    memory.saving = 0;
    let estimate = memory.total();
    refuse_too_large(estimate)?;
    let count = plan.batch * (8 * plan.window + 1) + 1;
    let tokens = random_tokens(count, vocabulary)[..].into();
    let batches = Batches::new(plan, model.reading(), tokens)?;
    let trainer = Trainer::new(plan.clone(), model, batches, timing.threads, device);
    let mut trainer = trainer
        .with_ranks(world.ranks())?
        .with_heartbeat(world.heartbeat());
    let report = bench(&mut trainer, timing.steps.unwrap_or(STEPS))?;
    let ranks = world.ranks().size();
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
        let [peak, estimate] = [peak, estimate].map(report::bytes);
        format!("peak memory {peak} (estimated {estimate})")
    });
    Ok(Measured {
        json,
        subject,
        unit: "ms a step",
        spreads: [("whole", report.ms_per_step)]
            .into_iter()
            .chain(phases)
            .collect(),
        remarks: [speed].into_iter().chain(memory).collect(),
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
