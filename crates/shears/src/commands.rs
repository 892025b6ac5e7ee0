//! One file per command, and here what several of them share.

pub(crate) mod bench;
pub(crate) mod clip;
pub(crate) mod compare;
pub(crate) mod dash;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod replay;
pub(crate) mod sweep;
pub(crate) mod train;

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, ValueHint};
use shears_data::DataError;
use shears_train::{Corpora, Plan, RunFolder, TrainError, Which};

use crate::exit::{Misuse, misuse};
use crate::loading;
use crate::model::Trained;
use crate::output::complain;

/// The folder of runs, unless another is given.
pub(crate) const RUNS: &str = "runs";

/// The run that a command reads.
#[derive(Args, Debug)]
pub(crate) struct RunArgument {
    /// Folder of the run [default: the newest in runs/]
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
}

impl RunArgument {
    /// Opens it for reading.
    pub(crate) fn open(&self) -> anyhow::Result<RunFolder> {
        let path = self.run.clone().map_or_else(newest_run, Ok)?;
        Ok(RunFolder::open_to_read(&path)?)
    }
}

/// The trained model that a command uses.
#[derive(Args, Debug)]
pub(crate) struct ModelArguments {
    #[command(flatten)]
    run: RunArgument,

    /// Which checkpoint: best, last, or the number of a step
    #[arg(long, value_name = "WHICH", default_value = "best")]
    checkpoint: Which,

    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Print the memory estimate to standard error
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

impl ModelArguments {
    /// Sets the threads, and reads the checkpoint.
    pub(crate) fn open(&self) -> anyhow::Result<Trained> {
        set_threads(self.threads)?;
        Trained::open(self.run.open()?, self.checkpoint)
    }
}

/// The runs in [`RUNS`], with the time at which each was started.
pub(crate) fn runs() -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(RUNS).into_iter().flatten().flatten();
    let started = entries.filter_map(|entry| {
        // The plan is written when a run starts, or resumes with other settings.
        let plan = entry.path().join("plan.toml").metadata();
        Some((plan.ok()?.modified().ok()?, entry.path()))
    });
    started.collect()
}

/// The newest run in [`RUNS`]; prints which one it is.
pub(crate) fn newest_run() -> Result<PathBuf, Misuse> {
    let (_, run) = runs().into_iter().max().ok_or_else(|| {
        Misuse(format!(
            "there is no run in {RUNS}/ yet; `shears train` starts one, or give the folder of a run"
        ))
    })?;
    complain!("shears: the newest run is {}", run.display());
    Ok(run)
}

/// Reads the text of a run. If it is missing, or not the text that the run started with, the error
/// ends with `remedy`.
pub(crate) fn corpora_of(
    run: &RunFolder,
    plan: &Plan,
    shown: bool,
    remedy: &str,
) -> anyhow::Result<Corpora> {
    let kept = run.input_path();
    if plan.reads_standard_input() && !kept.exists() {
        let kept = kept.display();
        anyhow::bail!(
            "{kept} is missing: it holds the text that was read from standard input; put it back"
        );
    }
    let loaded = loading::load(plan, Some(&kept), Some(run.tokenizer()?), shown);
    loaded.map_err(|error| match error {
        TrainError::Changed { .. } | TrainError::Data(DataError::Missing { .. }) => {
            Misuse(format!("{error}; {remedy}")).into()
        }
        error => error.into(),
    })
}

/// The error for a run whose log has no steps.
pub(crate) fn nothing_recorded(run: &RunFolder, what: &str) -> Misuse {
    let run = run.path().display();
    Misuse(format!(
        "{run}: no steps are recorded, so there is nothing to {what}"
    ))
}

/// More than the cores of any machine; starting this many threads takes seconds.
const THREADS_MAX: usize = 1024;

/// Sets the number of threads of the CPU device. Must be called before the first computation.
pub(crate) fn set_threads(threads: Option<usize>) -> anyhow::Result<usize> {
    let typed = threads.is_some();
    let threads = match threads {
        Some(threads) if !(1..=THREADS_MAX).contains(&threads) => {
            misuse!("--threads is {threads}; it must be from 1 to {THREADS_MAX}")
        }
        Some(threads) => threads,
        // One per core.
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        // The training thread is one of them: handing work to the others is cheaper from inside the
        // pool.
        .use_current_thread()
        .build_global();
    let refused = |_| format!("the system refuses to give this process {threads} threads");
    match built.map_err(refused) {
        Err(problem) if typed => misuse!("--threads {threads}: {problem}; give fewer"),
        Err(problem) => Err(anyhow::anyhow!("{problem}; try --threads 1")),
        Ok(()) => Ok(threads),
    }
}
