//! `shears inspect`: reports on a run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gradclip::{ClipAction, significant};
use gradclip_judge::statistics::{mean, share};
use shears_data::Tokenizer;
use shears_run::{
    Columns, EndReason, Event, Judgement, LockWatch, PLAN, Parameter, Subject, checkpoint_step,
    quoted,
};
use shears_train::{Plan, RunFolder};

use super::RunArgument;
use crate::model::edits;
use crate::output::{complain, one_line, say, wrapped};
use crate::report;
use crate::run_log::{self, without_header};
use crate::table::table;

/// Report on a run: settings, history, checkpoints, verdict on its clipping, advice for the next
/// run
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
    for (setting, was, is) in edits(&run, &plan) {
        let path = run.path().join(PLAN);
        let path = path.display();
        complain!("shears: warning: {path} was changed ({setting}: trained with {was}, now {is})");
    }
    let tokenizer = run.tokenizer()?;
    let columns = run_log::read(&run)?.columns;
    let store = run.checkpoints();
    if let Some(problem) = lost_lines(&columns, &store.list()?) {
        complain!("shears: warning: {}: {problem}", run.path().display());
    }
    let subject = Subject::of(run.path());
    let mut judgement = columns.judge(&subject);
    let goes_on = columns.end.is_none() && LockWatch::default().is_training(run.path());
    if columns.end.is_none() {
        judgement = judgement.without_end(goes_on, &subject);
    }
    let (best, passed_over) = store.best()?;
    for error in &passed_over {
        let others = match best {
            Some(_) => "the best of the others is reported",
            None => "no other one was evaluated",
        };
        complain!("shears: warning: {error}; {others}");
    }
    let inspected = Inspected {
        judgement,
        goes_on,
        checkpoints: store.list()?,
        best,
        run,
        plan,
        tokenizer,
        columns,
    };
    match arguments.json {
        true => say!("{}", inspected.json()),
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
    /// It is being trained right now.
    goes_on: bool,
}

impl Inspected {
    fn json(&self) -> serde_json::Value {
        let parameters = self
            .columns
            .header
            .as_ref()
            .map(|header| &header.parameters);
        let elements: Option<usize> =
            parameters.map(|parameters| parameters.iter().map(Parameter::elements).sum());
        let show = |path: &PathBuf| path.display().to_string();
        let store = self.run.checkpoints();
        let damaged = |path: &&PathBuf| store.damage(path).is_some();
        let end = self.columns.end.as_ref();
        let more = serde_json::json!({
            "end": end.map(|end| serde_json::json!({ "how": end.how, "message": end.message })),
            "plan": self.plan.with_sizes(),
            "tokenizer": self.tokenizer.describe(),
            "parameters": elements,
            "history": history(&self.columns),
            "resumes": self.columns.resumes,
            "changes": self.columns.changes,
            "ranks": self.columns.ranks,
            "exchange": self.columns.exchanged(),
            "checkpoints": self.checkpoints.iter().map(show).collect::<Vec<_>>(),
            "damaged_checkpoints":
                self.checkpoints.iter().filter(damaged).map(show).collect::<Vec<_>>(),
            "best_checkpoint": self.best.as_ref().map(show),
        });
        let mut object = self.judgement.json();
        if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    }

    /// How the run ended, or that it has not.
    fn ending(&self) -> String {
        let Some(end) = &self.columns.end else {
            let words = match self.goes_on {
                true => "it is being trained",
                false => "its log has no end: the run was killed, and can be resumed",
            };
            return words.to_string();
        };
        let how = match end.how {
            EndReason::Finished => "finished",
            EndReason::OutOfPatience => "ended because the validation loss no longer improved",
            EndReason::Stopped => "stopped on request, and can be resumed",
            EndReason::Diverged => "diverged",
            EndReason::Failed => "failed",
        };
        let message = end.message.iter().map(|message| format!(": {message}"));
        std::iter::once(how.to_string()).chain(message).collect()
    }

    fn print(&self) {
        let plan = &self.plan;
        let steps = self.columns.step.last().copied().unwrap_or(0);
        say!("run {}", self.run.path().display());
        let name = report::model_name(plan);
        say!("{name} ({})", self.tokenizer.describe());
        say!("{}\n", report::plan_lines(plan));
        if let Some(header) = &self.columns.header {
            let symbols = self.tokenizer.vocab_size();
            say!("{}", report::parameter_table(header, symbols));
        }
        if let Some(missing) = without_header(&self.columns, "table of parameters") {
            say!("{missing}");
        }
        let taken = format!(
            "{} of {} steps taken; {}",
            report::count(steps),
            report::count(plan.steps),
            self.ending()
        );
        say!("\n{}", wrapped(&taken, 2));
        for line in history_lines(&self.columns) {
            say!("  {line}");
        }
        for line in resume_lines(&self.columns)
            .into_iter()
            .chain(rank_lines(&self.columns))
        {
            say!("{}", wrapped(&line, 2));
        }
        say!("\ncheckpoints");
        for path in &self.checkpoints {
            let mark = match self.run.checkpoints().damage(path) {
                Some(error) => format!("  ({})", one_line(&error.to_string())),
                None if Some(path) == self.best.as_ref() => "  (best)".to_string(),
                None => String::new(),
            };
            say!("  {}{mark}", path.display());
        }
        if self.checkpoints.is_empty() {
            say!("  none yet");
        }
        say!("\nclipping with {}:", plan.clip);
        report::say_judgement(&self.judgement, true);
        if let Some(missing) = without_header(&self.columns, "flow of gradients through the layers")
        {
            say!("  {missing}");
        }
        let (program, run) = (report::program(), quoted(self.run.path()));
        say!("\nwhat other policies would have done: {program} replay {run} --clip POLICY");
    }
}

