//! `shears bench`: how long a training step takes.

use std::process::ExitCode;
use std::sync::Arc;

use burn::tensor::Device;
use shears_model::{LanguageModel, parameters};
use shears_train::{Batches, BenchReport, Plan, TrainError, Trainer, bench, estimate_memory};

use crate::arguments::BenchArguments;
use crate::model::{Work, device, with_model};
use crate::output::say;
use crate::report;
use crate::settings;

/// The size of the vocabulary: that of Tiny Shakespeare's characters.
const VOCABULARY: usize = 65;

/// Steps that are timed unless `--steps` says otherwise.
const STEPS: u64 = 20;

pub(crate) fn run(arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    let arguments = settings::with_config_file(arguments.train)?;
    let plan = settings::resolve(&arguments)?;
    let threads = super::set_threads(arguments.threads)?;
    let device = device(&plan.device).autodiff();
    let steps = arguments.steps.unwrap_or(STEPS);
    let work = Bench {
        plan: plan.clone(),
        steps,
        threads,
        device: device.clone(),
    };
    let (report, estimate) =
        with_model(&plan.model_config(), VOCABULARY, plan.seed, &device, work)?;
    if arguments.json {
        let mut line = serde_json::to_value(&report)?;
        line["preset"] = plan.preset.to_string().into();
        line["threads"] = threads.into();
        line["memory_estimate_bytes"] = estimate.into();
        say!("{line}");
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "{} ({}), batch {} x window {}, {} threads, {} steps",
        plan.preset,
        plan.model,
        plan.batch,
        plan.window,
        threads,
        report.steps
    );
    let whole = &report.ms_per_step;
    say!(
        "  {:<10} {:>10} {:>10} {:>10}",
        "ms a step",
        "min",
        "median",
        "max"
    );
    say!(
        "  {:<10} {:>10.3} {:>10.3} {:>10.3}",
        "whole",
        whole.min,
        whole.median,
        whole.max
    );
    for phase in ["forward", "backward", "clip", "update"] {
        let spread = &report.phases[phase];
        say!(
            "  {phase:<10} {:>10.3} {:>10.3} {:>10.3}",
            spread.min,
            spread.median,
            spread.max
        );
    }
    say!("  {:.0} tokens a second", report.tokens_per_second);
    if let Some(peak) = report.peak_rss_bytes {
        say!(
            "  peak memory {} (estimated {})",
            report::bytes(peak),
            report::bytes(estimate)
        );
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    plan: Plan,
    steps: u64,
    threads: usize,
    device: Device,
}

impl Work for Bench {
    type Output = Result<(BenchReport, u64), TrainError>;

    fn with<M: LanguageModel>(self, model: M) -> Self::Output {
        let Bench {
            plan,
            steps,
            threads,
            device,
        } = self;
        let estimate = estimate_memory(&plan, &parameters(&model), VOCABULARY)?.total();
        let tokens: Arc<[u32]> = random_tokens(plan.batch * (8 * plan.window + 1) + 1).into();
        let batches = Batches::new(&plan, model.reading(), tokens)?;
        let mut trainer = Trainer::new(plan, model, batches, threads, &device);
        Ok((bench(&mut trainer, steps)?, estimate))
    }
}

/// Tokens without any pattern, the same at each call (Marsaglia's xorshift64).
fn random_tokens(count: usize) -> Vec<u32> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % VOCABULARY as u64) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}
