//! Whole training steps.

use burn::tensor::Device;
use shears_model::{LanguageModel, parameters};
use shears_train::{Batches, BenchReport, Trainer, bench, estimate_memory};

use super::{STEPS, Timing, say_spreads};
use crate::memory::refuse_too_large;
use crate::model::{Work, with_model_to_train};
use crate::output::say;
use crate::report;
use crate::world::World;

pub(super) fn run(world: &World, timing: Timing) -> anyhow::Result<()> {
    let work = Bench(world, &timing);
    let (report, estimate) = with_model_to_train(&timing.plan, timing.vocabulary, work)?;
    if !world.is_first() {
        return Ok(());
    }
    let (plan, threads) = (&timing.plan, timing.threads);
    let ranks = world.ranks().size();
    if timing.json {
        let mut line = serde_json::to_value(&report)?;
        line["ranks"] = ranks.into();
        line["preset"] = plan.preset.to_string().into();
        line["threads"] = threads.into();
        line["memory_estimate_bytes"] = estimate.into();
        say!("{line}");
        return Ok(());
    }
    say!(
        "{} ({}), batch {} x window {}, {} threads, {} steps{}",
        plan.preset,
        plan.model,
        plan.batch,
        plan.window,
        threads,
        report.steps,
        match ranks {
            1 => String::new(),
            ranks => format!(", {ranks} ranks"),
        }
    );
    let phases = ["forward", "backward", "exchange", "clip", "update"];
    let phases = phases.into_iter();
    let phases = phases.filter_map(|phase| Some((phase, report.phases.get(phase)?)));
    let whole = [("whole", &report.ms_per_step)];
    say_spreads("ms a step", whole.into_iter().chain(phases));
    say!("  {:.0} tokens a second", report.tokens_per_second);
    if let Some(peak) = report.peak_rss_bytes {
        say!(
            "  peak memory {} (estimated {})",
            report::bytes(peak),
            report::bytes(estimate)
        );
    }
    Ok(())
}

struct Bench<'a>(&'a World, &'a Timing);

impl Work for Bench<'_> {
    type Output = anyhow::Result<(BenchReport, u64)>;

    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
        let (plan, vocabulary) = (&self.1.plan, self.1.vocabulary);
        let mut memory = estimate_memory(plan, &parameters(&model), vocabulary);
        // Nothing is saved.
        memory.saving = 0;
        let estimate = memory.total();
        refuse_too_large(estimate)?;
        let count = plan.batch * (8 * plan.window + 1) + 1;
        let tokens = random_tokens(count, vocabulary)[..].into();
        let batches = Batches::new(plan, model.reading(), tokens)?;
        let trainer = Trainer::new(plan.clone(), model, batches, self.1.threads, device);
        let mut trainer = trainer
            .with_ranks(self.0.ranks())?
            .with_heartbeat(self.0.heartbeat());
        Ok((
            bench(&mut trainer, self.1.steps.unwrap_or(STEPS))?,
            estimate,
        ))
    }
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
