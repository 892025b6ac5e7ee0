//! `shears train`: trains a new run, or resumes one.

mod arguments;
mod ending;
mod initial;
mod remarks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use shears_model::{AnyModel, parameters};
use shears_run::Event;
use shears_train::{
    Briefing, Checkpoint, Corpora, End, Plan, RunFolder, TrainError, Trainer, header, train,
};

use crate::commands::generate::write_last_sample;
use crate::exit::{INTERRUPTED, Misuse};
use crate::loading;
use crate::memory;
use crate::model::{device_of, model_of, refuse_edited};
use crate::output::{say, wrapped};
use crate::report;
use crate::screen::{Screen, Setup};
use crate::settings::Given;
use crate::tensorboard::TensorBoard;
use crate::training::{batches_and_memory, new_folder, newest_checkpoint};
use crate::watch::{Show, Watch};
use crate::world::World;
pub(crate) use arguments::TrainArguments;
use arguments::{Asked, Outside};

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
    } = &asked;
    // Set before the text is read, because training a tokenizer is parallel as well.
    let threads = super::set_threads(world.threads(outside.threads))?;
    // The first of several processes reads everything, and sends it to the others.
    let own = world.on_first_rank(|| match resume {
        Some(Some(folder)) => go_on(given, folder, *show),
        Some(None) => go_on(given, &super::newest_run()?, *show),
        None => start(given, outside.out.clone(), *show),
    });
    let mut job = shared(world, own)?;
    let device = &device_of(&job.plan).autodiff();
    let prepared = prepare(world, &asked, &mut job, threads, device);
    let (folder, mut trainer) = world.settle(prepared)?;
    let (plain, corpora) = (device.clone().without_autodiff(), &job.corpora);
    let done = trainer.progress().step;
    let shown = if outside.tui { Show::Screen } else { *show };
    let mut watch = Watch::new(shown, trainer.plan(), done, corpora, plain)?;
    if let Some(folder) = &folder {
        add_listeners(&mut watch, folder, &trainer, outside)?;
    }
    let end = train(&mut trainer, folder.as_ref(), corpora, device, &mut watch);
    watch.finish(end.as_ref().ok().copied());
    let told = folder.as_ref().map_or(Ok(()), |folder| {
        let sample = || write_last_sample(&trainer, &corpora.tokenizer, device, &watch.stop());
        let is_altered = corpora.altered.is_some();
        let step = trainer.progress().step;
        ending::tell(
            &end,
            folder,
            &asked,
            trainer.plan(),
            step,
            is_altered,
            sample,
        )
    });
    let end = end?;
    told?;
    Ok(match end {
        End::Stopped => ExitCode::from(INTERRUPTED),
        End::Finished | End::OutOfPatience => ExitCode::SUCCESS,
    })
}

/// Shares what the first process has read with all others.
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

/// A run that is ready to train.
struct Job {
    plan: Plan,
    corpora: Corpora,
    /// None for a new run, whose folder is created last: a run that cannot start leaves none
    /// behind.
    folder: Option<RunFolder>,
    /// Where to create it, if given.
    out: Option<PathBuf>,
    checkpoint: Option<Checkpoint>,
    /// Notes on the settings to print before training.
    remarks: Vec<String>,
}

