//! A whole run: steps, evaluations, samples, events and checkpoints, from where it stands to its
//! end.

mod due;
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
use crate::evaluate::{Evaluation, Readers, Streams, evaluate_together};
use crate::plan::Plan;
use crate::run::{RunFolder, header};
use crate::tensors::lazy_tensors;
use crate::trainer::{StepOutcome, Trainer};
use due::Due;
use step_line::step_event;

/// Who watches a run: the terminal, a test, a program of your own.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, event: &StepEvent);

    /// The validation text is being read: so many tokens of so many.
    fn evaluating(&mut self, _read: usize, _of: usize) {}

    /// The validation text was read.
    fn evaluation(&mut self, _step: u64, _evaluation: &Evaluation) {}

    /// Gradients were followed back in time: for each layer of a recurrent model, as
    /// [`Event::StateGradients`] has them.
    fn state_gradients(&mut self, _step: u64, _layers: &BTreeMap<String, Vec<Option<f64>>>) {}

    /// A checkpoint was written.
    fn saved(&mut self, _step: u64, _path: &std::path::Path) {}

    /// It is time for a sample; the model is outside automatic differentiation. Gives what it
    /// wrote, for the run's log.
    fn sample<M: LanguageModel>(&mut self, _step: u64, _model: &M) -> Option<String> {
        None
    }

    /// Something went wrong that the run goes on without: one sentence.
    fn warning(&mut self, _message: &str) {}

    /// Whether the run should save and stop now, because somebody asked for it.
    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps of the plan were taken.
    Finished,
    /// The validation loss no longer improved.
    OutOfPatience,
    /// The observer asked for it; the run can be resumed.
    Stopped,
}

impl From<End> for EndReason {
    fn from(end: End) -> Self {
        match end {
            End::Finished => EndReason::Finished,
            End::OutOfPatience => EndReason::OutOfPatience,
            End::Stopped => EndReason::Stopped,
        }
    }
}

/// Trains until the plan is fulfilled, and leaves the last state in a checkpoint.
///
/// Of several ranks ([`Trainer::with_ranks`]) all call it, and the first one alone has the folder.
/// What happens is decided by all of them; that one writes it down.
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
    let noted = session.note_resume().and_then(|()| session.note_ranks());
    let end = noted.and_then(|()| session.take_steps());
    let step = session.trainer.progress.step;
    let (how, message) = match &end {
        Ok(end) => ((*end).into(), None),
        Err(error) if error.is_divergence() => (EndReason::Diverged, Some(error.to_string())),
        Err(error) => (EndReason::Failed, Some(error.to_string())),
    };
    let written = session.write(&Event::End { step, how, message });
    // What went wrong first is what the user has to know.
    let end = end?;
    written?;
    Ok(end)
}

/// How often the log has the sizes of updates.
const UPDATES_WEIGHED_EVERY: u64 = 10;

/// A run while it goes.
struct Session<'a, M: LanguageModel, O: Observer> {
    plan: Plan,
    trainer: &'a mut Trainer<M>,
    /// Of the first rank alone, and so is the log.
    run: Option<&'a RunFolder>,
    corpora: &'a Corpora,
    /// Where the model is evaluated, outside automatic differentiation.
    device: Device,
    observer: &'a mut O,
    log: Option<EventLog>,
    /// Whether a rank was asked to save and stop before the last step, as all of them know.
    asked_to_stop: bool,
}

