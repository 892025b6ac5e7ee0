//! What is printed at the end of a run.

use std::time::Duration;

use serde_json::json;
use shears_run::{EndReason, Subject, quoted};
use shears_train::{End, Plan, RunFolder, STEPS_JUDGED, TrainError};

use super::arguments::Asked;
use crate::output::{say, wrapped};
use crate::report;
use crate::run_log;
use crate::watch::{Show, indent};

/// For how long a stopped run reads its log for a verdict: whoever stops it waits.
const PATIENCE: Duration = Duration::from_millis(300);

/// Prints the loss, what the model writes if it was trained to the end, the verdict and what to
/// type next.
pub(super) fn tell(
    end: &Result<End, TrainError>,
    folder: &RunFolder,
    asked: &Asked,
    plan: &Plan,
    step: u64,
    is_altered: bool,
    write: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let how = match end {
        Ok(end) => (*end).into(),
        Err(error) if error.is_divergence() => EndReason::Diverged,
        // The error itself says what happened.
        Err(_) => return Ok(()),
    };
    let is_whole = matches!(how, EndReason::Finished | EndReason::OutOfPatience);
    let sample = (is_whole && asked.show == Show::Text).then(write);
    if !matches!(asked.show, Show::Text | Show::Json) {
        return Ok(());
    }
    let patience = match how {
        EndReason::Stopped => PATIENCE,
        _ => Duration::MAX,
    };
    let log = run_log::read_within(folder, patience, STEPS_JUDGED)?;
    let columns = log.map(|log| log.columns);
    let judged = columns.as_ref().map(|columns| {
        let judgement = columns.judge(&Subject::of(folder.path()));
        (judgement, columns)
    });
    if asked.show == Show::Json {
        let line = match &judged {
            Some((judgement, columns)) => report::end_line(judgement, columns, how, folder.path())?,
            None => {
                let run = folder.path().display().to_string();
                json!({ "event": "end", "reason": how, "step": step, "run": run })
            }
        };
        say!("{line}");
        return Ok(());
    }
    let loss = judged
        .as_ref()
        .and_then(|(_, columns)| columns.evaluations.last());
    let loss = loss.map_or(String::new(), |last| match last.val_loss.is_finite() {
        true => format!(
            "; val loss {:.4} nats per token at step {} ({:.3} {}, perplexity {})",
            last.val_loss,
            last.step,
            last.bits_per_char,
            report::unit_of_bits(is_altered),
            report::perplexity(last.perplexity, 2)
        ),
        false => format!("; val loss not finite at step {}", last.step),
    });
    say!("\n{}", wrapped(&(ended(how, step, plan) + &loss), 0));
    let (program, run) = (report::program(), quoted(folder.path()));
    match sample {
        Some(Ok(text)) => {
            say!("\nit writes:\n{}", indent(&text));
            say!("  more: {program} generate {run}");
        }
        // The run itself ended well, and its verdict follows.
        Some(Err(error)) => say!("\nno sample: {error:#}"),
        None => {}
    }
    say!("");
    match &judged {
        Some((judgement, _)) => report::say_judgement(judgement, asked.outside.verbose),
        None => say!("its log is long; for the verdict: {program} inspect {run}"),
    }
    Ok(())
}

fn ended(how: EndReason, step: u64, plan: &Plan) -> String {
    let step = report::count(step);
    match how {
        EndReason::Finished => format!("finished after {step} steps"),
        EndReason::OutOfPatience => {
            let patience = plan.patience;
            format!("stopped at step {step}: {patience} evaluations in a row did not improve")
        }
        EndReason::Stopped => format!("stopped at step {step}; the run is saved"),
        EndReason::Diverged | EndReason::Failed => format!("ended at step {step}"),
    }
}
