//! `shears train`: a run from its plan, or from where it was left, to its end.

mod arguments;
mod asked;
mod ending;
mod initial;
mod remarks;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use gradclip::ClipAction;
use shears_data::DataError;
use shears_model::{LanguageModel, Precision, parameters};
use shears_run::{Columns, EndReason, Evaluation, Event, RanksEvent};
use shears_train::{
    Batches, Briefing, Checkpoint, Corpora, End, MemoryEstimate, Plan, RunFolder, TrainError,
    Trainer, estimate_memory, header, train,
};

use crate::commands::generate::write_sample;
use crate::exit::{INTERRUPTED, Misuse, misuse};
use crate::loading;
use crate::memory;
use crate::model::{Work, with_model_to_train};
use crate::output::{complain, say, wrapped};
use crate::report;
use crate::screen::{Screen, Setup};
use crate::settings::Given;
use crate::tensorboard::TensorBoard;
use crate::watch::{Show, Watch};
use crate::world::World;
pub(crate) use arguments::TrainArguments;
use asked::Asked;
use ending::Ending;

pub(crate) fn run(arguments: TrainArguments) -> anyhow::Result<ExitCode> {
    let world = World::find()?;
    let result = run_in(&world, arguments);
    world.end(result)
}

fn run_in(world: &World, arguments: TrainArguments) -> anyhow::Result<ExitCode> {
    let asked = world.settle(Asked::of(world, arguments))?;
    let Asked {
        given,
        outside,
        resume,
        show,
    } = asked;
    // Before the text is read: training a tokenizer computes in parallel, too.
    let threads = super::set_threads(world.threads(outside.threads))?;
    // The first of several processes reads, and tells the others.
    let own = world.first_does(|| match &resume {
        Some(Some(folder)) => go_on(&given, folder, show),
        Some(None) => go_on(&given, &super::newest_run()?, show),
        None => start(&given, outside.out.clone(), show),
    });
    let job = shared(world, own)?;
    let vocabulary = job.plan.vocabulary_of(&job.corpora.tokenizer);
    let plan = job.plan.clone();
    let work = Train {
        world,
        job,
        show,
        threads,
        verbose: outside.verbose && world.is_first(),
        tensorboard: outside.tensorboard && world.is_first(),
        tui: outside.tui,
    };
    with_model_to_train(&plan, vocabulary, work)
}

/// What the first process has read, for all of them.
fn shared(world: &World, own: Option<anyhow::Result<Job>>) -> anyhow::Result<Job> {
    let Some(own) = own else {
        let Briefing {
            plan,
            corpora,
            checkpoint,
        } = {
            world.settle(Ok(()))?;
            Briefing::from_bytes(&world.broadcast(Ok(Vec::new()))?)?
        };
        return Ok(Job {
            plan,
            corpora,
            folder: None,
            out: None,
            checkpoint,
            remarks: Vec::new(),
        });
    };
    if world.is_alone() {
        return own;
    }
    let bytes = match &own {
        Ok(job) => Briefing::to_bytes(&job.plan, &job.corpora, job.checkpoint.as_ref()),
        Err(_) => Ok(Vec::new()),
    };
    let job = world.settle(own)?;
    world.broadcast(bytes.map_err(anyhow::Error::from))?;
    Ok(job)
}

/// A run that is about to be trained.
struct Job {
    plan: Plan,
    corpora: Corpora,
    /// Absent until the model is known to be possible: a run that cannot start leaves no folder.
    folder: Option<RunFolder>,
    /// Where to make it, if somebody has said.
    out: Option<PathBuf>,
    checkpoint: Option<Checkpoint>,
    /// What to say of the settings before it starts.
    remarks: Vec<String>,
}

