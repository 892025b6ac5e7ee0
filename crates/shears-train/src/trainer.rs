//! One step of training, top to bottom: read, forward, backward, accumulate, clip, update.
//!
//! What happens to a gradient between backward and update, and where:
//!
//! - Collected: `ModuleGradients::collect` in `Trainer::accumulate`, by name, without a copy on the
//!   CPU.
//! - Measured: `Clipper::clip_deferred` in `Trainer::step`. The sums are those of
//!   `shears_kernels::scan`, which `new_clipper` hands to the clipper.
//! - Judged: by the same call. The rules of the policy turn the measures into one factor for each
//!   tensor, and into the `ClipReport` of the step. Nothing is multiplied yet.
//! - Applied: `Optimizer::step` takes each gradient with its factor (`optimizer/in_place.rs`,
//!   `ClippedGradients::take_with_factor`), and `shears_kernels::update` multiplies while it
//!   updates the weight. On other devices, and with rules inside Adam, `ClippedGradients::take`
//!   multiplies, and the update is composed of Burn's operations (`optimizer.rs`, `Rule`).
//! - Reported: `StepOutcome::report`, which `train.rs` writes to the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use gradclip::{Accumulated, AdamClipping, ClipReport, Clipper, Outcome, SkipReason, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use shears_model::{DropoutKey, LanguageModel, Reading, State};

use crate::batches::{Batches, to_tensors};
use crate::checkpoint::{Checkpoint, Progress};
use crate::error::{RestoreError, TrainError};
use crate::optimizer::Optimizer;
use crate::plan::Plan;
use crate::tensors::{NamedTensor, brief, load_parameters, module_tensors};
use crate::time_flow::state_gradients;
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
    /// What a recurrent model carries from window to window.
    carried: State,
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
    /// Measuring and deciding, and scaling where the optimizer does not do it.
    pub clip: Duration,
    /// The optimizer.
    pub update: Duration,
}

impl PhaseTimes {
    /// All of them.
    pub(crate) fn total(&self) -> Duration {
        self.forward + self.backward + self.clip + self.update
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
}

impl<M: LanguageModel> Trainer<M> {
    /// A trainer at step 0. `model` is on an autodiff device, and `device` is that device.
    pub fn new(plan: Plan, model: M, batches: Batches, threads: usize, device: &Device) -> Self {
        Trainer {
            optimizer: new_optimizer(&plan),
            clipper: new_clipper(&plan, &model, threads),
            plan,
            device: device.clone(),
            model: Some(model),
            batches,
            carried: State::default(),
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
        let (loss, gradients, carried) = self.accumulate(&mut times)?;

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
        })
    }

    /// Whether the next step begins the streams of the text anew.
    fn starts_stream(&self) -> bool {
        let micro_batches = self.plan.accumulate as u64;
        let first = self.progress.step * micro_batches;
        let mut all = first..first + micro_batches;
        all.any(|index| self.batches.at(index).starts_stream)
    }

    /// The averaged loss and gradients of the step's micro-batches, and the state after them.
    fn accumulate(
        &self,
        times: &mut PhaseTimes,
    ) -> Result<(f64, Unscaled<ModuleGradients>, State), TrainError> {
        let micro_batches = self.plan.accumulate as u64;
        let mut carried = self.carried.clone();
        let mut total_loss = 0.0;
        let mut sum: Option<Accumulated<ModuleGradients>> = None;
        for micro in 0..micro_batches {
            let index = self.progress.step * micro_batches + micro;
            let batch = self.batches.at(index);
            if batch.starts_stream {
                carried = State::default();
            }
            carried.dropout = Some(self.dropout_key(micro));
            let (inputs, targets) = to_tensors(&batch, &self.device);

            let forward_started = Instant::now();
            let (loss, after) = self.model().loss(inputs, targets, carried);
            total_loss += f64::from(
                loss.clone()
                    .into_data()
                    .iter::<f32>()
                    .next()
                    .unwrap_or(f32::NAN),
            );
            times.forward += forward_started.elapsed();

            let backward_started = Instant::now();
            let policy = self.clipper.policy();
            let gradients = ModuleGradients::collect(loss.backward(), self.model(), policy)?;
            match &mut sum {
                Some(sum) => sum.add(gradients),
                None => sum = Some(Accumulated::new(gradients)),
            }
            times.backward += backward_started.elapsed();
            carried = match self.model().reading() {
                Reading::Streams => after.detach(),
                Reading::Windows { .. } => State::default(),
            };
        }
        let sum = sum.expect("a plan has at least one micro-batch a step");
        let mean = sum.in_one_process().without_loss_scale();
        Ok((total_loss / micro_batches as f64, mean, carried))
    }

