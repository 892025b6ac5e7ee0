//! Training with several ranks.

use std::sync::Arc;
use std::time::Instant;

use gradclip::{Accumulated, Elements, Unscaled};
use gradclip_burn::ModuleGradients;
use shears_model::LanguageModel;
use shears_parallel::{Heartbeat, Phase, Ranks};
use shears_run::RanksEvent;

use super::{Exchanged, PhaseTimes, Trainer};
use crate::carried::gather_rows;
use crate::error::TrainError;
use crate::exchange::{Record, Records, Share, compares_at, hash_of};
use crate::plan::PlanError;
use crate::tensors::{NamedTensor, module_tensors};

impl<M: LanguageModel> Trainer<M> {
    /// Joins other ranks, whose trainers have the same plan, model and batches. This one then
    /// computes its share of the rows of each batch. Call it before [`Trainer::restore`].
    ///
    /// [`Trainer::step`] and [`Trainer::checkpoint`] are then collective: all ranks must call them
    /// in the same order.
    ///
    /// # Errors
    ///
    /// If the batch has fewer rows than groups; see `shards`.
    pub fn with_ranks(mut self, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        let share = Share::of(
            self.plan.batch,
            self.plan.shards,
            ranks.rank(),
            ranks.size(),
        );
        self.share = share.map_err(|problem| PlanError::about("batch", problem))?;
        self.ranks = ranks;
        Ok(self)
    }

    /// Reports each phase of the run to a watchdog.
    pub fn with_heartbeat(mut self, heartbeat: Option<Heartbeat>) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Sets the log entry of the ranks.
    pub fn with_team(mut self, team: Option<RanksEvent>) -> Self {
        self.team = team;
        self
    }

    /// Reports the start of a phase to the watchdog.
    pub(crate) fn begin(&self, phase: Phase) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat(self.progress.step + 1, phase);
        }
    }

    /// The ranks that train the model.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.ranks
    }

    /// Sets whether this rank was asked to save and stop; the next step shares it with all ranks.
    pub fn request_stop(&mut self, stop: bool) {
        self.stop = stop;
    }

    /// Reduces the sums of this rank to the mean over all ranks: one exchange per step for any
    /// `accumulate`, first of the records, then of the gradients.
    pub(super) fn exchange(
        &self,
        loss: f64,
        gradients: Accumulated<ModuleGradients>,
        times: &mut PhaseTimes,
    ) -> Result<(f64, Unscaled<ModuleGradients>, Option<Exchanged>), TrainError> {
        let terms = gradients.terms();
        if self.ranks.size() == 1 {
            let mean = gradients.in_one_process().without_loss_scale();
            return Ok((loss / terms as f64, mean, None));
        }
        let started = Instant::now();
        let step = self.progress.step;
        let learned = match compares_at(step) {
            true => hash_of(&module_tensors(self.model()), &self.clipper.state()),
            false => 0,
        };
        let own = Record {
            step,
            terms,
            loss,
            computed: times.forward + times.backward,
            stop: self.stop,
            learned,
        };
        let records = Records::gather(&*self.ranks, own)?;
        let mut bytes = 0;
        let reduced = gradients.reduce(records.terms(), |elements| match elements {
            Elements::F32(values) => {
                bytes += size_of_val(&**values) as u64;
                self.ranks.sum(values);
                Ok(())
            }
            _ => Err(TrainError::Ranks {
                problem: "only f32 gradients can be exchanged".to_string(),
            }),
        })?;
        times.exchange += started.elapsed();
        let (slowest, computed, waited) = records.slowest();
        let exchanged = Exchanged {
            stop: records.stop(),
            bytes,
            slowest,
            computed,
            waited,
        };
        Ok((
            records.loss(),
            reduced.without_loss_scale(),
            Some(exchanged),
        ))
    }

    /// Gathers the carried state of every row of the batch. Collective.
    pub(crate) fn gather_carried(&self) -> Vec<NamedTensor> {
        let tensors = self.carried.tensors.iter();
        let tensors = tensors.map(|(name, tensor)| {
            let data = tensor.clone().without_autodiff().into_data();
            NamedTensor {
                name: name.clone(),
                data: gather_rows(&*self.ranks, data),
            }
        });
        tensors.collect()
    }
}