fn start(given: &Given, out: Option<PathBuf>, show: Show) -> anyhow::Result<Job> {
    let mut given = given.clone();
    let mut source = initial::open(&mut given)?;
    let mut plan = given.plan()?;
    let remarks = remarks::of_plan(&given, &plan);
    if let Some(path) = &out {
        // Before the text is read, which may take long.
        RunFolder::check_free(path)?;
    }
    let tokenizer = source.as_mut().and_then(|source| source.tokenizer.take());
    let tokenizer = tokenizer.map(|(_, tokenizer)| tokenizer);
    let is_own = tokenizer.is_some();
    let corpora = loading::load(&plan, None, tokenizer, show == Show::Text)?;
    corpora.identify(&mut plan);
    let checkpoint = match source {
        Some(source) => {
            initial::identify(&source, &corpora.tokenizer, is_own, &mut plan)?;
            Some(initial::read(source, &mut plan, show)?)
        }
        None => None,
    };
    Ok(Job {
        plan,
        corpora,
        folder: None,
        out,
        checkpoint,
        remarks,
    })
}

fn go_on(given: &Given, path: &Path, show: Show) -> anyhow::Result<Job> {
    let folder = RunFolder::open(path)?;
    let plan = folder.plan()?;
    // Before the text is read, which may take long.
    let asked = given.changed(&plan, 0)?;
    let remedy = "put it back, or name where it is: train TEXT --resume RUN";
    let corpora = super::corpora_of(&folder, &asked, show == Show::Text, remedy)?;
    let newest = newest_checkpoint(&folder, &plan)?;
    if newest.is_none() && plan.init_from.is_some() {
        return Err(initial::without_checkpoint(path).into());
    }
    if let Some((_, checkpoint)) = &newest {
        let differing = plan.edited_since(&checkpoint.plan);
        if !differing.is_empty() {
            let list: Vec<String> = differing
                .into_iter()
                .map(|(name, was, is)| format!("{name}: trained with {was}, plan.toml has {is}"))
                .collect();
            let path = path.join("plan.toml");
            misuse!(
                "{} was changed ({}); put back what it was; what may be changed is typed after \
                 --resume",
                path.display(),
                list.join("; ")
            );
        }
    }
    let step = newest
        .as_ref()
        .map_or(0, |(_, checkpoint)| checkpoint.progress.step);
    let changed = given.changed(&plan, step)?;
    if show == Show::Text {
        match &newest {
            Some((path, _)) => say!("going on from {}", path.display()),
            None => say!("no checkpoint yet: starting from step 0"),
        }
    }
    let checkpoint = newest.map(|(_, checkpoint)| checkpoint);
    let remarks = remarks::of_resume(&plan, &changed, checkpoint.as_ref(), &folder)?;
    Ok(Job {
        plan: changed,
        corpora,
        folder: Some(folder),
        out: None,
        checkpoint,
        remarks,
    })
}

/// The newest checkpoint that is whole, with a warning for each newer one; none before the first.
pub(super) fn newest_checkpoint(
    folder: &RunFolder,
    plan: &Plan,
) -> anyhow::Result<Option<(PathBuf, Checkpoint)>> {
    let (newest, damaged) = folder.checkpoints().newest()?;
    if newest.is_none() && !damaged.is_empty() {
        // Starting again would write over what the run has recorded.
        let list: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        let path = folder.path().display();
        anyhow::bail!(
            "no checkpoint of the run is whole ({}); put one back from a copy, or move {path} away \
             and train anew",
            list.join("; ")
        );
    }
    if newest.is_none() && is_past_first_save(plan, &folder.log()?.columns) {
        let path = folder.path().display();
        anyhow::bail!(
            "{path} has no checkpoint to go on from, and to start from step 0 would discard its \
             log; put {path}/checkpoints back, or move {path} away and train anew"
        );
    }
    for error in damaged {
        complain!("shears: warning: {error}; using an older one");
    }
    Ok(newest)
}

/// Whether the log proves that a checkpoint was written. A run that was killed may have been in its
/// first save, one that failed may have failed by it, and one that diverged saves nothing of that:
/// these may start again.
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
        // Steps with non-finite gradients are not saved.
        due && step < last && action != ClipAction::Skip
    };
    // The first loss is the best until then.
    let improved =
        |evaluation: &Evaluation| evaluation.val_loss.is_finite() && evaluation.step < last;
    steps.any(save_was_due) || columns.evaluations.iter().any(improved)
}

