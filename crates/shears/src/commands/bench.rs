//! `shears bench`: times training steps, clipping, or generation.

mod parts;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum, ValueHint};
use serde_json::Value;
use shears_train::{Plan, Section, Setting, Spread};

use crate::exit::misuse;
use crate::output::say;
use crate::report;
use crate::settings::{Given, Scope, Settings};
use crate::table::{row, table};
use crate::world::{World, refuse_launcher};

/// Time training steps, clipping, or generation
///
/// `--part train`: full steps (forward, backward, clip, update) on random tokens, after a warm-up.
/// JSON keys: ms_per_step.{min,median,max}, phases.{forward,backward,clip,update}.{min,median,max},
/// tokens_per_second, peak_rss_bytes, memory_estimate_bytes. Under `mpirun`, a step is one of all
/// processes, ranks is their number, and phases.exchange the time of the exchange.
///
/// `--part clip`: the clipping policy and the optimizer on random gradients of the model, compared
/// with reading them once. `clip` measures and decides but leaves the scaling to the update;
/// `clip_in_place` also scales. JSON keys:
/// ms.{read,clip,clip_and_update,clip_in_place}.{min,median,max}, parameters, tensors.
///
/// `--part generate`: one text, token by token, at temperature 1, with an untrained model.
/// JSON keys: tokens_per_second.{min,median,max}, tokens, peak_rss_bytes.
///
/// All parts take the model settings of `shears train`, `train` and `clip` also optimizer and
/// clipping, and `train` also batches; as flags or in a config file.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct BenchArguments {
    /// What to time
    #[arg(long, value_enum, default_value_t = BenchPart::Train)]
    part: BenchPart,

    /// Size of the vocabulary; Tiny Shakespeare has 65 characters
    #[arg(long, value_name = "N", default_value_t = 65)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=999_999_999))]
    vocabulary: u32,

    /// Steps, rounds or tokens to time [default: 20; generate: the context length, or 500]
    #[arg(long, value_name = "N")]
    steps: Option<i64>,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Settings from a TOML file, which may be the plan of a run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: Settings<Timed>,
}

/// The settings that some part uses. Steps have another meaning and default here.
#[derive(Debug)]
struct Timed;

impl Scope for Timed {
    fn takes(setting: &Setting) -> bool {
        let mut parts = BenchPart::value_variants().iter();
        setting.name != "steps" && parts.any(|part| part.uses(setting))
    }
}

/// A part of the program that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BenchPart {
    /// Training steps
    Train,
    /// Clipping and update
    Clip,
    /// Generation
    Generate,
}

impl BenchPart {
    fn uses(self, setting: &Setting) -> bool {
        match (setting.section, setting.name.as_str()) {
            // The values of the weights do not affect the time.
            (_, "init-from") => false,
            (_, "dropout") => self == BenchPart::Train,
            (Section::Model, _) | (_, "window" | "steps" | "seed" | "device") => true,
            (Section::Batches | Section::Schedule, _) => self == BenchPart::Train,
            (Section::Optimizer, _) | (_, "clip" | "non-finite") => self != BenchPart::Generate,
            _ => false,
        }
    }
}

const EXAMPLES: &str = "Examples:
  shears bench --preset lstm-128 --threads 2
  shears bench --preset gpt-384 --batch 16 --steps 5 --json
  shears bench --part clip --preset gpt-384
  shears bench --part clip --preset gpt-384 --layers 12 --hidden 768 --heads 12 --window 1024 \
      --vocabulary 50257 --tied=false
  shears bench --part generate --preset lstm-512 --steps 300";

/// What is timed, and how.
struct Timing {
    plan: Plan,
    /// What `--steps` says, at least 1.
    steps: Option<u64>,
    threads: usize,
    vocabulary: usize,
}

/// What a part has measured.
struct Measured {
    /// For `--json`, without what all parts have.
    json: Value,
    /// What was timed.
    subject: String,
    unit: &'static str,
    spreads: Vec<(&'static str, Spread)>,
    /// What there is to say below the table.
    remarks: Vec<String>,
}

impl Measured {
    fn print(&self, timing: &Timing) {
        let (plan, threads) = (
            &timing.plan,
            report::counted(timing.threads as u64, "thread"),
        );
        say!(
            "{} ({}), {}, {threads}",
            plan.preset,
            plan.model,
            self.subject
        );
        let mut rows = vec![row([self.unit, "min", "median", "max"])];
        for (name, Spread { min, median, max }) in &self.spreads {
            let numbers = [min, median, max].map(|number| format!("{number:.3}"));
            rows.push([&[(*name).to_string()], numbers.as_slice()].concat());
        }
        for line in table("<>>>", &rows).iter().chain(&self.remarks) {
            say!("  {line}");
        }
    }
}

pub(crate) fn run(arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    if arguments.part != BenchPart::Train {
        refuse_launcher("bench --part clip or generate")?;
    }
    let world = World::find()?;
    let result = run_in(&world, arguments);
    world.end(result)
}

fn run_in(world: &World, arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    let BenchArguments {
        part, mut settings, ..
    } = arguments;
    if let Some(steps) = arguments.steps {
        settings.0.insert("steps".into(), steps.into());
    }
    let shown = part.to_possible_value();
    let command = format!(
        "bench --part {}",
        shown.as_ref().map_or("", |value| value.get_name())
    );
    let mut given = Given::read(settings.0, arguments.config.as_deref())?;
    given.restrict(&command, |setting| part.uses(setting))?;
    // Timing as many steps would take as long as the run.
    given.remove_if_of_a_run("steps");
    let plan = given.plan()?;
    if part != BenchPart::Train && plan.model.is_recurrent() && given.is_typed("window") {
        let model = plan.model;
        misuse!("{command} uses window for model transformer, not for {model}");
    }
    let timing = Timing {
        steps: given.has("steps").then_some(plan.steps),
        threads: super::set_threads(world.threads(arguments.threads))?,
        vocabulary: arguments.vocabulary as usize,
        plan,
    };
    let measured = match part {
        BenchPart::Train => parts::train(world, &timing)?,
        BenchPart::Clip => parts::clip(&timing)?,
        BenchPart::Generate => parts::generate(&timing)?,
    };
    match arguments.json {
        _ if !world.is_first() => {}
        true => {
            if part == BenchPart::Train {
                report::warn_of_bf16(&timing.plan);
            }
            let mut line = measured.json;
            line["part"] = shown.map(|value| value.get_name().to_string()).into();
            line["preset"] = timing.plan.preset.to_string().into();
            line["threads"] = timing.threads.into();
            say!("{line}");
        }
        false => measured.print(&timing),
    }
    Ok(ExitCode::SUCCESS)
}
