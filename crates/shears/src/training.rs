//! What all commands that train share: a new folder, batches of a text that is long enough, the
//! checkpoint to resume from, and training to the end in one process.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gradclip::ClipAction;
use shears_data::DataError;
use shears_model::{AnyModel, LanguageModel, parameters};
use shears_run::{Columns, EndReason, Evaluation, create_folders};
use shears_train::{
    Batches, Checkpoint, Corpora, MemoryEstimate, Observer, Plan, RunFolder, TrainError, Trainer,
    estimate_memory, train,
};

use crate::commands::RUNS;
use crate::exit::{Misuse, misuse};
use crate::memory;
use crate::model::{device_of, model_of};
use crate::output::{complain, one_line};
use crate::report;

/// The newest intact checkpoint, with a warning for each damaged newer one; none before the first
/// save.
pub(crate) fn newest_checkpoint(
    folder: &RunFolder,
    plan: &Plan,
) -> anyhow::Result<Option<(PathBuf, Checkpoint)>> {
    let (newest, damaged) = folder.checkpoints().newest()?;
    if newest.is_none() && !damaged.is_empty() {
        // Starting from step 0 would discard what the run has recorded.
        let list: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        let path = folder.path().display();
        anyhow::bail!(
            "no checkpoint of the run is intact ({}); put one back from a copy, or move {path} \
             away and start a new run",
            list.join("; ")
        );
    }
    if newest.is_none() && is_past_first_save(plan, &folder.log()?.columns) {
        let path = folder.path().display();
        anyhow::bail!(
            "{path} has no checkpoint to resume from, and starting from step 0 would discard its \
             log; put {path}/checkpoints back, or move {path} away and start a new run"
        );
    }
    for error in damaged {
        complain!("shears: warning: {error}; using an older one");
    }
    Ok(newest)
}

/// Whether the log proves that a checkpoint was written. A killed run may have died in its first
/// save, a failed one may have failed there, and a diverged one does not save: these may start from
/// step 0.
fn is_past_first_save(plan: &Plan, columns: &Columns) -> bool {
    let saved = |how| !matches!(how, EndReason::Failed | EndReason::Diverged);
    if columns.end.as_ref().is_some_and(|end| saved(end.how)) {
        return true;
    }
    if columns
        .resumes
        .iter()
        .any(|resume| resume.checkpoint.is_some())
    {
        return true;
    }
    let last = columns.step.last().copied().unwrap_or(0);
    let mut steps = columns.step.iter().zip(&columns.action);
    let save_was_due = |(&step, &action): (&u64, &ClipAction)| {
        let due = plan.save_every > 0 && step.is_multiple_of(plan.save_every);
        // Skipped steps are not saved.
        due && step < last && action != ClipAction::Skip
    };
    // The first finite loss is the best so far, which is saved.
    let improved =
        |evaluation: &Evaluation| evaluation.val_loss.is_finite() && evaluation.step < last;
    steps.any(save_was_due) || columns.evaluations.iter().any(improved)
}

/// Creates a folder in [`RUNS`], named after `name` and the time.
pub(crate) fn new_folder(name: &str) -> Result<PathBuf, TrainError> {
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    create_folders(Path::new(RUNS)).map_err(TrainError::io("create", RUNS))?;
    let base = format!("{}/{name}-{time}", RUNS);
    let (mut path, mut number) = (PathBuf::from(&base), 1);
    loop {
        match fs::create_dir(&path) {
            // Two runs may start in the same second.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                number += 1;
                path = PathBuf::from(format!("{base}-{number}"));
            }
            Err(error) => return Err(TrainError::io("create", path)(error)),
            Ok(()) => return Ok(path),
        }
    }
}

/// The batches of a run, and the memory it takes in each of `ranks` processes. Refuses a text that
/// is too short.
pub(crate) fn batches_and_memory(
    plan: &Plan,
    model: &AnyModel,
    corpora: &Corpora,
    ranks: usize,
) -> anyhow::Result<(Batches, MemoryEstimate)> {
    let vocabulary = plan.vocabulary_of(&corpora.tokenizer);
    let memory = estimate_memory(plan, &parameters(model), vocabulary, ranks);
    let memory = memory.with_text(corpora);
    let batches =
        Batches::new(plan, model.reading(), corpora.train.clone()).map_err(too_short(plan))?;
    let validation = corpora.validation.len();
    if validation < 2 {
        // Refused now rather than at the first evaluation of a long run.
        let tokens = report::counted(validation as u64, "token");
        misuse!(
            "the validation text is too short: it has {tokens}; at least 2 are needed; give more \
             text, or another --val"
        );
    }
    Ok((batches, memory))
}

/// Explains where batch and window come from if they were not given.
fn too_short(plan: &Plan) -> impl Fn(DataError) -> anyhow::Error {
    let preset = plan.preset.plan();
    let of_preset = (plan.batch, plan.window) == (preset.batch, preset.window);
    move |error| match error {
        DataError::TooShort { .. } if of_preset => Misuse(format!(
            "{error}; batch and window are those of preset {}",
            preset.preset
        ))
        .into(),
        error => TrainError::from(error).into(),
    }
}

/// A run that has ended.
pub(crate) struct Ended {
    pub(crate) folder: RunFolder,
    pub(crate) trainer: Trainer<AnyModel>,
    /// Divergence counts as an end, not as an error.
    pub(crate) how: EndReason,
}

/// Trains a run to its end in this process alone, from its newest checkpoint if there is one.
/// `open` gives its folder once nothing can prevent the run: one that cannot start leaves none.
pub(crate) fn train_alone(
    plan: &Plan,
    corpora: &Corpora,
    threads: usize,
    open: impl FnOnce() -> Result<RunFolder, TrainError>,
    observer: &mut impl Observer,
) -> anyhow::Result<Ended> {
    let device = &device_of(plan).autodiff();
    let model = model_of(plan, plan.vocabulary_of(&corpora.tokenizer), device);
    let (batches, memory) = batches_and_memory(plan, &model, corpora, 1)?;
    memory::refuse_too_large(memory.total(), 1)?;
    let folder = open()?;
    let mut trainer = Trainer::new(plan.clone(), model, batches, threads, device);
    if let Some((_, checkpoint)) = newest_checkpoint(&folder, plan)? {
        trainer = trainer.restore(checkpoint)?;
    }
    let how = match train(&mut trainer, &folder, corpora, device, observer) {
        Ok(end) => end.into(),
        Err(error) if error.is_divergence() => EndReason::Diverged,
        Err(error) => return Err(error).context(name_of(folder.path())),
    };
    Ok(Ended {
        folder,
        trainer,
        how,
    })
}

/// The name of a run, without control characters.
pub(crate) fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    one_line(&name.to_string_lossy())
}
