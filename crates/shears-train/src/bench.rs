//! Benchmarks of a training step and its phases.

mod clip;

use std::collections::BTreeMap;
use std::time::Duration;

use gradclip_judge::statistics::{quantile, sorted};
use serde::Serialize;
use shears_model::LanguageModel;

use crate::TrainError;
use crate::trainer::{PhaseTimes, Trainer};

pub use clip::{ClipBench, bench_clip};

/// Minimum, median and maximum of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// The spread of some values; NaN if there are none.
    pub fn of(values: Vec<f64>) -> Self {
        let values = sorted(values);
        let at = |share| quantile(&values, share).unwrap_or(f64::NAN);
        Spread {
            min: at(0.0),
            median: at(0.5),
            max: at(1.0),
        }
    }
}

/// The results of [`bench()`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Number of timed steps, after warm-up.
    pub steps: u64,
    /// Milliseconds per step.
    pub ms_per_step: Spread,
    /// Milliseconds per phase: `forward`, `backward`, `clip`, `update`; with several ranks
    /// `exchange`.
    pub phases: BTreeMap<&'static str, Spread>,
    /// Tokens per second, from the median time of a step.
    pub tokens_per_second: f64,
    /// Peak resident memory of the process in bytes; null if the system does not report it.
    pub peak_rss_bytes: Option<u64>,
}

/// Untimed steps, which fill caches and start the thread pool.
const WARMUP_STEPS: u64 = 3;

/// Times `steps` training steps.
pub fn bench<M: LanguageModel>(
    trainer: &mut Trainer<M>,
    steps: u64,
) -> Result<BenchReport, TrainError> {
    for _ in 0..WARMUP_STEPS {
        trainer.step()?;
    }
    let mut times = Vec::new();
    for _ in 0..steps {
        times.push(trainer.step()?.times);
    }
    let spread = |part: fn(&PhaseTimes) -> Duration| {
        Spread::of(
            times
                .iter()
                .map(|times| part(times).as_secs_f64() * 1e3)
                .collect(),
        )
    };
    let mut phases = BTreeMap::from([
        ("forward", spread(|times| times.forward)),
        ("backward", spread(|times| times.backward)),
        ("clip", spread(|times| times.clip)),
        ("update", spread(|times| times.update)),
    ]);
    if trainer.ranks().size() > 1 {
        phases.insert("exchange", spread(|times| times.exchange));
    }
    let ms_per_step = spread(PhaseTimes::total);
    let tokens = trainer.plan().tokens_per_step() as f64;
    Ok(BenchReport {
        steps,
        ms_per_step,
        phases,
        tokens_per_second: tokens / (ms_per_step.median / 1e3),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// Peak resident memory of this process in bytes, if the system reports it (Linux).
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