impl<M: LanguageModel, O: Observer> Session<'_, M, O> {
    /// Writes where a run goes on, and with what changed settings; nothing if there is nothing left
    /// to do.
    fn note_resume(&mut self) -> Result<(), TrainError> {
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

    /// Writes who trains, if these are several.
    fn note_ranks(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.progress.step;
        match self.trainer.team.clone() {
            Some(team) => self.write(&Event::Ranks(RanksEvent { step, ..team })),
            None => Ok(()),
        }
    }

    /// The steps themselves, with all that is due between them.
    fn take_steps(&mut self) -> Result<End, TrainError> {
        // What a run that was stopped in it had still to do comes first.
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
            if step.is_multiple_of(UPDATES_WEIGHED_EVERY) {
                self.trainer.weigh_next_update();
            }
            let sound = self.take_step()?;
            if let Some(end) = self.finish_step(sound)? {
                return Ok(end);
            }
        }
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.plan.patience;
        patience > 0 && self.trainer.progress.stale_evaluations >= patience
    }

    /// One step and its line. A run in trouble is not worth its disk, so that the step is then not
    /// sound; one that left out an outlier is not in trouble.
    fn take_step(&mut self) -> Result<bool, TrainError> {
        let started = Instant::now();
        self.trainer.tell_to_stop(self.observer.wants_to_stop());
        let outcome = match self.trainer.step() {
            Err(error) => return Err(self.refused(error)?),
            Ok(outcome) => outcome,
        };
        self.asked_to_stop = outcome.exchanged.is_some_and(|exchanged| exchanged.stop);
        let step = self.trainer.progress.step;
        let event = step_event(step, &outcome, self.plan.tokens_per_step(), started);
        self.write(&Event::Step(event.clone()))?;
        self.observer.step(&event);
        if self.trainer.progress.consecutive_skips >= self.plan.max_skips {
            return Err(too_many_skips(self.trainer, self.run, &outcome));
        }
        // A skipped step has changed nothing, and `max-skips` bounds them.
        if outcome.report.action != ClipAction::Skip && !outcome.loss.is_finite() {
            return Err(self.diverged("the loss is"));
        }
        let progress = &mut self.trainer.progress;
        progress.val_loss = None;
        progress.pending = Due::after(step, &self.plan).takes_long();
        Ok(outcome.report.skip_reason != Some(SkipReason::NonFinite))
    }

    /// Writes the line of a step that was refused because its gradients are not finite, so that the
    /// log says where and what.
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

    /// All that is due after a step; gives the end of the run if it ends here.
    ///
    /// What takes long comes after the checkpoint of the step, which says that it is still pending;
    /// somebody who asks for the end gets it without waiting, and a run that goes on from there
    /// begins with it.
    fn finish_step(&mut self, sound: bool) -> Result<Option<End>, TrainError> {
        let step = self.trainer.progress.step;
        let due = Due::after(step, &self.plan);
        let saving = due.save && (sound || step == self.plan.steps);
        if self.is_to_stop() {
            return self.stop().map(Some);
        }
        if saving && due.takes_long() {
            self.save()?;
        }
        let mut improved = false;
        if due.state_gradients {
            self.log_state_gradients()?;
        }
        if due.evaluation {
            match self.evaluate()? {
                Some(is_better) => improved = is_better,
                // It is still pending, and done by a run that goes on from here.
                None => return self.stop().map(Some),
            }
        }
        let ending = step == self.plan.steps || self.is_out_of_patience();
        // Before the checkpoint, so that a run that goes on from there has it.
        if due.sample && !ending {
            self.sample(step)?;
        }
        self.trainer.progress.pending = false;
        if saving || improved || ending {
            self.save_and_retain()?;
        }
        Ok(None)
    }

    /// Writes text, on the rank that has the run; the others wait, knowing for what.
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

    /// Whether somebody has asked for the end. One rank must not decide that for itself.
    fn is_to_stop(&self) -> bool {
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

    /// Reads the validation text; gives whether the loss is the best of the run until now, or
    /// nothing if somebody has asked for the end before it was known.
    fn evaluate(&mut self) -> Result<Option<bool>, TrainError> {
        let step = self.trainer.progress.step;
        let some = match self.plan.eval_tokens {
            0 => usize::MAX,
            some => usize::try_from(some).unwrap_or(usize::MAX),
        };
        let Some(compared) = self.evaluate_on(some)? else {
            return Ok(None);
        };
        // The losses of a run are compared on the same tokens, and the last is on all.
        let all = self.corpora.validation.len();
        let evaluation = match step == self.plan.steps && some < all {
            true => self.evaluate_on(all)?,
            false => Some(compared),
        };
        let Some(evaluation) = evaluation else {
            return Ok(None);
        };
        let improved = note_evaluation(self.trainer, &compared);
        self.write(&evaluation.event(step))?;
        self.observer.evaluation(step, &evaluation);
        if !evaluation.val_loss.is_finite() {
            return Err(self.diverged("the validation loss is"));
        }
        self.check_weights()?;
        Ok(Some(improved))
    }

    /// Reads the first tokens of the validation text, or all if there are no more.
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
        };
        Ok(evaluate_together(
            readers,
            &trainer.model().valid(),
            &tokens,
            characters,
            Streams::default(),
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

    /// Writes how far gradients reach back in time, if the model carries a state.
    fn log_state_gradients(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.progress.step;
        let layers = self.trainer.state_gradients();
        if !layers.is_empty() {
            self.observer.state_gradients(step, &layers);
            self.write(&Event::StateGradients { step, layers })?;
        }
        Ok(())
    }

    /// Writes a checkpoint; gives its folder to the rank that has one.
    fn save(&mut self) -> Result<Option<PathBuf>, TrainError> {
        self.trainer.begin(Phase::Save);
        let Some(run) = self.run else {
            // What the rows of this rank carry goes into that of the first one.
            self.trainer.carried_by_all();
            self.check_weights()?;
            self.trainer.ranks().barrier();
            return Ok(None);
        };
        // Here the others give what they carry.
        let snapshot = self.trainer.snapshot();
        self.check_weights()?;
        if let Some(log) = &self.log {
            // A run that goes on from the checkpoint must find the steps before it in its log.
            log.sync()?;
        }
        let path = run.checkpoints().save(snapshot)?;
        // The others wait as long as a disk may take, and not as long as a step.
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

    /// Refuses weights that nothing can be done with: they are no good checkpoint.
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
            // One of this step was saved before its evaluation, and is not good.
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

/// Whether the evaluation is the best of the run until now.
fn note_evaluation<M: LanguageModel>(trainer: &mut Trainer<M>, evaluation: &Evaluation) -> bool {
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
