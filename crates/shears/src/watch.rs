//! What `shears train` prints during a run: a progress bar, plain lines, or JSON.

mod signals;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use gradclip::{ClipAction, significant};
use gradclip_judge::goes_by_norm_of_all;
use indicatif::{ProgressBar, ProgressStyle};
use shears_data::Tokenizer;
use shears_model::LanguageModel;
use shears_run::{Event, Sample, StepEvent};
use shears_train::{Corpora, End, Evaluation, Observer, Plan};

use crate::commands::generate::write_sample;
use crate::comparison::Newest;
use crate::loading::tick;
use crate::output::{columns, complain, note, one_line, say, visible_json, wrap};
use crate::report::{percent, perplexity, short, unit_of_bits};

/// How the progress of a run is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// A progress bar on a terminal, plain lines elsewhere.
    Text,
    /// JSON lines.
    Json,
    /// Nothing.
    Quiet,
    /// Nothing here, because a screen draws the run.
    Screen,
}

/// Receives what happens in a run, such as a screen or files for another program.
pub(crate) trait Listener {
    /// Something happened.
    fn event(&mut self, event: &Event);

    /// A checkpoint is about to be written.
    fn saving(&mut self) {}

    /// The run is over. Without an `end` it failed.
    fn end(&mut self, end: Option<End>);
}

/// A flag that SIGINT, SIGTERM, SIGHUP or SIGUSR1 sets, upon which the run should save and stop; a
/// second signal exits at once, and so does the first while there is nothing to save. Signals that
/// were ignored when the program started, as under `nohup`, stay ignored.
pub(crate) fn stop_when_asked(say_so: bool) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    signals::on_each(move || {
        ask_to_stop(&asked, || {
            // Printed before the run ends, and with it this thread.
            if say_so {
                complain!("\nsaving and stopping; again to exit at once");
            }
        });
    })?;
    Ok(stop)
}

/// Whether a run in this process has something to save. Signals are those of the process, too.
static HAS_TO_SAVE: AtomicBool = AtomicBool::new(false);

/// Sets whether a request to stop is left to the run, or ends the program at once: a run that has
/// ended, or that is still reading its log, has nothing to save.
pub(crate) fn has_to_save(whether: bool) {
    HAS_TO_SAVE.store(whether, Ordering::SeqCst);
}

/// Asks a run to save and stop, after `tell`; exits at once if it was asked before, or has nothing
/// to save.
pub(crate) fn ask_to_stop(stop: &AtomicBool, tell: impl FnOnce()) {
    if stop.load(Ordering::SeqCst) || !HAS_TO_SAVE.load(Ordering::SeqCst) {
        crate::screen::leave();
        std::process::exit(i32::from(crate::exit::INTERRUPTED));
    }
    tell();
    stop.store(true, Ordering::SeqCst);
}

/// Removes a temporary file or folder at the first of the same signals, and exits.
pub(crate) fn remove_when_asked(temporary: &Path) -> anyhow::Result<()> {
    let temporary = temporary.to_path_buf();
    signals::on_each(move || {
        crate::new_file::remove(&temporary);
        std::process::exit(i32::from(crate::exit::INTERRUPTED));
    })
}

/// A progress bar, hidden unless it is `shown` and standard error is a terminal.
pub(crate) fn bar_of(steps: u64, style: &str, shown: bool) -> ProgressBar {
    let bar = match shown {
        true => ProgressBar::new(steps),
        false => ProgressBar::hidden(),
    };
    bar.with_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()))
}

/// Watches the steps of a run, below a bar.
pub(crate) struct StepWatch<'a> {
    pub(crate) stop: &'a AtomicBool,
    pub(crate) bar: &'a ProgressBar,
    pub(crate) step: &'a mut dyn FnMut(&StepEvent),
}

impl Observer for StepWatch<'_> {
    fn begin(&mut self) {
        has_to_save(true);
    }

    fn step(&mut self, event: &StepEvent) {
        (self.step)(event);
    }

    fn warning(&mut self, message: &str) {
        warn(Some(self.bar), message);
    }

    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Prints a warning, above the bar if there is one.
