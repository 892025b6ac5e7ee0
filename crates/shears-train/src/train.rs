//! A whole run, to its end: steps, evaluations, samples, events and checkpoints.

mod due;
mod observer;
mod step_line;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use burn::tensor::Device;
use gradclip::{ClipAction, SkipReason};
use shears_model::{LanguageModel, parameters};
use shears_parallel::Phase;
use shears_run::{ClipEvent, EndReason, Event, EventLog, RanksEvent, Resume, Sample, StepEvent};

use crate::TrainError;
use crate::checkpoint::Progress;
use crate::corpora::Corpora;
use crate::evaluate::{Evaluation, Readers, Streams, evaluate_on_ranks};
use crate::plan::Plan;
use crate::run::{RunFolder, header};
use crate::tensors::lazy_tensors;
use crate::trainer::{StepOutcome, Trainer};
use due::Due;
pub use observer::{End, Observer};
use step_line::step_event;

/// Trains to the end of the plan, and saves the final state in a checkpoint.
///
/// With several ranks ([`Trainer::with_ranks`]) all must call it; only rank 0 passes the folder.
/// All ranks take the same decisions, and rank 0 writes the files.
pub fn train<'a, M: LanguageModel, O: Observer>(
    trainer: &mut Trainer<M>,
    run: impl Into<Option<&'a RunFolder>>,
    corpora: &Corpora,
    device: &Device,
    observer: &mut O,
) -> Result<End, TrainError> {
    let header = header(trainer.plan(), &parameters(trainer.model()));
    let Progress { step, pending, .. } = trainer.progress;
    let run = run.into();
    let open = |run: &RunFolder| EventLog::open_after(&run.events_path(), step, pending, &header);
    let log = run.map(open).transpose()?;
    observer.begin();
    if let Some(warning) = log.as_ref().and_then(EventLog::warning) {
        observer.warning(warning);
    }
    let mut session = Session {
        plan: trainer.plan().clone(),
        trainer,
        run,
        corpora,
        device: device.clone().without_autodiff(),
        observer,
        log,
        asked_to_stop: false,
    };
    let logged = session.log_resume().and_then(|()| session.log_ranks());
    let end = logged.and_then(|()| session.take_steps());
    let step = session.trainer.progress.step;
    let (how, message) = match &end {
        Ok(end) => ((*end).into(), None),
        Err(error) if error.is_divergence() => (EndReason::Diverged, Some(error.to_string())),
        Err(error) => (EndReason::Failed, Some(error.to_string())),
    };
    let written = session.write(&Event::End { step, how, message });
    // Report the first error.
    let end = end?;
    written?;
    Ok(end)
}

/// The sizes of updates are logged every this many steps.
const MEASURE_UPDATES_EVERY: u64 = 10;

/// A running run.
struct Session<'a, M: LanguageModel, O: Observer> {
    plan: Plan,
    trainer: &'a mut Trainer<M>,
    /// Only on rank 0, as is the log.
    run: Option<&'a RunFolder>,
    corpora: &'a Corpora,
    /// The device for evaluations, outside automatic differentiation.
    device: Device,
    observer: &'a mut O,
    log: Option<EventLog>,
    /// Whether any rank was asked to save and stop before the last step; the same on all ranks.
    asked_to_stop: bool,
}