/// Makes a folder in [`super::RUNS`] of a name and the time.
pub(super) fn new_folder(name: &str) -> Result<PathBuf, TrainError> {
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    fs::create_dir_all(super::RUNS).map_err(TrainError::io("create", super::RUNS))?;
    let base = format!("{}/{name}-{time}", super::RUNS);
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

struct Train<'a> {
    world: &'a World,
    job: Job,
    show: Show,
    threads: usize,
    verbose: bool,
    tensorboard: bool,
    tui: bool,
}

impl Work for Train<'_> {
    type Output = anyhow::Result<ExitCode>;

    fn with<M: LanguageModel>(mut self, model: M, device: &Device) -> Self::Output {
        let team = self.world.team(self.job.plan.shards, self.threads);
        let prepared = self.prepare(model, device, team);
        let (folder, mut trainer) = self.world.settle(prepared)?;
        let Train {
            job: Job { corpora, .. },
            show,
            verbose,
            tensorboard,
            tui,
            ..
        } = self;
        let plain = device.clone().without_autodiff();
        let done = trainer.progress().step;
        let shown = if tui { Show::Screen } else { show };
        let mut watch = Watch::new(shown, trainer.plan(), done, &corpora, plain.clone())?;
        if let Some(folder) = &folder {
            add_listeners(&mut watch, folder, &trainer, tui, tensorboard)?;
        }
        let end = train(&mut trainer, folder.as_ref(), &corpora, device, &mut watch);
        watch.finish(end.as_ref().ok().copied());
        let told = folder.as_ref().map_or(Ok(()), |folder| {
            let ending = Ending {
                folder,
                plan: trainer.plan(),
                show,
                verbose,
                is_altered: corpora.altered.is_some(),
            };
            let write = || {
                let (model, end) = (trainer.model().valid(), trainer.plan().end_token);
                write_sample(&model, &corpora.tokenizer, end, &plain, 300)
            };
            ending.of(&end, write)
        });
        let end = end?;
        told?;
        Ok(match end {
            End::Stopped => ExitCode::from(INTERRUPTED),
            End::Finished | End::OutOfPatience => ExitCode::SUCCESS,
        })
    }
}

impl Train<'_> {
    /// The trainer, and the folder if this is the process that writes.
    fn prepare<M: LanguageModel>(
        &mut self,
        model: M,
        device: &Device,
        team: Option<RanksEvent>,
    ) -> anyhow::Result<(Option<RunFolder>, Trainer<M>)> {
        let (world, job) = (self.world, &mut self.job);
        let (plan, corpora) = (job.plan.clone(), &mut job.corpora);
        let vocabulary = plan.vocabulary_of(&corpora.tokenizer);
        let (batches, memory) = batches_and_memory(&plan, &model, corpora)?;
        if self.show == Show::Text {
            introduce(&plan, corpora);
            let described = |team| world.describe(team, plan.batch, plan.shards);
            for line in team
                .as_ref()
                .map(described)
                .into_iter()
                .chain(world.binding())
            {
                say!("{}\n", wrapped(&line, 0));
            }
            for remark in job
                .remarks
                .iter()
                .chain(&remarks::of_text(&plan, &batches, corpora))
            {
                say!("{}", wrapped(&format!("note: {remark}"), 2));
            }
        }
        if self.verbose {
            describe(&plan, &model, vocabulary, &memory);
        }
        memory::refuse_too_large(memory.total())?;
        let trainer = Trainer::new(plan, model, batches, self.threads, device);
        // Before the folder is made: a batch with too few rows for the ranks is refused.
        let mut trainer = trainer
            .with_ranks(world.ranks())?
            .with_heartbeat(world.heartbeat())
            .with_team(team);
        let folder = match job.folder.take() {
            Some(folder) => Some(with_plan(folder, trainer.plan())?),
            None if !world.is_first() => None,
            None => Some(RunFolder::create(
                &job.out
                    .take()
                    .map_or_else(|| new_folder(&report::short_model_name(trainer.plan())), Ok)?,
                trainer.plan(),
                &corpora.tokenizer,
                corpora.standard_input.take().as_deref(),
            )?),
        };
        if let Some(folder) = folder.as_ref().filter(|_| self.show == Show::Text) {
            say!("run folder {}\n", folder.path().display());
        }
        if let Some(checkpoint) = job.checkpoint.take() {
            trainer = trainer.restore(checkpoint)?;
        }
        Ok((folder, trainer))
    }
}