/// A warning about a log that ends before the newest checkpoint.
fn lost_lines(columns: &Columns, checkpoints: &[PathBuf]) -> Option<String> {
    let last = columns.step.last().copied().unwrap_or(0);
    let saved = checkpoint_step(checkpoints.last()?)?;
    (saved > last).then(|| {
        format!(
            "the log ends at step {last}, and there is a checkpoint of step {saved}: lines of the \
             log are lost, and this report covers only the others"
        )
    })
}

/// The evaluations, as events of the log.
fn history(columns: &Columns) -> Vec<Event> {
    let evaluations = columns.evaluations.iter().copied();
    evaluations.map(Event::Evaluation).collect()
}

/// The ranks that trained the run, and the time of their exchanges.
fn rank_lines(columns: &Columns) -> Vec<String> {
    let teams = columns.ranks.iter();
    let teams =
        teams.map(|team| format!("{} from step {} on", one_line(&team.words()), team.step + 1));
    let exchanges = columns.exchanged().map(|all| all.to_string());
    teams.chain(exchanges).collect()
}

/// Where the run was resumed, and which settings changed there.
fn resume_lines(columns: &Columns) -> Vec<String> {
    let resumes = columns.resumes.iter().map(|resume| {
        let from = match &resume.checkpoint {
            Some(_) => format!("at step {}", resume.step),
            None => "from its start".to_string(),
        };
        let version = one_line(&resume.version);
        (
            resume.step,
            0,
            format!("resumed {from}, {} (shears {version})", when(resume.time)),
        )
    });
    let changes = columns.changes.iter();
    let changes = changes.map(|c| (c.step, 1, format!("  changed {}", one_line(&c.to_string()))));
    let mut lines: Vec<(u64, u8, String)> = resumes.chain(changes).collect();
    // Several resumes from one step come before the changes at that step.
    lines.sort_by_key(|(step, kind, _)| (*step, *kind));
    lines.into_iter().map(|(.., line)| line).collect()
}

/// Seconds since 1970 as local date and time.
fn when(seconds: u64) -> String {
    let second = i64::try_from(seconds).ok();
    let time = second.and_then(|second| jiff::Timestamp::from_second(second).ok());
    match time {
        Some(time) => {
            let time = time.to_zoned(jiff::tz::TimeZone::system());
            time.strftime("%Y-%m-%d %H:%M").to_string()
        }
        None => "at an unknown time".to_string(),
    }
}

/// A loss with four decimals, unless it is absurdly large.
fn nats(loss: f64) -> String {
    match loss.abs() < 1e3 {
        true => format!("{loss:.4}"),
        false => report::short(loss),
    }
}

/// Training loss, norm and share of clipped steps over ten parts of the run.
fn history_lines(columns: &Columns) -> Vec<String> {
    let stretch = columns.rows().div_ceil(10).max(1);
    let starts = (0..columns.rows()).step_by(stretch);
    let line = |start: usize| {
        let rows = start..(start + stretch).min(columns.rows());
        let losses = columns.loss[rows.clone()].iter().copied().map(f64::from);
        let mean_loss = mean(losses.filter(|loss| loss.is_finite()));
        let mean_loss = mean_loss.map_or("not finite".to_string(), nats);
        let norms = &columns.norm_before[rows.clone()];
        let finite = norms.iter().copied().filter(|norm| norm.is_finite());
        let norm_max = match finite.reduce(f64::max) {
            Some(norm) => significant(norm),
            None => "unknown".to_string(),
        };
        let actions = &columns.action[rows.clone()];
        let share_of = |wanted| share(actions.iter().map(|action| *action == wanted));
        let (clipped, skipped) = (share_of(ClipAction::Clip), share_of(ClipAction::Skip));
        let (first, last) = (columns.step[start], columns.step[rows.end - 1]);
        let inside = |step: u64| (first..=last).contains(&step);
        let mut evaluations = columns.evaluations.iter().rev();
        let evaluated = evaluations
            .find(|evaluation| inside(evaluation.step))
            .map(|evaluation| format!("val {}", nats(evaluation.val_loss)));
        let mut cells = vec![
            match first == last {
                true => format!("step {first}"),
                false => format!("steps {first}-{last}"),
            },
            format!("loss {mean_loss}"),
            format!("norm max {norm_max}"),
            format!("clipped {}", report::percent(clipped)),
        ];
        if columns.action.contains(&ClipAction::Skip) {
            cells.push(format!("skipped {}", report::percent(skipped)));
        }
        cells.push(evaluated.unwrap_or_default());
        cells
    };
    table("<<<<<<", &starts.map(line).collect::<Vec<_>>())
}