impl<M: LanguageModel, O: Observer> Session<'_, M, O> {
    /// Logs where a run is resumed, and with which changed settings, unless it is already finished.
    fn log_resume(&mut self) -> Result<(), TrainError> {
        let Progress { step, pending, .. } = self.trainer.progress;
        let is_over = step >= self.plan.steps || self.is_out_of_patience();
        let (Some(run), Some(log)) = (self.run, &mut self.log) else {
            return Ok(());
        };
        let goes_on = step > 0 || run.is_resumed();
        if !goes_on || (is_over && !pending) {
            return Ok(());
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let from = run.checkpoints().path(step);
        let name = from
            .file_name()
            .map(|name| name.to_string_lossy().to_string());
        log.append(&Event::Resume(Resume {
            step,
            time: since.map_or(0, |since| since.as_secs()),
            version: env!("CARGO_PKG_VERSION").to_string(),
            checkpoint: name.filter(|_| step > 0),
        }))?;
        Ok(log.append_changes(step, &self.plan.changes)?)
    }

    /// Logs the ranks, if there are several.
    fn log_ranks(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.progress.step;
        match self.trainer.team.clone() {
            Some(team) => self.write(&Event::Ranks(RanksEvent { step, ..team })),
            None => Ok(()),
        }
    }

    /// Takes the steps, with everything due between them.
    fn take_steps(&mut self) -> Result<End, TrainError> {
        // First, finish what was pending when the run was stopped.
        if self.trainer.progress.pending
            && let Some(end) = self.finish_step(true)?
        {
            return Ok(end);
        }
        loop {
            let step = self.trainer.progress.step;
            if step >= self.plan.steps {
                return Ok(End::Finished);
            }
            if self.is_out_of_patience() {
                return Ok(End::OutOfPatience);
            }
            let Some(sound) = self.take_step()? else {
                return self.stop();
            };
            if let Some(end) = self.finish_step(sound)? {
                return Ok(end);
            }
        }
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.plan.patience;
        patience > 0 && self.trainer.progress.stale_evaluations >= patience
    }

    /// Takes one step and logs it. Returns whether the step is worth a checkpoint: not if it was
    /// skipped because of non-finite gradients, but yes if it was skipped as an outlier. `None` if
    /// it was abandoned, which changes nothing.
    fn take_step(&mut self) -> Result<Option<bool>, TrainError> {
        let started = Instant::now();
        let (observer, trainer) = (&*self.observer, &mut *self.trainer);
        trainer.request_stop(observer.wants_to_stop());
        let was_weighing = trainer.progress.weighing;
        if trainer.progress.step.is_multiple_of(MEASURE_UPDATES_EVERY) {
            trainer.measure_next_update();
        }
        let outcome = match trainer.step_unless(&|| observer.wants_to_stop()) {
            Err(error) => return Err(self.refused(error)?),
            Ok(Some(outcome)) => outcome,
            Ok(None) => {
                trainer.progress.weighing = was_weighing;
                return Ok(None);
            }
        };
        self.asked_to_stop = outcome.exchanged.is_some_and(|exchanged| exchanged.stop);
        let step = self.trainer.progress.step;
        let event = step_event(step, &outcome, self.plan.tokens_per_step(), started);
        self.write(&Event::Step(event.clone()))?;
        self.observer.step(&event);
        if self.trainer.progress.consecutive_skips >= self.plan.max_skips {
            return Err(too_many_skips(self.trainer, self.run, &outcome));
        }
        // A skipped step changes nothing, and `max-skips` bounds their number.
        if outcome.report.action != ClipAction::Skip && !outcome.loss.is_finite() {
            return Err(self.diverged("the loss is"));
        }
        let progress = &mut self.trainer.progress;
        progress.val_loss = None;
        progress.pending = Due::after(step, &self.plan).is_more_than_save();
        Ok(Some(
            outcome.report.skip_reason != Some(SkipReason::NonFinite),
        ))
    }

    /// Logs a step that was refused because of non-finite gradients.
    fn refused(&mut self, error: TrainError) -> Result<TrainError, TrainError> {
        if let TrainError::NonFinite { step, cause } = &error
            && let gradclip::ClipError::NonFinite { tensors } = cause
        {
            let event = StepEvent {
                step: *step,
                loss: None,
                lr: self.plan.schedule().at(self.trainer.progress.updates),
                tokens_per_second: 0.0,
                clip: ClipEvent::refused(tensors),
                update_ratios: BTreeMap::new(),
                exchange: None,
            };
            self.write(&Event::Step(event.clone()))?;
            self.observer.step(&event);
        }
        Ok(error)
    }

    /// Does everything due after a step. Returns how the run ended, if it ends here.
    ///
    /// Slow work comes after the checkpoint of the step, which marks it as pending: a request to
    /// stop is honoured without waiting for it, and a resumed run starts with it.
    fn finish_step(&mut self, sound: bool) -> Result<Option<End>, TrainError> {
        let step = self.trainer.progress.step;
        let due = Due::after(step, &self.plan);
        let saving = due.save && (sound || step == self.plan.steps);
        if self.must_stop() {
            return self.stop().map(Some);
        }
        if saving && due.is_more_than_save() {
            self.save()?;
        }
        let mut improved = false;
        if due.state_gradients && self.log_state_gradients()?.is_break() {
            return self.stop().map(Some);
        }
        if due.evaluation {
            match self.evaluate()? {
                Some(is_better) => improved = is_better,
                // It stays pending, for when the run is resumed.
                None => return self.stop().map(Some),
            }
        }
        let ending = step == self.plan.steps || self.is_out_of_patience();
        // Before the checkpoint, so that a resumed run does not repeat it.
        if due.sample && !ending {
            self.sample(step)?;
        }
        self.trainer.progress.pending = false;
        if saving || improved || ending {
            self.save_and_retain()?;
        }
        Ok(None)
    }

    /// Samples a text on rank 0 while the others wait.
    fn sample(&mut self, step: u64) -> Result<(), TrainError> {
        self.trainer.begin(Phase::Save);
        if self.run.is_some() {
            let text = self.observer.sample(step, &self.trainer.model().valid());
            if let Some(text) = text {
                self.write(&Event::Sample(Sample { step, text }))?;
            }
        }
        self.trainer.ranks().barrier();
        Ok(())
    }

    /// Whether to stop. With several ranks, they decide this together in a step.
    fn must_stop(&self) -> bool {
        match self.trainer.ranks().size() {
            1 => self.observer.wants_to_stop(),
            _ => self.asked_to_stop,
        }
    }

    fn write(&mut self, event: &Event) -> Result<(), TrainError> {
        match &mut self.log {
            Some(log) => Ok(log.append(event)?),
            None => Ok(()),
        }
    }

    fn stop(&mut self) -> Result<End, TrainError> {
        self.save_and_retain()?;
        Ok(End::Stopped)
    }

    /// Evaluates on the validation text. Returns whether the loss is the lowest of the run so far,
    /// or `None` if it was interrupted by a request to stop.
    fn evaluate(&mut self) -> Result<Option<bool>, TrainError> {
        let step = self.trainer.progress.step;
        let some = match self.plan.eval_tokens {
            0 => usize::MAX,
            some => usize::try_from(some).unwrap_or(usize::MAX),
        };
        let Some(compared) = self.evaluate_on(some)? else {
            return Ok(None);
        };
        // Losses are compared on the same tokens; the last evaluation reads all tokens.
        let all = self.corpora.validation.len();
        let evaluation = match step == self.plan.steps && some < all {
            true => self.evaluate_on(all)?,
            false => Some(compared),
        };
        let Some(evaluation) = evaluation else {
            return Ok(None);
        };
        let improved = record_evaluation(self.trainer, &compared);
        self.write(&evaluation.event(step))?;
        self.observer.evaluation(step, &evaluation);
        if !evaluation.val_loss.is_finite() {
            return Err(self.diverged("the validation loss is"));
        }
        self.check_weights()?;
        Ok(Some(improved))
    }

    /// Evaluates on the first `tokens` tokens of the validation text.
    fn evaluate_on(&mut self, tokens: usize) -> Result<Option<Evaluation>, TrainError> {
        let corpora = self.corpora;
        let all = corpora.validation.len();
        let tokens = corpora.validation.first(tokens);
        let share = tokens.len() as f64 / all.max(1) as f64;
        let characters = (corpora.validation_characters as f64 * share).round() as usize;
        let observer = &mut *self.observer;
        let trainer = &*self.trainer;
        let readers = Readers {
            ranks: &**trainer.ranks(),
            shards: self.plan.shards,
            streams: Streams::default(),
        };
        Ok(evaluate_on_ranks(
            readers,
            &trainer.model().valid(),
            &tokens,
            characters,
            &self.device,
            &mut |read, of| {
                trainer.begin(Phase::Evaluate);
                observer.evaluating(read, of);
                match observer.wants_to_stop() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        )?)
    }

    /// Logs how far gradients reach back in time, if the model carries a state. Breaks if it was
    /// interrupted by a request to stop.
    fn log_state_gradients(&mut self) -> Result<ControlFlow<()>, TrainError> {
        let step = self.trainer.progress.step;
        let observer = &*self.observer;
        let layers = self.trainer.state_gradients(&|| observer.wants_to_stop());
        let Some(layers) = layers else {
            return Ok(ControlFlow::Break(()));
        };
        if !layers.is_empty() {
            self.observer.state_gradients(step, &layers);
            self.write(&Event::StateGradients { step, layers })?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes a checkpoint. Returns its folder on rank 0.
    fn save(&mut self) -> Result<Option<PathBuf>, TrainError> {
        self.trainer.begin(Phase::Save);
        let Some(run) = self.run else {
            // Sends the carried state of this rank's rows to rank 0.
            self.trainer.gather_carried();
            self.check_weights()?;
            self.trainer.ranks().barrier();
            return Ok(None);
        };
        // Collects the carried state of the other ranks.
        let snapshot = self.trainer.snapshot();
        self.check_weights()?;
        if let Some(log) = &self.log {
            // The log must have all steps before the checkpoint.
            log.sync()?;
        }
        self.observer.saving();
        let path = run.checkpoints().save(snapshot)?;
        // The barrier allows for a slow disk, unlike the timeout of a step.
        self.trainer.ranks().barrier();
        Ok(Some(path))
    }

    fn save_and_retain(&mut self) -> Result<(), TrainError> {
        let path = self.save()?;
        if let (Some(run), Some(path)) = (self.run, path) {
            for warning in run.checkpoints().retain(self.plan.keep)? {
                self.observer.warning(&warning);
            }
            self.observer.saved(self.trainer.progress.step, &path);
        }
        Ok(())
    }

    /// Refuses to checkpoint non-finite weights.
    fn check_weights(&self) -> Result<(), TrainError> {
        let weights = lazy_tensors(self.trainer.model());
        match weights.iter().find(|tensor| !tensor.read().is_finite()) {
            Some(tensor) => Err(self.diverged(&format!("weights of `{}` are", tensor.name))),
            None => Ok(()),
        }
    }

    fn diverged(&self, what: &str) -> TrainError {
        let step = self.trainer.progress.step;
        let last_before = |run: &RunFolder| {
            let store = run.checkpoints();
            let mut checkpoints = store.list().unwrap_or_default();
            // The checkpoint of this step was saved before the failed evaluation.
            checkpoints.retain(|checkpoint| *checkpoint != store.path(step));
            checkpoints.pop()
        };
        TrainError::Diverged {
            step,
            what: what.to_string(),
            checkpoint: self.run.and_then(last_before),
        }
    }
}

/// Records an evaluation. Returns whether it is the best of the run so far.
fn record_evaluation<M: LanguageModel>(trainer: &mut Trainer<M>, evaluation: &Evaluation) -> bool {
    let progress = &mut trainer.progress;
    let loss = evaluation.val_loss;
    progress.val_loss = Some(loss).filter(|loss| loss.is_finite());
    let improved = loss.is_finite() && progress.best_val_loss.is_none_or(|best| loss < best);
    if improved {
        progress.best_val_loss = Some(loss);
        progress.stale_evaluations = 0;
    } else {
        progress.stale_evaluations += 1;
    }
    improved
}

fn too_many_skips<M: LanguageModel>(
    trainer: &Trainer<M>,
    run: Option<&RunFolder>,
    outcome: &StepOutcome,
) -> TrainError {
    TrainError::TooManySkips {
        step: trainer.progress.step,
        skips: trainer.progress.consecutive_skips,
        tensor: outcome.report.first_non_finite.clone().unwrap_or_default(),
        checkpoint: run.and_then(last_checkpoint),
    }
}

fn last_checkpoint(run: &RunFolder) -> Option<PathBuf> {
    run.checkpoints().list().ok()?.pop()
}