/// Notes in the folder of a run what was changed.
fn with_plan(folder: RunFolder, plan: &Plan) -> Result<RunFolder, TrainError> {
    if folder.plan()? != *plan {
        folder.replace_plan(plan)?;
    }
    Ok(folder)
}

/// What a run reads and takes, if its text is long enough.
pub(super) fn batches_and_memory<M: LanguageModel>(
    plan: &Plan,
    model: &M,
    corpora: &Corpora,
) -> anyhow::Result<(Batches, MemoryEstimate)> {
    let vocabulary = plan.vocabulary_of(&corpora.tokenizer);
    let memory = estimate_memory(plan, &parameters(model), vocabulary).with_text(corpora);
    let batches =
        Batches::new(plan, model.reading(), corpora.train.clone()).map_err(too_short(plan))?;
    let validation = corpora.validation.len();
    if validation < 2 {
        // Said now, not when a long training comes to its first evaluation.
        let tokens = report::counted(validation as u64, "token");
        misuse!(
            "the validation text is too short: it has {tokens}; at least 2 are needed; give more \
             text, or another --val"
        );
    }
    Ok((batches, memory))
}

/// Says where batch and window come from, which may not have been typed.
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

/// A screen and event files for TensorBoard, each if it was asked for. Both begin with what the run
/// has done before.
fn add_listeners<M: LanguageModel>(
    watch: &mut Watch,
    folder: &RunFolder,
    trainer: &Trainer<M>,
    tui: bool,
    tensorboard: bool,
) -> anyhow::Result<()> {
    if !tui && !tensorboard {
        return Ok(());
    }
    let plan = trainer.plan();
    let done = trainer.progress().step;
    let log = folder.log()?;
    // Later steps are taken again.
    let is_past = move |event: &Event| event.step() <= done && !matches!(event, Event::End { .. });
    let history = || -> anyhow::Result<_> {
        let events = log.events()?;
        Ok(events.filter(move |event| event.as_ref().map_or(true, is_past)))
    };
    let board = match tensorboard {
        true => Some(TensorBoard::create(folder, plan, done, history()?)?),
        false => None,
    };
    // The screen is the first to be told of the end, because others may have something to say then.
    if tui {
        let header = header(plan, &parameters(trainer.model()));
        let setup = Setup::new(plan, folder.path(), &header);
        watch.add(Screen::open(setup, history()?, watch.stop())?);
    }
    if let Some(board) = board {
        watch.add(board);
    }
    Ok(())
}

fn introduce(plan: &Plan, corpora: &Corpora) {
    let text = format!(
        "text {}: {} training and {} validation tokens ({})",
        corpora.description,
        report::count(corpora.train.len() as u64),
        report::count(corpora.validation.len() as u64),
        corpora.tokenizer.describe(),
    );
    let settings = report::plan_lines(plan);
    let settings = format!("{} on {}: {settings}", plan.model, plan.device);
    say!("{}\n{}\n", wrapped(&text, 2), wrapped(&settings, 2));
    if plan.precision == Precision::Bf16 {
        say!("{}\n", wrapped(&report::bf16_line(), 2));
    }
}

/// The shapes of the model, and what training takes.
fn describe<M: LanguageModel>(plan: &Plan, model: &M, vocabulary: usize, memory: &MemoryEstimate) {
    let header = header(plan, &parameters(model));
    let table = report::parameter_table(&header.parameters, vocabulary);
    say!("{table}\n{}", report::memory_line(memory));
}
