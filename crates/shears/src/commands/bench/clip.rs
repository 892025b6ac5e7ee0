//! Clipping and update, compared with reading the gradients once.

use shears_model::parameters;
use shears_train::{bench_clip, estimate_memory};

use super::{Measured, STEPS, Timing};
use crate::memory;
use crate::model::{device_of, model_of};
use crate::report::count;

pub(super) fn run(timing: &Timing) -> anyhow::Result<Measured> {
    let (plan, vocabulary) = (&timing.plan, timing.vocabulary);
    let device = &device_of(plan).autodiff();
    let model = model_of(plan, vocabulary, device);
    let memory = estimate_memory(plan, &parameters(&model), vocabulary);
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
