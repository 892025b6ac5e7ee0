//! `shears train`: trains a new run, or resumes one.

mod arguments;
mod asked;
mod ending;
mod initial;
mod remarks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use shears_model::{LanguageModel, Precision, parameters};
use shears_run::{Event, RanksEvent};
use shears_train::{
    Briefing, Checkpoint, Corpora, End, MemoryEstimate, Plan, RunFolder, TrainError, Trainer,
    header, train,
};

use crate::commands::generate::write_sample;
use crate::exit::INTERRUPTED;
use crate::loading;
use crate::memory;
use crate::model::{device_of, refuse_edited, with_model};
use crate::output::{say, wrapped};
use crate::report;
use crate::screen::{Screen, Setup};
use crate::settings::Given;
use crate::tensorboard::TensorBoard;
use crate::training::{batches_and_memory, new_folder, newest_checkpoint};
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
    // Set before the text is read, because training a tokenizer is parallel as well.
    let threads = super::set_threads(world.threads(outside.threads))?;
    // The first of several processes reads everything, and sends it to the others.
    let own = world.on_first_rank(|| match &resume {
        Some(Some(folder)) => go_on(&given, folder, show),
        Some(None) => go_on(&given, &super::newest_run()?, show),
        None => start(&given, outside.out.clone(), show),
    });
    let job = shared(world, own)?;
    let vocabulary = job.plan.vocabulary_of(&job.corpora.tokenizer);
    let plan = job.plan.clone();
    let device = &device_of(&plan).autodiff();
    let training = Training {
        world,
        job,
        show,
        threads,
        verbose: outside.verbose && world.is_first(),
        tensorboard: outside.tensorboard && world.is_first(),
        tui: outside.tui,
    };
    with_model!(plan, vocabulary, device, |model| training
        .run(model, device))
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

struct Training<'a> {
    world: &'a World,
    job: Job,
    show: Show,
    threads: usize,
    verbose: bool,
    tensorboard: bool,
    tui: bool,
}

impl Training<'_> {
    fn run<M: LanguageModel>(mut self, model: M, device: &Device) -> anyhow::Result<ExitCode> {
        let team = self.world.team(self.job.plan.shards, self.threads);
        let prepared = self.prepare(model, device, team);
        let (folder, mut trainer) = self.world.settle(prepared)?;
        let Training {
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
                let stop = watch.stop();
                write_sample(&model, &corpora.tokenizer, end, &plain, 300, &stop)
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

    /// The trainer, and the folder if this process writes it.
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
        if let Some(folder) = folder.as_ref().filter(|_| self.show == Show::Text) {
            say!("run folder {}\n", folder.path().display());
        }
        if let Some(checkpoint) = job.checkpoint.take() {
            trainer = trainer.restore(checkpoint)?;
        }
        Ok((folder, trainer))
    }
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
    // Later steps will be repeated.
    let is_past = move |event: &Event| event.step() <= done && !matches!(event, Event::End { .. });
    let history = || -> anyhow::Result<_> {
        let events = log.events()?;
        Ok(events.filter(move |event| event.as_ref().map_or(true, is_past)))
    };
    let board = match tensorboard {
        true => Some(TensorBoard::create(folder, plan, done, history()?)?),
        false => None,
    };
    // The screen must end before the others, which may print something at the end.
    if tui {
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
    if plan.precision == Precision::Bf16 {
        say!("{}\n", wrapped(&report::bf16_line(), 2));
    }
}

/// Prints the shapes of the model and the memory of training.
fn describe<M: LanguageModel>(plan: &Plan, model: &M, vocabulary: usize, memory: &MemoryEstimate) {
    let header = header(plan, &parameters(model));
    let table = report::parameter_table(&header.parameters, vocabulary);
    say!("{table}\n{}", report::memory_line(memory));
}
