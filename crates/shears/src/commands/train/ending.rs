//! What is printed at the end of a run.

use shears_run::{EndReason, Subject, quoted};
use shears_train::{End, Plan, RunFolder, TrainError};

use crate::output::{say, wrapped};
use crate::report;
use crate::run_log;
use crate::watch::{Show, indent};

/// What the report on the end of a run needs.
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
            // The error itself says what happened.
            Err(_) => Ok(()),
        }
    }

    /// Prints the loss, a sample, the verdict and what to type next.
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
                "; val loss {:.4} nats per token at step {} ({:.3} {}, perplexity {:.2})",
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
                format!("stopped at step {step}: {patience} evaluations in a row did not improve")
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
            // The run itself ended well, and its verdict follows.
            Some(Err(error)) => say!("\nno sample: {error:#}"),
            None => {}
        }
        say!("");
        report::say_judgement(&judgement, self.verbose);
        Ok(())
    }
}
