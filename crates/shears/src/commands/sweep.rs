//! `shears sweep`: trains the same model under several clipping policies.

mod grid;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use shears_parallel::agree;
use shears_run::{EndReason, Glance, LOG};
use shears_train::{ClipPolicy, Corpora, RunFolder, Setting};

use super::compare;
use crate::comparison::Report;
use crate::exit::{INTERRUPTED, misuse};
use crate::loading;
use crate::memory;
use crate::model::{device_of, model_of};
use crate::new_file;
use crate::output::{say, wrapped};
use crate::report;
use crate::settings::{Given, Scope, Settings, checked};
use crate::training::{batches_and_memory, name_of, train_alone};
use crate::watch::{StepWatch, bar_of, has_to_save, stop_when_asked};
use crate::world::World;
use grid::{Cell, Grid};

/// Train the same model under several clipping policies, and compare them
///
/// Every combination of policy, learning rate and seed is an ordinary run in the folder of the
/// sweep. Runs with the same seed start from the same weights and see the same batches. Ctrl-C
/// saves and exits; the same command continues where it stopped and skips finished runs. At the end
/// it writes report.html (a single file that loads nothing), its figures as SVG and all numbers as
/// report.json, and prints a recommendation with its uncertainty.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct SweepArguments {
    /// Clipping policy to compare; repeatable [default: none, and the preset's]
    #[arg(long = "clip", value_name = "POLICY", value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    /// Learning rates, separated by commas [default: the preset's]
    #[arg(long = "lr", value_name = "RATE,...", value_delimiter = ',')]
    pub(crate) rates: Vec<f64>,

    /// Number of seeds per combination: 1, 2, ... N
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) seeds: u32,

    /// Folder of the sweep
    #[arg(long, value_name = "FOLDER", default_value = "sweep", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,

    /// Settings of all runs from a TOML file, which may be the plan of a run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) settings: Settings<OfAllRuns>,
}

/// The settings that all runs of a sweep share. The sweep sets the seeds itself; its runs write no
/// samples and start from random weights.
#[derive(Debug)]
pub(crate) struct OfAllRuns;

impl Scope for OfAllRuns {
    fn takes(setting: &Setting) -> bool {
        !["clip", "lr"].contains(&setting.name.as_str()) && is_used(setting)
    }
}

fn is_used(setting: &Setting) -> bool {
    !["seed", "sample-every", "init-from"].contains(&setting.name.as_str())
}

const EXAMPLES: &str = "Examples:
  shears sweep book.txt --clip none --clip global-norm:1 --clip zclip --steps 500
  shears sweep book.txt --preset rnn-128 --clip none --clip global-norm:1 \\
      --lr 1e-3,3e-3,1e-2 --seeds 3 --steps 500 --out clipping-of-rnn
  shears sweep book.txt --preset rnn-128 --nonlinearity relu --optimizer sgd \\
      --lr 0.5,1,2 --clip none --clip global-norm:1 --clip value:0.05";

pub(crate) fn run(arguments: &SweepArguments) -> anyhow::Result<ExitCode> {
    let mut world = World::find()?;
    // Each process trains runs of its own, which may take any time.
    world.stop_watchdog();
    let result = run_in(&world, arguments);
    world.end(result)
}

/// A grid that is ready to train.
struct Prepared {
    grid: Grid,
    corpora: Corpora,
    threads: usize,
    /// The estimated bytes of one run.
    memory: u64,
}

impl Prepared {
    fn of(world: &World, arguments: &SweepArguments) -> anyhow::Result<Prepared> {
        let mut given = Given::read(arguments.settings.0.clone(), arguments.config.as_deref())?;
        given.restrict("sweep", is_used)?;
        let mut grid = Grid::new(arguments, &given)?;
        new_file::check_folder(&arguments.out, &[grid::MARK, grid::OLD_MARK])?;
        let threads = super::set_threads(world.threads(arguments.threads))?;
        let first = &grid.cells[0].plan;
        if first.reads_standard_input() && !world.is_alone() {
            misuse!("only one process can read standard input; give the text as a file");
        }
        let corpora = loading::load(first, None, grid.tokenizer()?, world.is_first())?;
        grid.identify(&corpora);
        // Policies, rates and seeds change nothing about memory.
        let first = &grid.cells[0].plan;
        let device = &device_of(first).autodiff();
        let model = model_of(first, first.vocabulary_of(&corpora.tokenizer), device);
        let memory = batches_and_memory(first, &model, &corpora, 1)?.1.total();
        memory::refuse_too_large(memory, world.local())?;
        Ok(Prepared {
            grid,
            corpora,
            threads,
            memory,
        })
    }

    fn introduce(&self, out: &Path, ranks: usize) {
        let grid = &self.grid;
        let steps = grid.cells.iter().map(|cell| cell.plan.steps).sum();
        let policies = match grid.policies.len() {
            1 => "1 policy".to_owned(),
            several => format!("{several} policies"),
        };
        let words = format!(
            "{}: {} x {} x {}, {} together, in {}; memory: about {}",
            report::counted(grid.cells.len() as u64, "run"),
            policies,
            report::counted(grid.rates.len() as u64, "learning rate"),
            report::counted(grid.seeds.into(), "seed"),
            report::counted(steps, "step"),
            out.display(),
            report::memory_of_each(self.memory, ranks)
        );
        say!("{}", wrapped(&words, 2));
        if let Some(line) = report::bf16_line(&grid.cells[0].plan) {
            say!("{}", wrapped(&line, 2));
        }
    }
}

