//! One trial: trains until the task is solved, given up, or gradients stay non-finite.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use clap::{Args, value_parser};
use gradclip::{Clipper, NonFinite, Outcome as Clipped, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use shears_kernels::cross_entropy;
use shears_train::{ClipPolicy, Optimizer, OptimizerKind, Plan, Preset};

use super::network::Network;
use super::task::draw;
use crate::{Failure, Initialization};

const BATCH: usize = 20;
/// Updates between two checks of the error.
const CHECK_EVERY: u64 = 1000;
/// Sequences to judge the error on, and the number of them that are judged first.
const JUDGED: usize = 10_000;
const JUDGED_FIRST: usize = 1000;
/// A task is solved below this share of wrong answers.
const SOLVED_BELOW: f64 = 0.01;
/// Give up after this many updates in a row with non-finite gradients.
const HOPELESS: u64 = 10;
/// The random stream of judged sequences; training uses another.
const JUDGING_STREAM: u64 = 1;

/// The common settings of all trials.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Updates after which a trial is given up
    #[arg(long, default_value_t = 250_000, value_parser = value_parser!(u64).range(1..))]
    pub(super) updates: u64,

    /// Learning rate
    #[arg(long, default_value_t = 0.01)]
    pub(super) lr: f64,

    /// Initialisation of the weights
    #[arg(long, value_enum, default_value_t = Initialization::BasicTanh)]
    pub(super) initialization: Initialization,
}

/// The settings of one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) policy: String,
    pub(super) length: u64,
    pub(super) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// Fewer than 1 % of the answers were wrong.
    Solved,
    /// Not solved within the allowed updates.
    GivenUp,
    /// The gradients stayed non-finite.
    Diverged,
}

/// The outcome of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    #[serde(flatten)]
    pub(super) trial: Trial,
    pub(super) end: End,
    pub(super) updates: u64,
    /// The last share of wrong answers, if checked; chance is 0.75.
    pub(super) error: Option<f64>,
    /// The share of clipped updates.
    pub(super) clipped_share: f64,
    /// The largest gradient norm before clipping.
    pub(super) largest_norm: f64,
    pub(super) seconds: f64,
}

/// Runs a trial.
pub(super) fn run(trial: &Trial, settings: &Settings) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let device = Device::flex().autodiff();
    let length = usize::try_from(trial.length)?;
    let policy: ClipPolicy = trial.policy.parse()?;
    let mut network = Network::new(settings.initialization, trial.seed, &device);
    let mut clipper = Clipper::new(policy, NonFinite::Skip)?.with_scan(shears_kernels::scan);
    let gradient_descent = Plan {
        optimizer: OptimizerKind::Sgd,
        weight_decay: 0.0,
        ..Preset::Rnn128.plan()
    };
    let mut optimizer = Optimizer::new(gradient_descent.optimizer_settings(), None);
    let mut generator = ChaCha8Rng::seed_from_u64(trial.seed);
    let mut outcome = Outcome {
        trial: trial.clone(),
        end: End::GivenUp,
        updates: 0,
        error: None,
        clipped_share: 0.0,
        largest_norm: 0.0,
        seconds: 0.0,
    };
    let (mut clipped, mut skipped_in_a_row) = (0_u64, 0);
    while outcome.updates < settings.updates {
        let sequences = draw(&mut generator, length, BATCH);
        let (logits, classes) = network.forward(&sequences, &device);
        let gradients = cross_entropy(logits, classes).backward();
        let gradients = Unscaled::single(ModuleGradients::collect(
            gradients,
            &network,
            clipper.policy(),
        )?);
        outcome.updates += 1;
        match clipper.clip_deferred(gradients, None)? {
            Clipped::Apply(gradients) => {
                let gradients = ClippedGradients::from(gradients);
                let report = gradients.report();
                clipped += u64::from(report.coefficient < 1.0);
                outcome.largest_norm = outcome.largest_norm.max(report.norm_before);
                skipped_in_a_row = 0;
                network = optimizer.step(network, gradients, settings.lr);
            }
            // A skipped outlier does not count as divergence.
            Clipped::Skip { report, .. } if report.norm_before.is_finite() => {
                outcome.largest_norm = outcome.largest_norm.max(report.norm_before);
            }
            Clipped::Skip { .. } => {
                skipped_in_a_row += 1;
                if skipped_in_a_row == HOPELESS {
                    outcome.end = End::Diverged;
                    break;
                }
            }
        }
        if outcome.updates.is_multiple_of(CHECK_EVERY) || outcome.updates == settings.updates {
            let error = error(&network, length, trial.seed, outcome.updates);
            outcome.error = Some(error);
            if error < SOLVED_BELOW {
                outcome.end = End::Solved;
                break;
            }
        }
    }
    outcome.clipped_share = clipped as f64 / outcome.updates as f64;
    outcome.seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    Ok(outcome)
}

/// The share of new sequences whose class is not the one with the largest logit.
fn error(network: &Network, length: usize, seed: u64, updates: u64) -> f64 {
    let network = network.valid();
    let device = Device::flex();
    let mut generator = ChaCha8Rng::seed_from_u64(seed ^ (updates << 32));
    generator.set_stream(JUDGING_STREAM);
    let mut wrong = 0;
    let mut judged = 0;
    while judged < JUDGED {
        let sequences = draw(&mut generator, length, JUDGED_FIRST);
        let (logits, _) = network.forward(&sequences, &device);
        let found = logits.argmax(1).into_data();
        let found = found.iter::<i64>().zip(&sequences.classes);
        wrong += found
            .filter(|(found, class)| *found != i64::from(**class))
            .count();
        judged += JUDGED_FIRST;
        if wrong as f64 >= SOLVED_BELOW * judged as f64 && judged == JUDGED_FIRST {
            break;
        }
    }
    wrong as f64 / judged as f64
}
