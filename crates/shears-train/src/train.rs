//! A whole run: steps, evaluations, samples, events and checkpoints, from where it stands to its
//! end.

use std::time::Instant;

use burn::tensor::Device;
use gradclip::SkipReason;
use shears_model::{LanguageModel, parameters};
use shears_run::{ClipEvent, EndReason, Event, EventLog, StepEvent};

use crate::TrainError;
use crate::evaluate::{Evaluation, Streams, evaluate};
use crate::run::{Corpora, RunFolder, header};
use crate::trainer::{StepOutcome, Trainer};

/// Who watches a run: the terminal, a test, a program of your own.
pub trait Observer {
    /// A step was taken.
    fn step(&mut self, event: &StepEvent);

    /// The validation text was read.
    fn evaluation(&mut self, step: u64, evaluation: &Evaluation);

    /// A checkpoint was written.
    fn saved(&mut self, step: u64, path: &std::path::Path);

    /// It is time for a sample; the model is outside automatic differentiation. Gives what it
    /// wrote, for the run's log.
    fn sample<M: LanguageModel>(&mut self, step: u64, model: &M) -> Option<String>;

    /// Whether the run should save and stop after this step, because somebody asked for it.
    fn wants_to_stop(&self) -> bool;
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
pub fn train<M: LanguageModel, O: Observer>(
    trainer: &mut Trainer<M>,
    run: &RunFolder,
    corpora: &Corpora,
    device: &Device,
    observer: &mut O,
) -> Result<End, TrainError> {
    let header = header(trainer.plan(), &parameters(trainer.model()));
    let mut log = EventLog::open(&run.events_path(), trainer.progress.step, &header)?;
    let end = take_steps(trainer, run, corpora, device, observer, &mut log);
    let step = trainer.progress.step;
    let (how, message) = match &end {
        Ok(end) => ((*end).into(), None),
        Err(error @ (TrainError::NonFinite { .. } | TrainError::TooManySkips { .. })) => {
            (EndReason::Diverged, Some(error.to_string()))
        }
        Err(error) => (EndReason::Failed, Some(error.to_string())),
    };
    let written = log.append(&Event::End { step, how, message });
    // What went wrong first is what the user has to know.
    let end = end?;
    written?;
    Ok(end)
}

/// How often the log has the sizes of updates.
const UPDATES_WEIGHED_EVERY: u64 = 10;

/// The steps themselves, with all that is due between them.
fn take_steps<M: LanguageModel, O: Observer>(
    trainer: &mut Trainer<M>,
    run: &RunFolder,
    corpora: &Corpora,
    device: &Device,
    observer: &mut O,
    log: &mut EventLog,
) -> Result<End, TrainError> {
    let plan = trainer.plan().clone();
    let evaluation_device = device.clone().without_autodiff();
    let due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
    let out_of_patience =
        |stale_evaluations: u64| plan.patience > 0 && stale_evaluations >= plan.patience;
    loop {
        let step = trainer.progress.step;
        if step >= plan.steps {
            return Ok(End::Finished);
        }
        if out_of_patience(trainer.progress.stale_evaluations) {
            return Ok(End::OutOfPatience);
        }
        if due(step, UPDATES_WEIGHED_EVERY) {
            trainer.weigh_next_update();
        }
        let started = Instant::now();
        let outcome = trainer.step()?;
        let step = step + 1;
        let event = step_event(step, &outcome, plan.tokens_per_step(), started);
        log.append(&Event::Step(event.clone()))?;
        observer.step(&event);
        if trainer.progress.consecutive_skips >= plan.max_skips {
            return Err(too_many_skips(trainer, run, &outcome));
        }

        let stopping = observer.wants_to_stop();
        let last = step == plan.steps;
        // A run in trouble is not worth its disk; one that left out an outlier is not in trouble.
        let sound = outcome.report.skip_reason != Some(SkipReason::NonFinite);
        trainer.progress.val_loss = None;
        let mut improved = false;
        let evaluating = last || due(step, plan.eval_every);
        if step == 1 || evaluating {
            log_state_gradients(trainer, step, log)?;
        }
        if evaluating {
            let model = trainer.model().valid();
            let evaluation = evaluate(
                &model,
                &corpora.validation,
                corpora.validation_characters,
                Streams::default(),
                &evaluation_device,
            )?;
            improved = note_evaluation(trainer, &evaluation);
            log.append(&Event::Evaluation {
                step,
                val_loss: evaluation.val_loss,
                bits_per_char: evaluation.bits_per_char,
                perplexity: evaluation.perplexity,
            })?;
            observer.evaluation(step, &evaluation);
        }
        // Such a run ends with a longer text than a sample.
        let finished = last || out_of_patience(trainer.progress.stale_evaluations);
        let ending = finished || stopping;
        // Before the checkpoint, so that a run that goes on from there has it.
        if due(step, plan.sample_every) && !finished {
            let text = observer.sample(step, &trainer.model().valid());
            if let Some(text) = text {
                log.append(&Event::Sample { step, text })?;
            }
        }
        if (due(step, plan.save_every) && sound) || improved || ending {
            // A run that goes on from the checkpoint must find the steps before it in its log.
            log.sync()?;
            let path = run.checkpoints().save(&trainer.checkpoint())?;
            run.checkpoints().retain(plan.keep)?;
            observer.saved(step, &path);
        }
        if stopping && !last {
            return Ok(End::Stopped);
        }
    }
}

/// Writes how far gradients reach back in time, if the model carries a state.
fn log_state_gradients<M: LanguageModel>(
    trainer: &Trainer<M>,
    step: u64,
    log: &mut EventLog,
) -> Result<(), TrainError> {
    let layers = trainer.state_gradients();
    if !layers.is_empty() {
        log.append(&Event::StateGradients { step, layers })?;
    }
    Ok(())
}

fn step_event(step: u64, outcome: &StepOutcome, tokens: usize, started: Instant) -> StepEvent {
    StepEvent {
        step,
        loss: Some(outcome.loss).filter(|loss| loss.is_finite()),
        lr: outcome.lr,
        tokens_per_second: (tokens as f64 / started.elapsed().as_secs_f64()).round(),
        clip: ClipEvent::from(&outcome.report),
        update_ratios: outcome.update_ratios.clone(),
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
    run: &RunFolder,
    outcome: &StepOutcome,
) -> TrainError {
    TrainError::TooManySkips {
        step: trainer.progress.step,
        skips: trainer.progress.consecutive_skips,
        tensor: outcome.report.first_non_finite.clone().unwrap_or_default(),
        checkpoint: run.checkpoints().list().ok().and_then(|mut all| all.pop()),
    }
}
