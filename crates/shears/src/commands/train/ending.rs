//! What is told at the end of a run.

use shears_run::{EndReason, Subject, quoted};
use shears_train::{End, Plan, RunFolder, TrainError};

use crate::output::{say, wrapped};
use crate::report;
use crate::run_log;
use crate::watch::{Show, indent};

/// The end of a run, as it is told.
pub(super) struct Ending<'a> {
    pub(super) folder: &'a RunFolder,
    pub(super) plan: &'a Plan,
    pub(super) show: Show,
    pub(super) verbose: bool,
    pub(super) is_altered: bool,
}

impl Ending<'_> {
    pub(super) fn of(
        &self,
        end: &Result<End, TrainError>,
        write: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        match end {
            Ok(End::Stopped) => self.tell(EndReason::Stopped, None),
            Ok(end) => self.tell((*end).into(), (self.show == Show::Text).then(write)),
            Err(error) if error.is_divergence() => self.tell(EndReason::Diverged, None),
            // What has become of it is in its error.
            Err(_) => Ok(()),
        }
    }

    /// Loss, a sample, the verdict and what to type next.
    fn tell(&self, how: EndReason, sample: Option<anyhow::Result<String>>) -> anyhow::Result<()> {
        if !matches!(self.show, Show::Text | Show::Json) {
            return Ok(());
        }
        let columns = run_log::read(self.folder)?.columns;
        let folder = self.folder.path();
        let judgement = columns.judge(&Subject::of(folder));
        if self.show == Show::Json {
            say!("{}", report::end_line(&judgement, &columns, how, folder)?);
            return Ok(());
        }
        let step = report::count(columns.step.last().copied().unwrap_or(0));
        let loss = columns.evaluations.last();
        let loss = loss.map_or(String::new(), |last| match last.val_loss.is_finite() {
            true => format!(
                "; val loss {:.4} nats a token at step {} ({:.3} {}, perplexity {:.2})",
                last.val_loss,
                last.step,
                last.bits_per_char,
                report::unit_of_bits(self.is_altered),
                last.perplexity
            ),
            false => format!("; val loss not finite at step {}", last.step),
        });
        let ended = match how {
            EndReason::Finished => format!("finished after {step} steps"),
            EndReason::OutOfPatience => {
                let patience = self.plan.patience;
                format!("stopped at step {step}: {patience} evaluations in a row were no better")
            }
            EndReason::Stopped => format!("stopped at step {step}; the run is saved"),
            EndReason::Diverged | EndReason::Failed => format!("ended at step {step}"),
        };
        say!("\n{}", wrapped(&format!("{ended}{loss}"), 0));
        let (program, run) = (report::program(), quoted(folder));
        match sample {
            Some(Ok(text)) => {
                say!("\nit writes:\n{}", indent(&text));
                say!("  more: {program} generate {run}");
            }
            // The run has ended as it should, and what it found is below.
            Some(Err(error)) => say!("\nit writes nothing: {error:#}"),
            None => {}
        }
        say!("");
        report::say_judgement(&judgement, self.verbose);
        Ok(())
    }
}
