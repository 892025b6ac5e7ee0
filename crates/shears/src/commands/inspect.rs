//! `shears inspect`: what a run is, and what became of it.

use std::process::ExitCode;

use burn::tensor::Device;
use shears_model::{LanguageModel, ParameterInfo, parameters};
use shears_train::{Event, RunFolder, gradient_flow, read_events, verdict};

use crate::arguments::InspectArguments;
use crate::model::{Work, device, with_model};
use crate::report;

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<ExitCode> {
    let run = RunFolder::open_to_read(&arguments.run)?;
    let plan = run.plan()?;
    let events = match run.events_path().exists() {
        true => read_events(&run.events_path())?,
        false => Vec::new(),
    };
    let tokenizer = run.tokenizer()?;
    let device: Device = device(&plan.device);
    let vocabulary = tokenizer.vocab_size();
    let parameters = with_model(
        &plan.model_config(),
        vocabulary,
        plan.seed,
        &device,
        Describe,
    );
    let verdict = verdict(&events);
    let flow = gradient_flow(&events, &parameters);
    let store = run.checkpoints();
    let (checkpoints, best) = (store.list(), store.best());

    if arguments.json {
        let mut object = report::verdict_json(verdict.as_ref(), &flow);
        object["plan"] = serde_json::to_value(&plan)?;
        object["tokenizer"] = tokenizer.describe().into();
        object["parameters"] = parameters
            .iter()
            .map(ParameterInfo::elements)
            .sum::<usize>()
            .into();
        object["history"] = serde_json::to_value(history(&events))?;
        object["checkpoints"] = checkpoints
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        object["best_checkpoint"] = best.map(|path| path.display().to_string()).into();
        println!("{object}");
        return Ok(ExitCode::SUCCESS);
    }

    let steps = events.iter().rev().map(Event::step).next().unwrap_or(0);
    println!("run {}", run.path().display());
    println!(
        "{} with tokenizer {}, preset {}",
        plan.model,
        tokenizer.describe(),
        plan.preset
    );
    println!("{}", report::plan_lines(&plan));
    println!("{}", report::parameter_table(&parameters, vocabulary));
    println!(
        "\n{} of {} steps taken",
        report::count(steps),
        report::count(plan.steps)
    );
    for line in history_lines(&events) {
        println!("  {line}");
    }
    println!("\ncheckpoints");
    for path in &checkpoints {
        let mark = if Some(path) == best.as_ref() {
            "  (best)"
        } else {
            ""
        };
        println!("  {}{mark}", path.display());
    }
    if checkpoints.is_empty() {
        println!("  none yet");
    }
    println!("\nclipping with {}:", plan.clip);
    println!("{}", report::verdict_lines(verdict.as_ref(), &flow));
    Ok(ExitCode::SUCCESS)
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
            Event::Evaluation { .. } => None,
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