    /// How far gradients reach back in time: at the weights as they are, over the next batch. For
    /// each layer of a recurrent model, the norm by what it carried one token before the last
    /// prediction, two tokens before, and so on; nothing of other models.
    pub(crate) fn state_gradients(&self) -> BTreeMap<String, Vec<Option<f64>>> {
        let Reading::Streams = self.model().reading() else {
            return BTreeMap::new();
        };
        let index = self.progress.step * self.plan.accumulate as u64;
        let batch = self.batches.at(index);
        let mut carried = match batch.starts_stream {
            true => State::default(),
            false => self.carried.clone(),
        };
        carried.dropout = Some(self.dropout_key(0));
        let (inputs, targets) = to_tensors(&batch, &self.device);
        state_gradients(self.model(), &inputs, &targets, carried)
    }

    /// What the masks of a micro-batch of the next step are drawn from: seed and place alone, so
    /// that a resumed run draws the same, whatever else the process does.
    fn dropout_key(&self, micro: u64) -> DropoutKey {
        let seed = self.plan.seed;
        let key = DropoutKey::of([seed as u32, (seed >> 32) as u32]);
        key.part(self.progress.step).part(micro)
    }

    /// All that a resumed run needs.
    pub fn checkpoint(&self) -> Checkpoint {
        let carried = self
            .carried
            .tensors
            .iter()
            .map(|(name, tensor)| NamedTensor {
                name: name.clone(),
                data: tensor.clone().without_autodiff().into_data(),
            });
        let progress = Progress {
            position: self.carried.position,
            ..self.progress.clone()
        };
        Checkpoint {
            progress,
            plan: self.plan.clone(),
            clipper: self.clipper.state(),
            model: module_tensors(self.model()),
            optimizer: self.optimizer.tensors(),
            carried: carried.collect(),
        }
    }

    /// Goes to where a checkpoint was taken.
    pub fn restore(mut self, checkpoint: Checkpoint) -> Result<Self, TrainError> {
        let model = self.model.take().expect(ONLY_AN_UPDATE_TAKES_IT);
        let refuse = |path: &str, problem: String| RestoreError {
            path: path.into(),
            problem,
            newer: false,
        };
        let loaded = load_parameters(model, checkpoint.model)
            .map_err(|problem| refuse("model.safetensors", problem))?;
        self.model = Some(loaded);
        // What another policy has learned means nothing to this one.
        if checkpoint.plan.clip.to_string() == self.plan.clip.to_string() {
            self.clipper
                .restore(&checkpoint.clipper)
                .map_err(|error| refuse("state.json", error.to_string()))?;
        }
        let updated = checkpoint.progress.updates > 0;
        self.check_moments(&checkpoint.optimizer, updated)
            .map_err(|problem| refuse("optimizer.safetensors", problem))?;
        self.check_carried(&checkpoint.carried)
            .map_err(|problem| refuse("carried.safetensors", problem))?;
        let plain = self.device.clone().without_autodiff();
        self.optimizer
            .restore(checkpoint.optimizer, checkpoint.progress.updates, &plain);
        let tensors = checkpoint.carried.into_iter();
        let tensors = tensors.map(|t| (t.name, Tensor::from_data(t.data, &self.device)));
        self.carried = State {
            tensors: tensors.collect(),
            position: checkpoint.progress.position,
            dropout: None,
        };
        self.progress = checkpoint.progress;
        if checkpoint.plan.eval_tokens != self.plan.eval_tokens {
            // Losses on other tokens are not compared.
            self.progress.best_val_loss = None;
            self.progress.stale_evaluations = 0;
        }
        Ok(self)
    }

    /// Refuses moments that are not those of the parameters; before the first update there are
    /// none.
    fn check_moments(&self, moments: &[NamedTensor], updated: bool) -> Result<(), String> {
        let parts = self.plan.optimizer.moments();
        let mut wanted = BTreeMap::new();
        for parameter in shears_model::parameters(self.model()) {
            for part in parts {
                wanted.insert(format!("{}.{part}", parameter.name), parameter.elements());
            }
        }
        for moment in moments {
            if wanted.remove(&moment.name) != Some(moment.data.num_elements()) {
                return Err(format!("`{}` does not fit the model", brief(&moment.name)));
            }
        }
        match wanted.keys().next() {
            Some(missing) if updated => Err(format!("`{missing}` is missing")),
            _ => Ok(()),
        }
    }

    /// Refuses a carried state that the model would not have left.
    fn check_carried(&self, carried: &[NamedTensor]) -> Result<(), String> {
        if carried.is_empty() {
            return Ok(());
        }
        let plain = self.device.clone().without_autodiff();
        let wanted = match self.model().reading() {
            Reading::Windows { .. } => BTreeMap::new(),
            Reading::Streams => {
                let token = Tensor::zeros([self.plan.batch, 1], &plain);
                let (_, state) = self.model().valid().forward(token, State::default());
                state.tensors
            }
        };
        let shape = |name: &str| wanted.get(name).map(|tensor| tensor.dims().to_vec());
        let differing = carried
            .iter()
            .find(|tensor| shape(&tensor.name) != Some(tensor.data.shape().to_vec()));
        match differing {
            Some(tensor) => Err(format!("`{}` does not fit the model", brief(&tensor.name))),
            None if carried.len() != wanted.len() => Err("a layer's state is missing".to_string()),
            None => Ok(()),
        }
    }
}
