//! What a trainer does together with those of other ranks.

use std::sync::Arc;
use std::time::Instant;

use gradclip::{Accumulated, Elements, Unscaled};
use gradclip_burn::ModuleGradients;
use shears_model::LanguageModel;
use shears_parallel::{Heartbeat, Phase, Ranks};
use shears_run::RanksEvent;

use super::{Exchanged, PhaseTimes, Trainer};
use crate::carried::rows_of_all;
use crate::error::TrainError;
use crate::exchange::{Record, Records, Share, compares_at, hash_of};
use crate::plan::PlanError;
use crate::tensors::{NamedTensor, module_tensors};

impl<M: LanguageModel> Trainer<M> {
    /// Trains together with other ranks, each of which has a trainer of the same plan, model and
    /// batches: this one computes its rows of each batch. Before [`Trainer::restore`].
    ///
    /// From here on [`Trainer::step`] and [`Trainer::checkpoint`] are exchanges: all ranks call
    /// them, in the same order.
    ///
    /// # Errors
    ///
    /// If the batch has fewer rows than there are ranks.
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

    /// Tells a watchdog in each phase of the run that it goes on.
    pub fn with_heartbeat(mut self, heartbeat: Option<Heartbeat>) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Has the log say who trains.
    pub fn with_team(mut self, team: Option<RanksEvent>) -> Self {
        self.team = team;
        self
    }

    /// What comes now, for the watchdog.
    pub(crate) fn begin(&self, phase: Phase) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat(self.progress.step + 1, phase);
        }
    }

    /// The ranks that train the model.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.ranks
    }

    /// Tells the other ranks in the next step that this one was asked to save and stop.
    pub fn tell_to_stop(&mut self, stop: bool) {
        self.stop = stop;
    }

    /// From the sums of this rank to the mean over all: one exchange a step, whatever `accumulate`
    /// is. What a rank has to say comes first, and then the gradients.
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
                problem: "gradients that are not f32 cannot be exchanged".to_string(),
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

    /// What all ranks carry: of every row of the batch. An exchange.
    pub(crate) fn carried_by_all(&self) -> Vec<NamedTensor> {
        let tensors = self.carried.tensors.iter();
        let tensors = tensors.map(|(name, tensor)| {
            let data = tensor.clone().without_autodiff().into_data();
            NamedTensor {
                name: name.clone(),
                data: rows_of_all(&*self.ranks, data),
            }
        });
        tensors.collect()
    }
}
