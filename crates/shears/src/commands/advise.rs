//! `shears advise`: what to clip with next time.

use std::process::ExitCode;

use gradclip_judge::Advice;
use shears_train::{Event, RunFolder, StepEvent};

use crate::arguments::AdviseArguments;
use crate::exit::Misuse;
use crate::output::print_result;
use crate::report;

pub(crate) fn run(arguments: &AdviseArguments) -> anyhow::Result<ExitCode> {
    let run = RunFolder::open_to_read(&arguments.run)?;
    let plan = run.plan()?;
    let path = arguments.run.display();
    let events = run.events()?;
    let steps: Vec<&StepEvent> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step(step) => Some(step),
            _ => None,
        })
        .collect();
    let clipped = steps.iter().filter(|step| step.clip.action == "clip");
    let cosines: Vec<f64> = clipped.map(|step| step.clip.cosine).collect();
    let cosine = (!cosines.is_empty()).then(|| cosines.iter().sum::<f64>() / cosines.len() as f64);
    let advice = Advice::of(steps.iter().map(|step| step.clip.record()), cosine)
        .ok_or_else(|| Misuse(format!("{path}: no step was taken yet")))?;
    if arguments.json {
        let object = serde_json::json!({
            "policy": advice.policy,
            "reasons": advice.reasons,
            "trained_with": plan.clip.to_string(),
            "steps": steps.len(),
        });
        print_result(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    print_result(&format!(
        "{path}: {} steps, clipped with {}\n{advice}",
        report::count(steps.len() as u64),
        plan.clip
    ))?;
    let program = report::program();
    print_result(&format!(
        "\nto see what it would have done: {program} replay {path} --policy {}",
        advice.policy
    ))?;
    Ok(ExitCode::SUCCESS)
}
