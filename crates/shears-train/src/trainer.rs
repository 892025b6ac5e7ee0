//! One training step, top to bottom: read, forward, backward, accumulate, clip, update.
//!
//! Where a gradient goes between backward and update:
//!
//! - Collected: by name, in `Trainer::accumulate` (`ModuleGradients::collect`), without a copy on
//!   the CPU.
//! - Exchanged: `Trainer::exchange`. Every rank computes its rows of the batch; their sums are
//!   all-reduced once per step and divided once. All later decisions use values that are equal on
//!   all ranks, so all ranks decide alike.
//! - Measured: `Clipper::clip_deferred` in `Trainer::step`, with `shears_kernels::scan`, which
//!   `new_clipper` sets.
//! - Judged: by the same call. The rules of the policy turn the measures into one factor per tensor
//!   and the `ClipReport` of the step. Nothing is multiplied yet.
//! - Applied: `Optimizer::step` takes each gradient with its factor (`optimizer/in_place.rs`,
//!   `ClippedGradients::take_with_factor`), and `shears_kernels::update` multiplies while it
//!   updates the weight. On other devices `ClippedGradients::take` multiplies, and the update is
//!   composed of Burn's operations (`optimizer.rs`, `Rule`).
//! - Reported: in `StepOutcome::report`, which `train.rs` writes to the log.

mod ranks;
mod restore;

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
use crate::time_flow::{combine_norms, state_gradients};
use crate::weights::Weights;

/// A model in training, with all state that a step changes.
#[derive(Debug)]
pub struct Trainer<M: LanguageModel> {
    plan: Plan,
    device: Device,
    /// `None` only during an update, in which the optimizer owns the model to update it in place.
    model: Option<M>,
    optimizer: Optimizer,
    clipper: Clipper,
    batches: Batches,
    ranks: Arc<dyn Ranks>,
    heartbeat: Option<Heartbeat>,
    /// The log entry of the ranks.
    pub(crate) team: Option<RanksEvent>,
    share: Share,
    /// The carried state of a recurrent model, for the rows of this rank.
    carried: State,
    /// Whether this rank was asked to save and stop.
    stop: bool,
    /// The progress; `train` maintains the fields about evaluations.
    pub(crate) progress: Progress,
}

/// Creates the clipper of a plan.
pub(crate) fn new_clipper<M: LanguageModel>(plan: &Plan, model: &M, threads: usize) -> Clipper {
    // `new_optimizer` applies the rules inside Adam; other optimizers have none in their plans.
    Clipper::for_adam(plan.clip.clone(), plan.non_finite)
        .with_threads(threads)
        .with_scan(shears_kernels::scan)
        .with_scale(shears_kernels::scale)
        .with_output_layer(model.output_layer())
}

/// Creates the optimizer of a plan.
pub(crate) fn new_optimizer(plan: &Plan) -> Optimizer {
    Optimizer::new(plan.optimizer_settings(), AdamClipping::of(&plan.clip))
}

const MODEL_IS_PRESENT: &str = "the model is only absent during an update";

/// The duration of each phase of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    /// The forward pass with the loss.
    pub forward: Duration,
    /// The backward pass, and collecting the gradients for the clipper.
    pub backward: Duration,
    /// Exchanging records, waiting for other ranks, and the all-reduce.
    pub exchange: Duration,
    /// Measuring and deciding, and scaling if the optimizer does not do it.
    pub clip: Duration,
    /// The optimizer.
    pub update: Duration,
}

impl PhaseTimes {
    /// The sum of all phases.
    pub(crate) fn total(&self) -> Duration {
        self.forward + self.backward + self.exchange + self.clip + self.update
    }
}

/// The result of a step.
#[derive(Debug)]
pub struct StepOutcome {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// The learning rate of the update.
    pub lr: f64,
    /// The report of clipping.
    pub report: ClipReport,
    /// See [`Trainer::measure_next_update`].
    pub update_ratios: BTreeMap<String, f64>,
    /// The duration of each phase.
    pub times: PhaseTimes,
    /// The result of the exchange, if there are other ranks.
    pub exchanged: Option<Exchanged>,
}

