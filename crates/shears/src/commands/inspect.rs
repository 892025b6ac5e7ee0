//! `shears inspect`: what a run is, and what became of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gradclip::ClipAction;
use gradclip_judge::statistics::{mean, share};
use shears_data::Tokenizer;
use shears_run::{Columns, Event, Judgement, Parameter, Subject};
use shears_train::{Plan, RunFolder};

use super::RunArgument;
use crate::output::say;
use crate::report;
use crate::run_log::{self, without_header};

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
    let columns = run_log::read(&run)?.columns;
    let store = run.checkpoints();
    let inspected = Inspected {
        judgement: columns.judge(&Subject::of(run.path())),
        checkpoints: store.list()?,
        best: store.best()?,
        run,
        plan,
        tokenizer,
        columns,
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
    columns: Columns,
    checkpoints: Vec<PathBuf>,
    best: Option<PathBuf>,
    judgement: Judgement,
}

impl Inspected {
    fn json(&self) -> anyhow::Result<serde_json::Value> {
        let parameters = self
            .columns
            .header
            .as_ref()
            .map(|header| &header.parameters);
        let elements: Option<usize> =
            parameters.map(|parameters| parameters.iter().map(Parameter::elements).sum());
        let show = |path: &PathBuf| path.display().to_string();
        let mut object = self.judgement.json();
        object["plan"] = serde_json::to_value(&self.plan)?;
        object["tokenizer"] = self.tokenizer.describe().into();
        object["parameters"] = elements.into();
        object["history"] = serde_json::to_value(history(&self.columns))?;
        object["checkpoints"] = self.checkpoints.iter().map(show).collect();
        object["best_checkpoint"] = self.best.as_ref().map(show).into();
        Ok(object)
    }

    fn print(&self) {
        let plan = &self.plan;
        let steps = self.columns.step.last().copied().unwrap_or(0);
        say!("run {}", self.run.path().display());
        say!(
            "{} ({}), preset {}",
            plan.model,
            self.tokenizer.describe(),
            plan.preset
        );
        say!("{}\n", report::plan_lines(plan));
        if let Some(header) = &self.columns.header {
            let symbols = self.tokenizer.vocab_size();
            say!("{}", report::parameter_table(&header.parameters, symbols));
        }
        if let Some(missing) = without_header(&self.columns, "table of parameters") {
            say!("{missing}");
        }
        say!(
            "\n{} of {} steps taken",
            report::count(steps),
            report::count(plan.steps)
        );
        for line in history_lines(&self.columns) {
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
        for line in self.judgement.lines() {
            say!("  {line}");
        }
        if let Some(missing) = without_header(&self.columns, "flow of gradients through the layers")
        {
            say!("  {missing}");
        }
        let (program, run) = (report::program(), self.run.path().display());
        say!("\nwhat another policy would have done: {program} replay {run} --clip POLICY");
    }
}

/// The evaluations as the log has them.
fn history(columns: &Columns) -> Vec<Event> {
    let evaluations = columns.evaluations.iter();
    let event = |evaluation: &shears_run::Evaluation| Event::Evaluation {
        step: evaluation.step,
        val_loss: evaluation.val_loss,
        bits_per_char: evaluation.bits_per_char,
        perplexity: evaluation.perplexity,
    };
    evaluations.map(event).collect()
}

/// Training loss, norm and share of clipped steps over ten stretches of the run.
fn history_lines(columns: &Columns) -> Vec<String> {
    let stretch = columns.rows().div_ceil(10).max(1);
    let starts = (0..columns.rows()).step_by(stretch);
    let line = |start: usize| {
        let rows = start..(start + stretch).min(columns.rows());
        let losses = columns.loss[rows.clone()].iter().copied().map(f64::from);
        let mean_loss = mean(losses.filter(|loss| loss.is_finite())).unwrap_or(f64::NAN);
        let norms = &columns.norm_before[rows.clone()];
        let finite = norms.iter().copied().filter(|norm| norm.is_finite());
        let norm_max = match finite.reduce(f64::max) {
            Some(norm) => format!("{norm:.3}"),
            None => "none".to_string(),
        };
        let actions = &columns.action[rows.clone()];
        let clipped = share(actions.iter().map(|action| *action == ClipAction::Clip));
        let (first, last) = (columns.step[start], columns.step[rows.end - 1]);
        let inside = |step: u64| (first..=last).contains(&step);
        let mut evaluations = columns.evaluations.iter().rev();
        let evaluated = evaluations
            .find(|evaluation| inside(evaluation.step))
            .map(|evaluation| format!("  val {:.4}", evaluation.val_loss));
        format!(
            "steps {first:>6}-{last:<6}  loss {mean_loss:.4}  norm max {norm_max:<9}  \
             clipped {:>3.0} %{}",
            100.0 * clipped,
            evaluated.unwrap_or_default(),
        )
    };
    starts.map(line).collect()
}