fn start(given: &Given, out: Option<PathBuf>, show: Show) -> anyhow::Result<Job> {
    let mut given = given.clone();
    let mut source = initial::open(&mut given)?;
    let mut plan = given.plan()?;
    let remarks = remarks::of_plan(&given, &plan);
    if let Some(path) = &out {
        // Checked before the text is read, which may take long.
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
    // Checked before the text is read, which may take long.
    let asked = given.changed(&plan, 0)?;
    if plan.val.is_none() && asked.val.is_some() {
        let problem = "the run is validated on a part of its own text; leave out --val";
        return Err(Misuse(problem.to_string()).into());
    }
    let remedy = "put it back, or name its new place: train TEXT --resume RUN";
    let corpora = super::corpora_of(&folder, &asked, show == Show::Text, remedy)?;
    let newest = newest_checkpoint(&folder, &plan)?;
    if newest.is_none() && plan.init_from.is_some() {
        return Err(initial::without_checkpoint(path).into());
    }
    if let Some((_, checkpoint)) = &newest {
        let remedy = "undo that; settings that may change are given as flags with --resume";
        refuse_edited(&folder, plan.edited_since(&checkpoint.plan), remedy)?;
    }
    let step = newest
        .as_ref()
        .map_or(0, |(_, checkpoint)| checkpoint.progress.step);
    let changed = given.changed(&plan, step)?;
    if show == Show::Text {
        match &newest {
            Some((path, _)) => say!("resuming from {}", path.display()),
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

/// The trainer, and the folder if this process writes it.
fn prepare(
    world: &World,
    asked: &Asked,
    job: &mut Job,
    threads: usize,
    device: &Device,
) -> anyhow::Result<(Option<RunFolder>, Trainer<AnyModel>)> {
    // All ranks must come here.
    let team = world.team(job.plan.shards, threads);
    let (plan, corpora) = (job.plan.clone(), &mut job.corpora);
    let vocabulary = plan.vocabulary_of(&corpora.tokenizer);
    let model = model_of(&plan, vocabulary, device);
    let (batches, mut memory) = batches_and_memory(&plan, &model, corpora, world.ranks().size())?;
    if let Some(checkpoint) = job.checkpoint.as_ref().filter(|_| asked.outside.listens()) {
        let tensors = parameters(&model).len();
        memory = memory.with_history(checkpoint.progress.step, tensors);
    }
    if asked.show == Show::Text {
        introduce(&plan, corpora);
        let described = team
            .as_ref()
            .map(|team| world.describe(team, plan.batch, plan.shards));
        for line in described.into_iter().chain(world.binding()) {
            say!("{}\n", wrapped(&line, 0));
        }
        let of_text = remarks::of_text(&plan, &batches, corpora);
        for remark in job.remarks.iter().chain(&of_text) {
            say!("{}", wrapped(&format!("note: {remark}"), 2));
        }
    } else if world.is_first() {
        report::warn_of_bf16(&plan);
    }
    if asked.outside.verbose {
        let header = header(&plan, &parameters(&model));
        let table = report::parameter_table(&header, vocabulary);
        say!(
            "{table}\n{}",
            report::memory_line(&memory, world.ranks().size())
        );
    }
    memory::refuse_too_large(memory.total(), world.local())?;
    let trainer = Trainer::new(plan, model, batches, threads, device);
    // Refuses a batch with fewer rows than ranks, before the folder is created.
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
    if let Some(folder) = folder.as_ref().filter(|_| asked.show == Show::Text) {
        say!("run folder {}\n", folder.path().display());
    }
    if let Some(checkpoint) = job.checkpoint.take() {
        trainer = trainer.restore(checkpoint)?;
    }
    Ok((folder, trainer))
}

/// Writes changed settings to the folder of the run.
fn with_plan(folder: RunFolder, plan: &Plan) -> Result<RunFolder, TrainError> {
    if folder.plan()? != *plan {
        folder.replace_plan(plan)?;
    }
    Ok(folder)
}

/// Adds a screen and event files for TensorBoard, if asked for. Both begin with the history of the
/// run.
fn add_listeners(
    watch: &mut Watch,
    folder: &RunFolder,
    trainer: &Trainer<AnyModel>,
    outside: &Outside,
) -> anyhow::Result<()> {
    if !outside.listens() {
        return Ok(());
    }
    let plan = trainer.plan();
    let done = trainer.progress().step;
    let log = folder.log()?;
    // Later steps will be repeated.
    let is_past = move |event: &Event| event.step() <= done && !matches!(event, Event::End { .. });
    let history = || -> anyhow::Result<_> {
        let events = log.events()?;
        Ok(events.filter(move |event| event.as_ref().map_or(true, is_past)))
    };
    let board = match outside.tensorboard {
        true => Some(TensorBoard::create(folder, plan, done, history()?)?),
        false => None,
    };
    // The screen must end before the others, which may print something at the end.
    if outside.tui {
        let header = header(plan, &parameters(trainer.model()));
        let setup = Setup::new(plan, folder.path());
        watch.add(Screen::open(setup, header, history()?, watch.stop())?);
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
    if let Some(line) = report::bf16_line(plan) {
        say!("{}\n", wrapped(&line, 2));
    }
}
