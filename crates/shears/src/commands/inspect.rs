//! `shears inspect`: what a run is, and what became of it.

use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::Device;
use shears_data::Tokenizer;
use shears_model::{LanguageModel, ParameterInfo, parameters};
use shears_train::{Event, Plan, RunFolder};

use super::RunArgument;
use crate::model::{Work, device, with_model};
use crate::output::say;
use crate::report;
use clap::Args;

/// Show a run: settings, history, checkpoints, verdict on its clipping, advice for the next one
#[derive(Args, Debug)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<ExitCode> {
    let run = arguments.run.open()?;
    let plan = run.plan()?;
    let tokenizer = run.tokenizer()?;
    let events = run.events()?;
    let device: Device = device(&plan.device);
    let vocabulary = tokenizer.vocab_size();
    let parameters = with_model(
        &plan.model_config(),
        vocabulary,
        plan.seed,
        &device,
        Describe,
    );
    let store = run.checkpoints();
    let inspected = Inspected {
        judgement: report::Judgement::of(&events, &parameters),
        checkpoints: store.list(),
        best: store.best(),
        run,
        plan,
        tokenizer,
        events,
        parameters,
    };
    match arguments.json {
        true => say!("{}", inspected.json()?),
        false => inspected.print(),
    }
    Ok(ExitCode::SUCCESS)
}

struct Inspected {
    run: RunFolder,
    plan: Plan,
    tokenizer: Tokenizer,
    events: Vec<Event>,
    parameters: Vec<ParameterInfo>,
    checkpoints: Vec<PathBuf>,
    best: Option<PathBuf>,
    judgement: report::Judgement,
}

impl Inspected {
    fn json(&self) -> anyhow::Result<serde_json::Value> {
        let elements: usize = self.parameters.iter().map(ParameterInfo::elements).sum();
        let show = |path: &PathBuf| path.display().to_string();
        let mut object = self.judgement.json();
        object["plan"] = serde_json::to_value(&self.plan)?;
        object["tokenizer"] = self.tokenizer.describe().into();
        object["parameters"] = elements.into();
        object["history"] = serde_json::to_value(history(&self.events))?;
        object["checkpoints"] = self.checkpoints.iter().map(show).collect();
        object["best_checkpoint"] = self.best.as_ref().map(show).into();
        Ok(object)
    }

    fn print(&self) {
        let plan = &self.plan;
        let steps = self.events.iter().map(Event::step).max().unwrap_or(0);
        say!("run {}", self.run.path().display());
        say!(
            "{} ({}), preset {}",
            plan.model,
            self.tokenizer.describe(),
            plan.preset
        );
        say!("{}\n", report::plan_lines(plan));
        say!(
            "{}",
            report::parameter_table(&self.parameters, self.tokenizer.vocab_size())
        );
        say!(
            "\n{} of {} steps taken",
            report::count(steps),
            report::count(plan.steps)
        );
        for line in history_lines(&self.events) {
            say!("  {line}");
        }
        say!("\ncheckpoints");
        for path in &self.checkpoints {
            let mark = if Some(path) == self.best.as_ref() {
                "  (best)"
            } else {
                ""
            };
            say!("  {}{mark}", path.display());
        }
        if self.checkpoints.is_empty() {
            say!("  none yet");
        }
        say!("\nclipping with {}:", plan.clip);
        say!("{}", self.judgement.lines(&plan.clip));
        let (program, run) = (report::program(), self.run.path().display());
        say!("\nwhat another policy would have done: {program} replay {run} --clip POLICY");
    }
}

struct Describe;

impl Work for Describe {
    type Output = Vec<ParameterInfo>;

    fn with<M: LanguageModel>(self, model: M) -> Vec<ParameterInfo> {
        parameters(&model)
    }
}

fn history(events: &[Event]) -> Vec<&Event> {
    events
        .iter()
        .filter(|event| matches!(event, Event::Evaluation { .. }))
        .collect()
}

/// Training loss, norm and share of clipped steps over ten stretches of the run.
fn history_lines(events: &[Event]) -> Vec<String> {
    let steps: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step(step) => Some(step),
            _ => None,
        })
        .collect();
    let stretch = steps.len().div_ceil(10).max(1);
    let mut lines = Vec::new();
    for part in steps.chunks(stretch) {
        let losses: Vec<f64> = part.iter().filter_map(|step| step.loss).collect();
        let mean_loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let norm_max = part
            .iter()
            .map(|step| step.clip.norm_before)
            .fold(0.0, f64::max);
        let clipped = part
            .iter()
            .filter(|step| step.clip.action == "clip")
            .count();
        let (first, last) = (part[0].step, part[part.len() - 1].step);
        let evaluated = events.iter().rev().find_map(|event| match event {
            Event::Evaluation { step, val_loss, .. } if (first..=last).contains(step) => {
                Some(format!("  val {val_loss:.4}"))
            }
            _ => None,
        });
        lines.push(format!(
            "steps {first:>6}-{last:<6}  loss {mean_loss:.4}  norm max {norm_max:<9.3}  \
             clipped {:>3.0} %{}",
            100.0 * clipped as f64 / part.len() as f64,
            evaluated.unwrap_or_default(),
        ));
    }
    lines
}
