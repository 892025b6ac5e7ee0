//! Whether a vanilla RNN learns what lies far back, with and without clipping.
//!
//! Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks",
//! section 4.1 and figure 7: a sequence of distractors has one of two symbols in its second tenth,
//! and one again in its sixth; at the end the network says which, in their order. 50 tanh units,
//! batches of 20 new sequences, plain gradient descent. A trial is solved when fewer than 1 % of
//! 10,000 new sequences are wrong.
//!
//! It is neither a language model nor a run of the trainer: the network is a Burn module of its
//! own, which uses the kernels, the clipper and the optimizer of Shears.

mod network;
mod results;
mod task;
#[cfg(test)]
mod tests;
mod trial;

use std::error::Error;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shears_train::ClipPolicy;

use results::Results;
use trial::{End, Outcome, Settings, Trial};

type Failure = Box<dyn Error + Send + Sync>;

const HELP: &str =
    "How often a vanilla RNN learns the temporal-order task, with and without clipping
(Pascanu, Mikolov and Bengio 2013, section 4.1)

Usage: temporal-order [OPTIONS]

  --clip POLICY          a clipping policy; can be given several times
                         [default: none, and global-norm:1]
  --lengths N,...        lengths of the sequences, from 10 on [default: 20,30,40,50]
  --seeds N              trials of each length and policy, with seeds 1, 2, ... N [default: 5]
  --updates N            updates after which a trial is given up [default: 250000]
  --lr RATE              learning rate [default: 0.01]
  --initialization KIND  how the weights begin [default: basic-tanh]
                         basic-tanh: all normal with standard deviation 0.1
                         smart-tanh: 15 recurrent weights a unit, scaled to spectral radius 0.95;
                         the others normal with 0.01
  --out FOLDER           folder of the results [default: temporal-order]
  --threads N            trials at the same time [default: as many as there are cores]

Each trial is written to results.json when it ends: the same command goes on with those that are
missing.";

/// The initialisations of the paper's section 4.1.1 that are for tanh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Initialization {
    BasicTanh,
    SmartTanh,
}

impl FromStr for Initialization {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "basic-tanh" => Ok(Initialization::BasicTanh),
            "smart-tanh" => Ok(Initialization::SmartTanh),
            _ => Err("it must be basic-tanh or smart-tanh"),
        }
    }
}

/// What was asked for.
#[derive(Debug)]
struct Arguments {
    policies: Vec<String>,
    lengths: Vec<u64>,
    seeds: u64,
    settings: Settings,
    out: PathBuf,
    threads: usize,
}

impl Arguments {
    /// Reads flags; an error is one line.
    fn parse(mut flags: impl Iterator<Item = String>) -> Result<Arguments, String> {
        fn read<T: FromStr<Err: Display>>(flag: &str, text: &str) -> Result<T, String> {
            text.parse()
                .map_err(|error| format!("{flag} {text}: {error}"))
        }
        let mut arguments = Arguments {
            policies: Vec::new(),
            lengths: vec![20, 30, 40, 50],
            seeds: 5,
            settings: Settings {
                updates: 250_000,
                lr: 0.01,
                initialization: Initialization::BasicTanh,
            },
            out: "temporal-order".into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let settings = &mut arguments.settings;
        while let Some(flag) = flags.next() {
            let mut value = || flags.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--clip" => {
                    let policy = value()?;
                    check_policy(&read(&flag, &policy)?)?;
                    arguments.policies.push(policy);
                }
                "--lengths" => {
                    let lengths = value()?;
                    let lengths = lengths.split(',').map(|length| read(&flag, length));
                    arguments.lengths = lengths.collect::<Result<_, _>>()?;
                }
                "--seeds" => arguments.seeds = read(&flag, &value()?)?,
                "--updates" => settings.updates = read(&flag, &value()?)?,
                "--lr" => settings.lr = read(&flag, &value()?)?,
                "--initialization" => settings.initialization = read(&flag, &value()?)?,
                "--out" => arguments.out = value()?.into(),
                "--threads" => arguments.threads = read(&flag, &value()?)?,
                _ => return Err(format!("there is no {flag}; --help lists what there is")),
            }
        }
        if !(settings.lr.is_finite() && settings.lr > 0.0) {
            return Err(format!("--lr {}: it must be above 0", settings.lr));
        }
        if arguments.lengths.iter().any(|length| *length < 10) {
            return Err("--lengths: a sequence has at least 10 symbols".into());
        }
        if arguments.threads == 0 || settings.updates == 0 || arguments.seeds == 0 {
            return Err("--threads, --updates and --seeds must be at least 1".into());
        }
        if arguments.policies.is_empty() {
            arguments.policies = vec!["none".into(), "global-norm:1".into()];
        }
        Ok(arguments)
    }

    /// All trials, those of the first seed first: what is interrupted has whole curves.
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

/// Refuses a policy that cannot work on the gradients of plain gradient descent.
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
    let flags: Vec<String> = std::env::args().skip(1).collect();
    if flags.iter().any(|flag| flag == "--help" || flag == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let (error, code) = match Arguments::parse(flags.into_iter()) {
        Err(error) => (error, 2),
        Ok(arguments) => match run(&arguments) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), 1),
        },
    };
    eprintln!("temporal-order: {error}");
    ExitCode::from(code)
}

/// Runs the trials that are missing, and tells what all came to.
fn run(arguments: &Arguments) -> Result<(), Failure> {
    let results = Results::open(&arguments.out, arguments.settings.clone())?;
    let trials = arguments.trials();
    let missing: Vec<&Trial> = trials.iter().filter(|t| results.of(t).is_none()).collect();
    println!(
        "{} trials, {} of them in {} already; at most {} updates each, {} at a time",
        trials.len(),
        trials.len() - missing.len(),
        arguments.out.display(),
        arguments.settings.updates,
        arguments.threads,
    );
    run_all(&missing, results, arguments.threads)?.conclude(&trials)
}

/// Runs trials side by side, each on a thread of its own, and keeps the outcome of each at once.
fn run_all(missing: &[&Trial], results: Results, threads: usize) -> Result<Results, Failure> {
    let settings = results.settings().clone();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let work = || -> Result<(), Failure> {
        // The computation of a trial is too small to be shared between threads.
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
