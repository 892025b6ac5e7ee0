//! `shears experiment temporal-order`: whether a vanilla RNN learns what lies far back, with and without
//! clipping (Pascanu, Mikolov & Bengio 2013, section 4.1 and figure 7).

mod network;
mod results;
mod task;
mod trial;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use shears_train::ClipPolicy;

use crate::arguments::TemporalOrderArguments;
use crate::chart::COLOURS;
use crate::commands::thread_count;
use crate::exit::{INTERRUPTED, Misuse};
use crate::output::say;
use crate::report;
use crate::watch::stop_when_asked;
use results::Results;
use trial::{End, Outcome, Settings, Trial};

/// Updates between two looks at the clock of the progress bar.
const TICK: u64 = 100;

pub(crate) fn run(arguments: &TemporalOrderArguments) -> anyhow::Result<ExitCode> {
    if !(arguments.lr.is_finite() && arguments.lr > 0.0) {
        return Err(Misuse(format!("--lr {}: it must be above 0", arguments.lr)).into());
    }
    let policies = policies(arguments)?;
    let threads = thread_count(arguments.threads)?;
    let settings = Settings {
        updates: arguments.updates,
        lr: arguments.lr,
        initialization: arguments.initialization,
    };
    let results = Results::open(&arguments.out, settings)?;
    let trials = trials(arguments, &policies);
    let missing: Vec<&Trial> = trials.iter().filter(|t| results.of(t).is_none()).collect();
    say!(
        "{} trials, {} of them in {} already; at most {} updates each, {threads} at a time",
        trials.len(),
        trials.len() - missing.len(),
        arguments.out.display(),
        report::count(arguments.updates),
    );
    let stop = stop_when_asked(false)?;
    let results = run_all(&missing, results, &stop, threads)?;
    if stop.load(Ordering::SeqCst) {
        say!("stopped; the same command goes on with the trials that are missing");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    results.conclude(&trials)?;
    Ok(ExitCode::SUCCESS)
}

/// The policies of the trials: those that can work on the gradients of plain gradient descent.
fn policies(arguments: &TemporalOrderArguments) -> Result<Vec<String>, Misuse> {
    let policies = match arguments.policies.as_slice() {
        [] => vec!["none".to_string(), "global-norm:1".to_string()],
        policies => policies.to_vec(),
    };
    if policies.len() > COLOURS.len() {
        let most = COLOURS.len();
        return Err(Misuse(format!("--clip can be given {most} times at most")));
    }
    for policy in &policies {
        // Flags are checked where they are read.
        let Ok(parsed) = policy.parse::<ClipPolicy>() else {
            continue;
        };
        if parsed.needs_parameters() || parsed.rules_inside_adam().next().is_some() {
            return Err(Misuse(format!(
                "--clip {policy}: it looks at weights or works inside Adam, and this is plain gradient descent"
            )));
        }
    }
    Ok(policies)
}

/// All trials, those of the first seed first: what is interrupted has whole curves.
fn trials(arguments: &TemporalOrderArguments, policies: &[String]) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for seed in 1..=arguments.seeds {
        for &length in &arguments.lengths {
            for policy in policies {
                let policy = policy.clone();
                let trial = Trial {
                    policy,
                    length,
                    seed,
                };
                if !trials.contains(&trial) {
                    trials.push(trial);
                }
            }
        }
    }
    trials
}

/// Runs trials side by side, each on a thread of its own, and keeps the outcome of each at once.
fn run_all(
    missing: &[&Trial],
    results: Results,
    stop: &AtomicBool,
    threads: usize,
) -> anyhow::Result<Results> {
    let settings = results.settings().clone();
    let bar = progress_bar(missing.len() as u64 * settings.updates);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let work = || -> anyhow::Result<()> {
        // The computation of a trial is too small to be shared between threads.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(trial) = missing.get(next.fetch_add(1, Ordering::SeqCst)) {
            let mut updates = 0;
            let wants_to_stop = || {
                updates += 1;
                if updates % TICK == 0 {
                    bar.inc(TICK);
                }
                stop.load(Ordering::SeqCst)
            };
            let outcome = alone.install(|| trial::run(trial, &settings, wants_to_stop));
            if outcome.is_err() {
                stop.store(true, Ordering::SeqCst);
            }
            let Some(outcome) = outcome.with_context(|| trial_name(trial))? else {
                return Ok(());
            };
            let left = settings.updates - outcome.updates / TICK * TICK;
            bar.inc(left);
            bar.suspend(|| say!("{}", line(&outcome)));
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.add(outcome)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(missing.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let ends = workers.into_iter().map(|worker| match worker.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ends.collect::<anyhow::Result<Vec<()>>>()
    })?;
    bar.finish_and_clear();
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn progress_bar(updates: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24.cyan/dim} {percent} %  at most {eta} left");
    ProgressBar::new(updates).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

fn trial_name(trial: &Trial) -> String {
    format!(
        "{}, length {}, seed {}",
        trial.policy, trial.length, trial.seed
    )
}

fn line(outcome: &Outcome) -> String {
    let updates = report::count(outcome.updates);
    let how = match outcome.end {
        End::Solved => format!("solved after {updates} updates"),
        End::GivenUp => {
            let wrong = outcome.error.unwrap_or(1.0);
            format!("not solved, {:.1} % wrong", 100.0 * wrong)
        }
        End::Diverged => format!("diverged after {updates} updates"),
    };
    let (name, seconds) = (trial_name(&outcome.trial), outcome.seconds);
    format!("{name}: {how} ({seconds:.0} s)")
}
