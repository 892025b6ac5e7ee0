//! `shears bench`: how long a training step, clipping, or generation takes.

mod clip;
mod generate;
mod train;

use std::process::ExitCode;

use burn::tensor::Device;
use shears_train::{Plan, Spread};

use crate::arguments::{BenchArguments, BenchPart};
use crate::model::{Work, device, with_model};
use crate::output::say;
use crate::settings;

/// Steps or rounds that are timed unless `--steps` says otherwise.
const STEPS: u64 = 20;

/// What is timed, and how.
struct Setting {
    plan: Plan,
    /// What `--steps` says, at least 1.
    steps: Option<u64>,
    threads: usize,
    vocabulary: usize,
    /// Outside automatic differentiation.
    device: Device,
    json: bool,
}

pub(crate) fn run(arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    let BenchArguments {
        part,
        vocabulary,
        train,
    } = arguments;
    let train = settings::with_config_file(train)?;
    let plan = settings::resolve(&train)?;
    let setting = Setting {
        steps: train.steps,
        threads: super::set_threads(train.threads)?,
        vocabulary: vocabulary as usize,
        device: device(&plan.device),
        json: train.json,
        plan,
    };
    match part {
        BenchPart::Train => train::run(setting)?,
        BenchPart::Clip => clip::run(setting)?,
        BenchPart::Generate => generate::run(setting)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Setting {
    /// Builds the model, for training or not, and does the work with it.
    fn with_model<W: Work>(&self, device: &Device, work: W) -> W::Output {
        let config = self.plan.model_config();
        with_model(&config, self.vocabulary, self.plan.seed, device, work)
    }
}

fn say_head(unit: &str) {
    let (min, median, max) = ("min", "median", "max");
    say!("  {unit:<16} {min:>10} {median:>10} {max:>10}");
}

fn say_spread(name: &str, spread: &Spread) {
    let Spread { min, median, max } = spread;
    say!("  {name:<16} {min:>10.3} {median:>10.3} {max:>10.3}");
}