fn warn(bar: Option<&ProgressBar>, message: &str) {
    let warning = || complain!("shears: warning: {}", one_line(message));
    match bar {
        Some(bar) => bar.suspend(warning),
        None => warning(),
    }
}

/// Prints the progress of a run.
pub(crate) struct Watch {
    show: Show,
    /// None if standard error is not a terminal.
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    listeners: Vec<Box<dyn Listener>>,
    tokenizer: Tokenizer,
    /// The token that ends a text, if the model has one.
    end_token: Option<u32>,
    /// The unit of bits per character.
    unit: &'static str,
    /// Whether the threshold is one of the norm that is shown beside it.
    is_of_norm: bool,
    device: Device,
    steps: u64,
    clipped: u64,
    seen: u64,
    /// Single steps are noisy, and a spike must not stay in sight.
    loss: Newest,
    speed: Option<f64>,
}

impl Watch {
    /// Watches a run that has taken `done` steps.
    pub(crate) fn new(
        show: Show,
        plan: &Plan,
        done: u64,
        corpora: &Corpora,
        device: Device,
    ) -> anyhow::Result<Self> {
        let stop = stop_when_asked(matches!(show, Show::Text | Show::Json))?;
        let bar = (show == Show::Text && std::io::stderr().is_terminal()).then(|| {
            let style = "{bar:16.cyan/dim} {pos}/{len}  {msg}  {eta} left";
            let bar = bar_of(plan.steps, style, true).with_position(done);
            tick(&bar, Duration::from_millis(200));
            // The estimate must not count the steps of an earlier call.
            bar.reset_eta();
            bar
        });
        Ok(Watch {
            show,
            bar,
            stop,
            listeners: Vec::new(),
            tokenizer: corpora.tokenizer.clone(),
            end_token: plan.end_token,
            unit: unit_of_bits(corpora.altered.is_some()),
            is_of_norm: goes_by_norm_of_all(&plan.clip),
            device,
            steps: plan.steps,
            clipped: 0,
            seen: 0,
            loss: Newest::default(),
            speed: None,
        })
    }

    /// Adds a listener.
    pub(crate) fn add(&mut self, listener: impl Listener + 'static) {
        self.listeners.push(Box::new(listener));
    }

    /// The flag that makes the run save and stop.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Removes the bar, and tells the listeners that the run is over.
    pub(crate) fn finish(&mut self, end: Option<End>) {
        has_to_save(false);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        for listener in &mut self.listeners {
            listener.end(end);
        }
    }

    /// Prints a line, above the bar if there is one.
    fn line(&self, text: &str) {
        match (&self.bar, self.show) {
            (Some(bar), _) => bar.suspend(|| say!("{text}")),
            (None, Show::Text) => say!("{text}"),
            (None, _) => {}
        }
    }

    fn tell(&mut self, event: &Event) {
        for listener in &mut self.listeners {
            listener.event(event);
        }
        if self.show == Show::Json
            && let Ok(line) = serde_json::to_string(event)
        {
            note(writeln!(std::io::stdout(), "{}", visible_json(&line)));
        }
    }
}

/// The running mean of a value that varies from step to step.
pub(crate) fn smooth(mean: Option<f64>, value: f64) -> Option<f64> {
    /// The weight of the newest step.
    const SMOOTHING: f64 = 0.1;
    Some(mean.map_or(value, |mean| mean + SMOOTHING * (value - mean)))
}

impl Observer for Watch {
    fn begin(&mut self) {
        has_to_save(true);
    }

