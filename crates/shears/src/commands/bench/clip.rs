//! Clipping and update, beside one read of the gradients.

use burn::tensor::Device;
use shears_model::{LanguageModel, parameters};
use shears_train::{ClipBench, bench_clip, estimate_memory};

use super::{STEPS, Timing, say_spreads};
use crate::memory;
use crate::model::{Work, with_model_to_train};
use crate::output::say;

pub(super) fn run(timing: Timing) -> anyhow::Result<()> {
    let report = with_model_to_train(&timing.plan, timing.vocabulary, Bench(&timing))?;
    let (plan, threads) = (&timing.plan, timing.threads);
    if timing.json {
        let mut line = serde_json::to_value(&report)?;
        line["part"] = "clip".into();
        line["preset"] = plan.preset.to_string().into();
        line["threads"] = threads.into();
        say!("{line}");
        return Ok(());
    }
    say!(
        "{} ({}), {} and {}, {} parameters in {} tensors, {threads} threads",
        plan.preset,
        plan.model,
        plan.clip,
        plan.optimizer,
        report.parameters,
        report.tensors
    );
    let timed = [
        ("read", "read"),
        ("clip", "clip"),
        ("clip and update", "clip_and_update"),
        ("clip in place", "clip_in_place"),
    ];
    say_spreads("ms", timed.map(|(name, key)| (name, &report.ms[key])));
    let ratio = report.ms["clip"].median / report.ms["read"].median;
    say!("  clipping takes {ratio:.2} times as long as reading");
    Ok(())
}

struct Bench<'a>(&'a Timing);

impl Work for Bench<'_> {
    type Output = anyhow::Result<ClipBench>;

    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
        let plan = &self.0.plan;
        let memory = estimate_memory(plan, &parameters(&model), self.0.vocabulary);
        // The weights have the size of their gradients.
        let tensors = memory.gradients.saturating_mul(2);
        let bytes = tensors.saturating_add(memory.moments);
        memory::check("clipping", "a smaller --hidden or --layers fits", bytes)?;
        let (threads, rounds) = (self.0.threads, self.0.steps.unwrap_or(STEPS));
        Ok(bench_clip(plan, model, threads, device, rounds)?)
    }
}
