//! One step of training, top to bottom: read, forward, backward, accumulate, clip, update.
//!
//! What happens to a gradient between backward and update, and where:
//!
//! - Collected: `ModuleGradients::collect` in `Trainer::accumulate`, by name, without a copy on the
//!   CPU.
//! - Exchanged: `Trainer::exchange`. Every rank has computed its rows of the batch; their sums are
//!   added up over all ranks, once a step, and divided once. All decisions after it are made from
//!   numbers that all ranks have, so that they are the same in all of them.
//! - Measured: `Clipper::clip_deferred` in `Trainer::step`. The sums are those of
//!   `shears_kernels::scan`, which `new_clipper` hands to the clipper.
//! - Judged: by the same call. The rules of the policy turn the measures into one factor for each
//!   tensor, and into the `ClipReport` of the step. Nothing is multiplied yet.
//! - Applied: `Optimizer::step` takes each gradient with its factor (`optimizer/in_place.rs`,
//!   `ClippedGradients::take_with_factor`), and `shears_kernels::update` multiplies while it
//!   updates the weight. On other devices, and with rules inside Adam, `ClippedGradients::take`
//!   multiplies, and the update is composed of Burn's operations (`optimizer.rs`, `Rule`).
//! - Reported: `StepOutcome::report`, which `train.rs` writes to the log.

mod restore;
mod together;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use gradclip::{Accumulated, AdamClipping, ClipReport, Clipper, Outcome, SkipReason};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use shears_model::{DropoutKey, LanguageModel, Reading, State};
use shears_parallel::{Alone, Heartbeat, Phase, Ranks, Tree};
use shears_run::RanksEvent;

use crate::batches::{Batches, rows_of, to_tensors};
use crate::carried::{joined, part_of};
use crate::checkpoint::{Checkpoint, Progress, Snapshot};
use crate::error::TrainError;
use crate::exchange::Share;
use crate::optimizer::Optimizer;
use crate::plan::Plan;
use crate::tensors::{LazyTensor, lazy_tensors};
use crate::time_flow::{norms_over_all, state_gradients};
use crate::weights::Weights;

/// A model in training, with everything that a step changes.
#[derive(Debug)]
pub struct Trainer<M: LanguageModel> {
    plan: Plan,
    device: Device,
    /// `None` during an update alone: the optimizer changes the model in place, and has to own it.
    model: Option<M>,
    optimizer: Optimizer,
    clipper: Clipper,
    batches: Batches,
    ranks: Arc<dyn Ranks>,
    heartbeat: Option<Heartbeat>,
    /// The ranks, as the log has them.
    pub(crate) team: Option<RanksEvent>,
    share: Share,
    /// What a recurrent model carries from window to window, of the rows of this rank.
    carried: State,
    /// Whether this rank was asked to save and stop.
    stop: bool,
    /// Where the run stands; the run's loop writes the evaluation's part.
    pub(crate) progress: Progress,
}

/// The clipper of a plan, before its first step.
pub(crate) fn new_clipper<M: LanguageModel>(plan: &Plan, model: &M, threads: usize) -> Clipper {
    // Rules inside Adam are in the plan of an Adam alone, which takes them: see `new_optimizer`.
    Clipper::beside_adam(plan.clip.clone(), plan.non_finite)
        .with_threads(threads)
        .with_scan(shears_kernels::scan)
        .with_output_layer(model.output_layer())
}

/// The optimizer of a plan, before its first update.
pub(crate) fn new_optimizer(plan: &Plan) -> Optimizer {
    Optimizer::new(plan.optimizer_settings(), AdamClipping::of(&plan.clip))
}

const ONLY_AN_UPDATE_TAKES_IT: &str = "only an update takes the model, and it puts it back";

/// Where the time of a step went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Model and loss.
    pub forward: Duration,
    /// The backward pass, and collecting the gradients for the clipper.
    pub backward: Duration,
    /// Telling the other ranks, waiting for them, and summing over all of them.
    pub exchange: Duration,
    /// Measuring and deciding, and scaling where the optimizer does not do it.
    pub clip: Duration,
    /// The optimizer.
    pub update: Duration,
}

impl PhaseTimes {
    /// All of them.
    pub(crate) fn total(&self) -> Duration {
        self.forward + self.backward + self.exchange + self.clip + self.update
    }
}

/// What a step found and did.
#[derive(Debug)]
pub struct StepOutcome {
    /// Mean loss in nats a token.
    pub loss: f64,
    /// The learning rate of the update.
    pub lr: f64,
    /// What clipping found and did.
    pub report: ClipReport,
    /// See [`Trainer::weigh_next_update`].
    pub update_ratios: BTreeMap<String, f64>,
    /// Where the time went.
    pub times: PhaseTimes,
    /// What the exchange with other ranks found, if there are any.
    pub exchanged: Option<Exchanged>,
}