fn run_in(world: &World, arguments: &SweepArguments) -> anyhow::Result<ExitCode> {
    let prepared = world.settle(Prepared::of(world, arguments))?;
    if world.is_first() {
        prepared.introduce(&arguments.out, world.ranks().size());
        world.binding().iter().for_each(|line| say!("{line}"));
    }
    let marked = world.is_first().then(|| prepared.grid.mark(&arguments.out));
    world.settle(marked.unwrap_or(Ok(())))?;
    // Each process trains its share of the runs on its own; the first prints how all of them end.
    let ranks = world.ranks();
    let (rank, size) = (ranks.rank(), ranks.size());
    let cells = || prepared.grid.cells.iter();
    let own: Vec<&Cell> = cells().skip(rank).step_by(size).collect();
    let others = cells()
        .enumerate()
        .filter(|(index, _)| index % size != rank);
    let mut others: Vec<&Cell> = others.map(|(_, cell)| cell).collect();
    // One process that ended would end the others before they have saved.
    let waits = || has_to_save(size > 1);
    let stopped = train_cells(&prepared, &own, &mut others, world.is_first(), &waits)?;
    let stopped = !agree(&*ranks, !stopped);
    has_to_save(false);
    if world.is_first() {
        tell_ended(&mut others, |line| say!("{line}"));
    }
    if stopped {
        if world.is_first() {
            say!("stopped; the same command continues from here");
        }
        return Ok(ExitCode::from(INTERRUPTED));
    }
    match world.is_first() {
        true => conclude(&prepared.grid, &arguments.out),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Trains the own runs one after the other, and returns whether a signal stopped it. If `shown`,
/// prints how they and the runs of `others` end. Calls `between` before each run and after it.
fn train_cells(
    prepared: &Prepared,
    own: &[&Cell],
    others: &mut Vec<&Cell>,
    shown: bool,
    between: &dyn Fn(),
) -> anyhow::Result<bool> {
    let Prepared {
        corpora, threads, ..
    } = prepared;
    let stop = stop_when_asked(shown)?;
    let steps = own.iter().map(|cell| cell.plan.steps).sum();
    // One progress bar for all runs.
    let bar = &bar_of(
        steps,
        "{bar:24.cyan/dim} {percent} %  {msg}  {eta} left",
        shown,
    );
    let tell = |line: &str| bar.suspend(|| say!("{line}"));
    let mut before = 0;
    for &cell in own {
        bar.set_message(name_of(&cell.folder));
        between();
        let (how, loss) = match ended(cell)? {
            Some(ended) => ended,
            None => {
                let open = || match cell.exists() {
                    true => RunFolder::open(&cell.folder),
                    false => RunFolder::create(
                        &cell.folder,
                        &cell.plan,
                        &corpora.tokenizer,
                        corpora.standard_input.as_deref(),
                    ),
                };
                let mut watch = StepWatch {
                    stop: &stop,
                    bar,
                    step: &mut |event| bar.set_position(before + event.step),
                };
                let how = train_alone(&cell.plan, corpora, *threads, open, &mut watch)?.how;
                (how, glance(cell).val_loss)
            }
        };
        if how == EndReason::Stopped {
            bar.finish_and_clear();
            return Ok(true);
        }
        before += cell.plan.steps;
        bar.set_position(before);
        if shown {
            tell(&line_of(cell, how, loss));
            tell_ended(others, tell);
        }
    }
    between();
    bar.finish_and_clear();
    Ok(false)
}

/// Prints the runs of other processes that have ended, and keeps the rest in `others`.
fn tell_ended(others: &mut Vec<&Cell>, tell: impl Fn(&str)) {
    for cell in std::mem::take(others) {
        match end_of(cell) {
            Some((how, loss)) => tell(&line_of(cell, how, loss)),
            None => others.push(cell),
        }
    }
}

/// How a run of an earlier call ended and its last validation loss, if it needs no more steps.
fn ended(cell: &Cell) -> anyhow::Result<Option<(EndReason, Option<f64>)>> {
    if !cell.exists() {
        return Ok(None);
    }
    let folder = RunFolder::open_to_read(&cell.folder)?;
    let trained = folder.plan()?.with_sizes();
    let differing = shears_train::compare_plans(&trained, &cell.plan.with_sizes());
    if let Some((name, was, asked)) = differing.first() {
        let path = cell.folder.display();
        misuse!("{path} was trained with {name} {was}, not {asked}; choose another --out");
    }
    Ok(end_of(cell))
}

fn glance(cell: &Cell) -> Glance {
    Glance::at(&cell.folder.join(LOG))
}

/// The same for a run that another process may still be writing.
fn end_of(cell: &Cell) -> Option<(EndReason, Option<f64>)> {
    let glance = glance(cell);
    let how = glance.end?.how;
    let is_over = how != EndReason::Stopped && how != EndReason::Failed;
    is_over.then_some((how, glance.val_loss))
}

/// The line that says how a run ended.
fn line_of(cell: &Cell, how: EndReason, loss: Option<f64>) -> String {
    let loss = loss.map_or(String::new(), |loss| format!(", val loss {loss:.4}"));
    let how = match how {
        EndReason::Finished => "finished",
        EndReason::OutOfPatience => "stopped early",
        EndReason::Diverged => "diverged",
        EndReason::Stopped => "stopped",
        EndReason::Failed => "failed",
    };
    format!("{}: {how}{loss}", name_of(&cell.folder))
}

/// Reads the logs of the runs, and writes the report.
fn conclude(grid: &Grid, out: &Path) -> anyhow::Result<ExitCode> {
    let runs = grid.cells.iter().map(|cell| compare::read(&cell.folder));
    let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
    let report = Report::of(compare::comparison(runs, &[], None)?);
    report.write(out)?;
    report.print(None, Some(out));
    Ok(ExitCode::SUCCESS)
}