/// The result of an exchange, equal on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// Whether any rank was asked to save and stop.
    pub stop: bool,
    /// Bytes of gradients sent by each rank.
    pub bytes: u64,
    /// The rank whose forward and backward passes took longest.
    pub slowest: usize,
    /// The duration of its passes.
    pub computed: Duration,
    /// How much longer its passes took than the fastest rank's.
    pub waited: Duration,
}

/// The result of a step's micro-batches on one rank.
struct Local {
    gradients: Accumulated<ModuleGradients>,
    /// The summed loss, over the same terms as the gradients.
    loss: f64,
    carried: State,
}

impl<M: LanguageModel> Trainer<M> {
    /// Creates a trainer at step 0. `model` must be on `device`, an autodiff device.
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

    /// The current model.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect(MODEL_IS_PRESENT)
    }

    /// The progress of the run.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Makes the next step measure its update: the norm of each parameter's change relative to the
    /// norm of the parameter. Costs a copy of the model.
    pub fn measure_next_update(&mut self) {
        self.progress.weighing = true;
    }

    /// Takes one step: averages the gradients of `accumulate` micro-batches, clips and applies them
    /// once.
    ///
    /// A skipped step only advances the step count: parameters, moments, schedule, clipper and
    /// carried state keep their bits.
    pub fn step(&mut self) -> Result<StepOutcome, TrainError> {
        let outcome = self.step_unless(&|| false)?;
        Ok(outcome.expect("nothing stops it"))
    }

    /// [`Trainer::step`], but `None` if `stops` during its micro-batches, which is asked before each
    /// pass of a layer. Then nothing has changed: the same step can be taken later, with the same
    /// bits.
    ///
    /// With several ranks, `stops` is ignored: they decide together, in an exchange, and the first
    /// exchange of a step comes after its micro-batches.
    pub fn step_unless(
        &mut self,
        stops: &dyn Fn() -> bool,
    ) -> Result<Option<StepOutcome>, TrainError> {
        let mut times = PhaseTimes::default();
        self.begin(Phase::Compute);
        match self.accumulate(stops, &mut times)? {
            Some(local) => self.update(local, times).map(Some),
            None => Ok(None),
        }
    }

    /// The part of a step after its micro-batches.
    fn update(&mut self, local: Local, mut times: PhaseTimes) -> Result<StepOutcome, TrainError> {
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
                let model = self.model.take().expect(MODEL_IS_PRESENT);
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
                // The rule that detects outliers bounds their number itself.
                if report.skip_reason == Some(SkipReason::NonFinite) {
                    self.progress.consecutive_skips += 1;
                }
                // The carried state belongs to the text before the restart.
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

    /// Whether the next step restarts the streams of the text.
    fn starts_stream(&self) -> bool {
        let micro_batches = self.plan.accumulate as u64;
        let first = self.progress.step * micro_batches;
        let mut all = first..first + micro_batches;
        all.any(|index| self.batches.at(index).starts_stream)
    }

    /// The summed loss and gradients of the step's micro-batches, and the state after them; `None`
    /// if it was stopped meanwhile. Each group of rows is computed separately, and the
    /// groups are summed as a tree.
    fn accumulate(
        &self,
        stops: &dyn Fn() -> bool,
        times: &mut PhaseTimes,
    ) -> Result<Option<Local>, TrainError> {
        let mut tree = Tree::default();
        let mut carried = Vec::new();
        let mut merge = |mut left: (Accumulated<_>, f64), right: (Accumulated<_>, f64)| {
            left.0.merge(right.0);
            (left.0, left.1 + right.1)
        };
        for rows in &self.share.groups {
            let Some(local) = self.accumulate_rows(rows, stops, times)? else {
                return Ok(None);
            };
            tree.push((local.gradients, local.loss), &mut merge);
            carried.push(local.carried);
        }
        let sum = tree.finish(&mut merge);
        let (gradients, loss) = sum.expect("a rank has at least one group of rows");
        Ok(Some(Local {
            gradients,
            loss,
            carried: joined(carried),
        }))
    }

    /// [`Trainer::accumulate`] for one group of rows.
    fn accumulate_rows(
        &self,
        rows: &Range<usize>,
        stops: &dyn Fn() -> bool,
        times: &mut PhaseTimes,
    ) -> Result<Option<Local>, TrainError> {
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
            // Means over equal numbers of tokens are summed directly; others are converted to sums.
            let terms = match self.share.is_even {
                true => 1,
                false => batch.targets.len() as u64,
            };
            let (inputs, targets) = to_tensors(&batch, &self.device);

            let forward_started = Instant::now();
            let forward = || self.model().loss(inputs, targets, carried);
            let Some((loss, after)) = self.unless(stops, forward) else {
                return Ok(None);
            };
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
            let Some(gradients) = self.unless(stops, || loss.backward()) else {
                return Ok(None);
            };
            let gradients = ModuleGradients::collect(gradients, self.model(), policy)?;
            let gradients = Accumulated::from_sum(gradients, terms);
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
        Ok(Some(Local {
            gradients: sum.expect("a plan has at least one micro-batch a step"),
            loss: total_loss,
            carried,
        }))
    }

    /// Whether to stop, where only a single rank may decide so.
    fn stops_alone(&self, stops: &dyn Fn() -> bool) -> bool {
        self.ranks.size() == 1 && stops()
    }

    /// Does the work, unless it is stopped meanwhile.
    fn unless<T>(&self, stops: &dyn Fn() -> bool, work: impl FnOnce() -> T) -> Option<T> {
        shears_kernels::unless(&|| self.stops_alone(stops), work)
    }

    /// The carried state of some of this rank's rows.
    fn carried_of(&self, rows: &Range<usize>) -> State {
        let own = self.share.rows();
        part_of(&self.carried, rows.start - own.start, rows.len(), own.len())
    }

    /// Measures how far gradients reach back in time, with the current weights on the next batch:
    /// for each layer of a recurrent model, the norm of the gradient with respect to its state one
    /// token before the last prediction, two tokens before, and so on. Empty for other models, and
    /// `None` if it was stopped, as by [`Trainer::step_unless`].
    pub(crate) fn state_gradients(
        &self,
        stops: &dyn Fn() -> bool,
    ) -> Option<BTreeMap<String, Vec<Option<f64>>>> {
        let Reading::Streams = self.model().reading() else {
            return Some(BTreeMap::new());
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
        let stops = || self.stops_alone(stops);
        let own = state_gradients(self.model(), &inputs, &targets, carried, &stops)?;
        let share = rows.len() as f64 / self.plan.batch as f64;
        Some(combine_norms(&*self.ranks, own, share))
    }

    /// The dropout key of a micro-batch of the next step. It depends only on the seed and the
    /// position, so that a resumed run draws the same masks, and the masks of a row do not depend
    /// on the other rows of its batch.
    fn dropout_key(&self, micro: u64, rows: &Range<usize>) -> DropoutKey {
        let seed = self.plan.seed;
        let key = DropoutKey::of([seed as u32, (seed >> 32) as u32]);
        let key = key.part(self.progress.step).part(micro);
        key.for_sequences(rows.start, rows.len(), self.plan.batch)
    }

    /// A checkpoint, read from the device, from which any number of ranks can resume. Collective.
    pub fn checkpoint(&self) -> Checkpoint {
        self.snapshot().read()
    }

    /// A lazily read checkpoint, for saving. Drop it before the next step, which updates in place
    /// only if nothing else shares the storage. Collective.
    pub fn snapshot(&self) -> Snapshot<'_> {
        let carried = self.gather_carried().into_iter().map(LazyTensor::from);
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