/// What a step found when the ranks met, the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// Whether any of them was asked to save and stop.
    pub stop: bool,
    /// Bytes of gradients that each rank gave.
    pub bytes: u64,
    /// The rank whose forward and backward passes took longest.
    pub slowest: usize,
    /// How long they took there.
    pub computed: Duration,
    /// How much longer they took than those of the quickest.
    pub waited: Duration,
}

/// What the micro-batches of a step gave in one rank.
struct Local {
    gradients: Accumulated<ModuleGradients>,
    /// The sum that belongs to the terms of the gradients.
    loss: f64,
    carried: State,
}

impl<M: LanguageModel> Trainer<M> {
    /// A trainer at step 0. `model` is on an autodiff device, and `device` is that device.
    pub fn new(plan: Plan, model: M, batches: Batches, threads: usize, device: &Device) -> Self {
        Trainer {
            optimizer: new_optimizer(&plan),
            clipper: new_clipper(&plan, &model, threads),
            ranks: Arc::new(Alone),
            heartbeat: None,
            team: None,
            share: Share::alone(plan.batch, plan.shards),
            plan,
            device: device.clone(),
            model: Some(model),
            batches,
            carried: State::default(),
            stop: false,
            progress: Progress::default(),
        }
    }

    /// The model as it is.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect(ONLY_AN_UPDATE_TAKES_IT)
    }

    /// Where the run stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The plan that it follows.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Asks the next step for the size of its update: for each parameter, the norm of its change as
    /// a share of its own norm. It costs a copy of the model.
    pub fn weigh_next_update(&mut self) {
        self.progress.weighing = true;
    }

    /// One step: gradients of `accumulate` micro-batches, averaged, clipped once, applied once.
    ///
    /// A step that is skipped changes the count of steps and nothing else: parameters, moments,
    /// schedule, clipper and carried state keep their bits.
    pub fn step(&mut self) -> Result<StepOutcome, TrainError> {
        let mut times = PhaseTimes::default();
        self.begin(Phase::Compute);
        let local = self.accumulate(&mut times)?;
        self.begin(Phase::Exchange);
        let (loss, gradients, exchanged) =
            self.exchange(local.loss, local.gradients, &mut times)?;
        let carried = local.carried;
        self.begin(Phase::Update);

        let clip_started = Instant::now();
        let outcome = self
            .clipper
            .clip_deferred(gradients, Some(loss))
            .map_err(|cause| TrainError::NonFinite {
                step: self.progress.step + 1,
                cause,
            })?;
        times.clip += clip_started.elapsed();

        let update_started = Instant::now();
        let lr = self.plan.schedule().at(self.progress.updates);
        let mut update_ratios = BTreeMap::new();
        let report = match outcome {
            Outcome::Apply(clipped) => {
                let clipped = ClippedGradients::from(clipped);
                let report = clipped.report().clone();
                let weighing = std::mem::take(&mut self.progress.weighing);
                let before = weighing.then(|| Weights::of(self.model()));
                let model = self.model.take().expect(ONLY_AN_UPDATE_TAKES_IT);
                self.model = Some(self.optimizer.step(model, clipped, lr));
                if let Some(before) = before {
                    update_ratios = before.update_ratios(self.model());
                }
                self.carried = carried;
                self.progress.updates += 1;
                self.progress.consecutive_skips = 0;
                report
            }
            Outcome::Skip { report, .. } => {
                // Outliers are bounded by the rule that finds them.
                if report.skip_reason == Some(SkipReason::NonFinite) {
                    self.progress.consecutive_skips += 1;
                }
                // What was carried is of the text before a new start.
                if self.starts_stream() {
                    self.carried = State::default();
                }
                report
            }
        };
        times.update += update_started.elapsed();
        self.progress.step += 1;
        Ok(StepOutcome {
            loss,
            lr,
            report,
            update_ratios,
            times,
            exchanged,
        })
    }

    /// Whether the next step begins the streams of the text anew.
    fn starts_stream(&self) -> bool {
        let micro_batches = self.plan.accumulate as u64;
        let first = self.progress.step * micro_batches;
        let mut all = first..first + micro_batches;
        all.any(|index| self.batches.at(index).starts_stream)
    }

    /// The summed loss and gradients of the step's micro-batches, and the state after them: those
    /// of each group of rows by themselves, summed as a tree.
    fn accumulate(&self, times: &mut PhaseTimes) -> Result<Local, TrainError> {
        let mut tree = Tree::default();
        let mut carried = Vec::new();
        let mut merge = |mut left: (Accumulated<_>, f64), right: (Accumulated<_>, f64)| {
            left.0.merge(right.0);
            (left.0, left.1 + right.1)
        };
        for rows in &self.share.groups {
            let local = self.accumulate_rows(rows, times)?;
            tree.push((local.gradients, local.loss), &mut merge);
            carried.push(local.carried);
        }
        let sum = tree.finish(&mut merge);
        let (gradients, loss) = sum.expect("a rank has at least one group of rows");
        Ok(Local {
            gradients,
            loss,
            carried: joined(carried),
        })
    }

    /// The same of one group of rows.
    fn accumulate_rows(
        &self,
        rows: &Range<usize>,
        times: &mut PhaseTimes,
    ) -> Result<Local, TrainError> {
        let micro_batches = self.plan.accumulate as u64;
        let mut carried = self.carried_of(rows);
        let mut total_loss = 0.0;
        let mut sum: Option<Accumulated<ModuleGradients>> = None;
        for micro in 0..micro_batches {
            let index = self.progress.step * micro_batches + micro;
            let batch = rows_of(self.batches.at(index), rows);
            if batch.starts_stream {
                carried = State::default();
            }
            carried.dropout = Some(self.dropout_key(micro, rows));
            // Means of as many tokens each are summed as they are; others become sums first.
            let terms = match self.share.is_even {
                true => 1,
                false => batch.targets.len() as u64,
            };
            let (inputs, targets) = to_tensors(&batch, &self.device);

            let forward_started = Instant::now();
            let (loss, after) = self.model().loss(inputs, targets, carried);
            let mean = loss.clone().into_data();
            let mean = mean.iter::<f32>().next().unwrap_or(f32::NAN);
            total_loss += f64::from(mean) * terms as f64;
            times.forward += forward_started.elapsed();

            let backward_started = Instant::now();
            let policy = self.clipper.policy();
            let loss = match terms {
                1 => loss,
                terms => loss * terms as f64,
            };
            let gradients = ModuleGradients::collect(loss.backward(), self.model(), policy)?;
            let gradients = Accumulated::of_sum(gradients, terms);
            match &mut sum {
                Some(sum) => sum.merge(gradients),
                None => sum = Some(gradients),
            }
            times.backward += backward_started.elapsed();
            carried = match self.model().reading() {
                Reading::Streams => after.detach(),
                Reading::Windows { .. } => State::default(),
            };
        }
        Ok(Local {
            gradients: sum.expect("a plan has at least one micro-batch a step"),
            loss: total_loss,
            carried,
        })
    }

    /// What was carried of some of this rank's rows.
    fn carried_of(&self, rows: &Range<usize>) -> State {
        let own = self.share.rows();
        part_of(&self.carried, rows.start - own.start, rows.len(), own.len())
    }

    /// How far gradients reach back in time: at the weights as they are, over the next batch. For
    /// each layer of a recurrent model, the norm by what it carried one token before the last
    /// prediction, two tokens before, and so on; nothing of other models.
    pub(crate) fn state_gradients(&self) -> BTreeMap<String, Vec<Option<f64>>> {
        let Reading::Streams = self.model().reading() else {
            return BTreeMap::new();
        };
        let index = self.progress.step * self.plan.accumulate as u64;
        let rows = self.share.rows();
        let batch = rows_of(self.batches.at(index), &rows);
        let mut carried = match batch.starts_stream {
            true => State::default(),
            false => self.carried.clone(),
        };
        carried.dropout = Some(self.dropout_key(0, &rows));
        let (inputs, targets) = to_tensors(&batch, &self.device);
        let own = state_gradients(self.model(), &inputs, &targets, carried);
        let share = rows.len() as f64 / self.plan.batch as f64;
        norms_over_all(&*self.ranks, own, share)
    }

    /// What the masks of a micro-batch of the next step are drawn from: seed and place alone, so
    /// that a resumed run draws the same, whatever else the process does.
    /// Each row of a batch has the same masks, whatever other rows are computed with it.
    fn dropout_key(&self, micro: u64, rows: &Range<usize>) -> DropoutKey {
        let seed = self.plan.seed;
        let key = DropoutKey::of([seed as u32, (seed >> 32) as u32]);
        let key = key.part(self.progress.step).part(micro);
        key.for_sequences(rows.start, rows.len(), self.plan.batch)
    }

    /// All that a resumed run needs, with any number of ranks, read from the device.
    pub fn checkpoint(&self) -> Checkpoint {
        self.snapshot().read()
    }

    /// The same as a save takes it. It is to be dropped before the next step, which changes numbers
    /// in place only if nobody else holds them.
    pub fn snapshot(&self) -> Snapshot<'_> {
        let carried = self.carried_by_all().into_iter().map(LazyTensor::from);
        let progress = Progress {
            position: self.carried.position,
            ..self.progress.clone()
        };
        Snapshot {
            progress,
            plan: self.plan.clone(),
            clipper: self.clipper.state(),
            model: lazy_tensors(self.model()),
            optimizer: self.optimizer.lazy_tensors(),
            carried: carried.collect(),
        }
    }
}
