//! One file a command.

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
use shears_train::{Corpora, Plan, RunFolder, TrainError};

use crate::exit::{Misuse, misuse};
use crate::loading;
use crate::output::complain;

/// Where runs are, unless somebody says otherwise.
pub(crate) const RUNS: &str = "runs";

/// The run that a command is about.
#[derive(Args, Debug)]
pub(crate) struct RunArgument {
    /// Folder of the run [default: the newest in runs/]
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
}

impl RunArgument {
    /// Opens it to read it.
    pub(crate) fn open(&self) -> anyhow::Result<RunFolder> {
        let path = self.run.clone().map_or_else(newest_run, Ok)?;
        Ok(RunFolder::open_to_read(&path)?)
    }
}

/// The runs in [`RUNS`], with the time at which each was started.
pub(crate) fn runs() -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(RUNS).into_iter().flatten().flatten();
    let started = entries.filter_map(|entry| {
        // The plan is written when a run starts, and when it goes on with other settings.
        let plan = entry.path().join("plan.toml").metadata();
        Some((plan.ok()?.modified().ok()?, entry.path()))
    });
    started.collect()
}

/// The run in [`RUNS`] that was started last; which one that is, is said.
pub(crate) fn newest_run() -> Result<PathBuf, Misuse> {
    let (_, run) = runs().into_iter().max().ok_or_else(|| {
        Misuse(format!(
            "there is no run in {RUNS}/ yet; `shears train` starts one, or give the folder of a run"
        ))
    })?;
    complain!("shears: the newest run is {}", run.display());
    Ok(run)
}

/// The text of a run, which must be the one that it was started with; `remedy` is what to do if it
/// is not, or is not there.
pub(crate) fn corpora_of(
    run: &RunFolder,
    plan: &Plan,
    shown: bool,
    remedy: &str,
) -> anyhow::Result<Corpora> {
    let kept = run.input_path();
    if plan.reads_standard_input() && !kept.exists() {
        let kept = kept.display();
        anyhow::bail!("{kept} is gone, the text that the run read as standard input; put it back");
    }
    let loaded = loading::load(plan, Some(&kept), Some(run.tokenizer()?), shown);
    loaded.map_err(|error| match error {
        TrainError::Changed { .. } | TrainError::Data(DataError::Missing { .. }) => {
            Misuse(format!("{error}; {remedy}")).into()
        }
        error => error.into(),
    })
}

/// That there is nothing in a run's log to do something with.
pub(crate) fn nothing_recorded(run: &RunFolder, what: &str) -> Misuse {
    let run = run.path().display();
    Misuse(format!(
        "{run}: no step is recorded, so there is nothing to {what}"
    ))
}

/// More than any machine has cores; starting so many takes seconds.
const THREADS_MAX: usize = 1024;

/// How many threads were asked for; as many as there are cores, if nothing was said.
pub(crate) fn thread_count(threads: Option<usize>) -> Result<usize, Misuse> {
    match threads {
        Some(threads) if !(1..=THREADS_MAX).contains(&threads) => {
            misuse!("--threads is {threads}; it must be from 1 to {THREADS_MAX}")
        }
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Sets how many threads the CPU device computes on; before the first computation.
pub(crate) fn set_threads(threads: Option<usize>) -> anyhow::Result<usize> {
    let typed = threads.is_some();
    let threads = thread_count(threads)?;
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        // The thread that trains is one of them: handing work to the others costs less from inside.
        .use_current_thread()
        .build_global();
    let refused = |_| format!("the system does not give this process {threads} threads");
    match built.map_err(refused) {
        Err(problem) if typed => misuse!("--threads {threads}: {problem}; give fewer"),
        Err(problem) => Err(anyhow::anyhow!("{problem}; --threads 1 needs no other")),
        Ok(()) => Ok(threads),
    }
}