    fn step(&mut self, event: &StepEvent) {
        self.seen += 1;
        self.clipped += u64::from(event.clip.action == ClipAction::Clip);
        self.loss.push(event.loss.unwrap_or(f64::NAN));
        self.speed = smooth(self.speed, event.tokens_per_second);
        self.tell(&Event::Step(event.clone()));
        let threshold = event.clip.threshold.filter(|_| self.is_of_norm);
        let norm = event.clip.norm_before;
        let text = format!(
            "loss {}  norm {}{}  clipped {}",
            match self.loss.get().filter(|loss| loss.is_finite()) {
                Some(loss) => brief(loss),
                None => "not finite".to_string(),
            },
            short(norm),
            threshold.map_or(String::new(), |most| format!(" of {}", significant(most))),
            percent(self.clipped as f64 / self.seen as f64),
        );
        if let Some(bar) = &self.bar {
            bar.set_position(event.step);
            bar.set_message(text);
        } else if event.step == 1 || event.step.is_multiple_of((self.steps / 20).max(1)) {
            let speed = self.speed.unwrap_or(0.0);
            self.line(&format!(
                "step {:>6}  {text}  {speed:.0} tokens/s",
                event.step
            ));
        }
        if let Some(reason) = &event.clip.skip_reason {
            let place = event.clip.first_non_finite.as_ref();
            let place = place.map(|tensor| format!(", first in `{tensor}`"));
            let place = place.unwrap_or_default();
            self.line(&format!("step {:>6}  skipped: {reason}{place}", event.step));
        }
    }

    fn evaluation(&mut self, step: u64, evaluation: &Evaluation) {
        self.tell(&evaluation.event(step));
        self.line(&match evaluation.val_loss.is_finite() {
            true => format!(
                "step {step:>6}  val loss {:.4}  ({:.3} {}, perplexity {})",
                evaluation.val_loss,
                evaluation.bits_per_char,
                self.unit,
                perplexity(evaluation.perplexity, 2)
            ),
            false => format!("step {step:>6}  val loss not finite"),
        });
    }

    fn state_gradients(&mut self, step: u64, layers: &BTreeMap<String, Vec<Option<f64>>>) {
        self.tell(&Event::StateGradients {
            step,
            layers: layers.clone(),
        });
    }

    fn evaluating(&mut self, read: usize, of: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("evaluating, {} %", 100 * read / of.max(1)));
        }
    }

    fn sample<M: LanguageModel>(&mut self, step: u64, model: &M) -> Option<String> {
        let (tokenizer, stop) = (&self.tokenizer, &self.stop);
        match write_sample(model, tokenizer, self.end_token, &self.device, 200, stop) {
            // Stopping does not wait for the rest of the sample.
            Ok(_) if self.wants_to_stop() => None,
            Ok(text) => {
                self.line(&format!("step {step:>6}  sample:\n{}\n", indent(&text)));
                let sample = text.clone();
                self.tell(&Event::Sample(Sample { step, text: sample }));
                Some(text)
            }
            Err(error) => {
                self.line(&format!("step {step:>6}  no sample: {error}"));
                None
            }
        }
    }

    fn saving(&mut self) {
        for listener in &mut self.listeners {
            listener.saving();
        }
    }

    fn warning(&mut self, message: &str) {
        warn(self.bar.as_ref(), message);
    }

    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Three decimals, or scientific notation for huge values.
pub(crate) fn brief(loss: f64) -> String {
    match loss.abs() < 1e4 {
        true => format!("{loss:.3}"),
        false => format!("{loss:.1e}"),
    }
}

/// Indents a text with a margin, and wraps it to a terminal.
pub(crate) fn indent(text: &str) -> String {
    set_off(text, columns())
}

fn set_off(text: &str, columns: Option<usize>) -> String {
    const MARGIN: &str = "  | ";
    let text = match columns {
        Some(columns) => Cow::Owned(wrap(text, columns.saturating_sub(MARGIN.len()), 0)),
        None => Cow::Borrowed(text),
    };
    let lines = text.lines().map(|line| format!("{MARGIN}{line}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::set_off;

    #[test]
    fn a_sample_is_wrapped_only_on_a_terminal() {
        let text = "quousque tandem\nabutere Catilina patientia";
        assert_eq!(
            set_off(text, None),
            format!("  | {}", text.replace('\n', "\n  | "))
        );
        let narrow = "  | quousque tandem\n  | abutere\n  | Catilina\n  | patientia";
        assert_eq!(set_off(text, Some(19)), narrow);
    }
}
