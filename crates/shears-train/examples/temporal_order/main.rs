//! Whether a vanilla RNN learns long-term dependencies, with and without clipping.
//!
//! Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks",
//! section 4.1 and figure 7: a sequence of distractors has one of two symbols in its second tenth,
//! and one again in its sixth; at the end the network says which, in their order. 50 tanh units,
//! batches of 20 new sequences, plain gradient descent. A trial is solved when fewer than 1 % of
//! 10,000 new sequences are wrong.
//!
//! The network is not a language model and not trained by `Trainer`: it is a separate Burn module
//! that uses the kernels, the clipper and the optimizer of Shears.

mod network;
mod results;
mod task;
#[cfg(test)]
mod tests;
mod trial;

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::{Parser, ValueEnum, value_parser};
use serde::{Deserialize, Serialize};
use shears_train::ClipPolicy;

use results::Results;
use trial::{End, Outcome, Settings, Trial};

type Failure = Box<dyn Error + Send + Sync>;

/// The initialisations for tanh in section 4.1.1 of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Initialization {
    /// All normal with standard deviation 0.1
    BasicTanh,
    /// 15 recurrent weights a unit, scaled to spectral radius 0.95; the others normal with 0.01
    SmartTanh,
}

/// How often a vanilla RNN learns the temporal-order task, with and without clipping (Pascanu,
/// Mikolov and Bengio 2013, section 4.1)
///
/// Each trial is written to results.json when it ends; the same command continues with the missing
/// ones.
#[derive(Debug, Parser)]
struct Arguments {
    /// A clipping policy; can be given several times
    #[arg(long = "clip", value_name = "POLICY", default_values = ["none", "global-norm:1"])]
    policies: Vec<String>,

    /// Lengths of the sequences
    #[arg(long, value_delimiter = ',', default_value = "20,30,40,50",
          value_parser = value_parser!(u64).range(10..))]
    lengths: Vec<u64>,

    /// Trials of each length and policy, with seeds 1, 2, ... N
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..))]
    seeds: u64,

    #[command(flatten)]
    settings: Settings,

    /// Folder of the results
    #[arg(long, default_value = "temporal-order")]
    out: PathBuf,

    /// Trials at the same time [default: as many as there are cores]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl Arguments {
    /// Validates the arguments; an error is one line.
    fn check(&self) -> Result<(), String> {
        let lr = self.settings.lr;
        if !(lr.is_finite() && lr > 0.0) {
            return Err(format!("--lr {lr}: it must be above 0"));
        }
        for policy in &self.policies {
            let parsed = policy.parse();
            check_policy(&parsed.map_err(|error| format!("--clip {policy}: {error}"))?)?;
        }
        Ok(())
    }

    /// All trials, ordered by seed, so that an interrupted run has whole curves.
    fn trials(&self) -> Vec<Trial> {
        let mut trials: Vec<Trial> = Vec::new();
        for seed in 1..=self.seeds {
            for &length in &self.lengths {
                for policy in &self.policies {
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
}

/// Refuses policies that need Adam.
fn check_policy(policy: &ClipPolicy) -> Result<(), String> {
    if policy.needs_parameters() || policy.rules_inside_adam().next().is_some() {
        return Err(format!(
            "--clip {policy}: it looks at weights or works inside Adam, and this is plain gradient \
            descent"
        ));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let checked = arguments.check().map_err(|error| (error, 2));
    let done = checked.and_then(|()| run(&arguments).map_err(|error| (error.to_string(), 1)));
    let Err((error, code)) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("temporal-order: {error}");
    ExitCode::from(code)
}

/// Runs the missing trials and prints all results.
fn run(arguments: &Arguments) -> Result<(), Failure> {
    let results = Results::open(&arguments.out, arguments.settings.clone())?;
    let cores = || std::thread::available_parallelism().ok();
    let threads = arguments.threads.or_else(cores).map_or(1, usize::from);
    let trials = arguments.trials();
    let missing: Vec<&Trial> = trials.iter().filter(|t| results.of(t).is_none()).collect();
    println!(
        "{} trials, {} of them in {} already; at most {} updates each, {} at a time",
        trials.len(),
        trials.len() - missing.len(),
        arguments.out.display(),
        arguments.settings.updates,
        threads,
    );
    run_all(&missing, results, threads)?.conclude(&trials)
}

/// Runs trials in parallel, one per thread, and saves each outcome immediately.
fn run_all(missing: &[&Trial], results: Results, threads: usize) -> Result<Results, Failure> {
    let settings = results.settings().clone();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let work = || -> Result<(), Failure> {
        // A trial is too small to be divided among threads.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(trial) = missing.get(next.fetch_add(1, Ordering::SeqCst)) {
            let outcome = alone.install(|| trial::run(trial, &settings))?;
            println!("{}", line(&outcome));
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
        ends.collect::<Result<Vec<()>, Failure>>()
    })?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn line(outcome: &Outcome) -> String {
    let Trial {
        policy,
        length,
        seed,
    } = &outcome.trial;
    let (updates, seconds) = (outcome.updates, outcome.seconds);
    let how = match outcome.end {
        End::Solved => format!("solved after {updates} updates"),
        End::GivenUp => {
            let wrong = outcome.error.unwrap_or(1.0);
            format!("not solved, {:.1} % wrong", 100.0 * wrong)
        }
        End::Diverged => format!("diverged after {updates} updates"),
    };
    format!("{policy}, length {length}, seed {seed}: {how} ({seconds:.0} s)")
}
