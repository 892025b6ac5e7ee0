//! Restoring a trainer from a checkpoint.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use shears_model::{LanguageModel, Reading, State};

use super::{MODEL_IS_PRESENT, Trainer};
use crate::carried::part_of;
use crate::checkpoint::Checkpoint;
use crate::error::{RestoreError, TrainError};
use crate::safetensors_header::brief;
use crate::tensors::{NamedTensor, load_parameters};

impl<M: LanguageModel> Trainer<M> {
    /// Restores the state of a checkpoint.
    pub fn restore(mut self, checkpoint: Checkpoint) -> Result<Self, TrainError> {
        let model = self.model.take().expect(MODEL_IS_PRESENT);
        let refuse = |path: &str, problem: String| RestoreError {
            path: path.into(),
            problem,
            newer: false,
        };
        let loaded = load_parameters(model, checkpoint.model)
            .map_err(|problem| refuse("model.safetensors", problem))?;
        self.model = Some(loaded);
        // The state of another policy is meaningless here.
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
        let carried = State {
            tensors: tensors.collect(),
            position: checkpoint.progress.position,
            dropout: None,
        };
        let own = self.share.rows();
        self.carried = part_of(&carried, own.start, own.len(), self.plan.batch);
        self.progress = checkpoint.progress;
        if checkpoint.plan.eval_tokens != self.plan.eval_tokens {
            // Losses on other tokens are not comparable.
            self.progress.best_val_loss = None;
            self.progress.stale_evaluations = 0;
        }
        Ok(self)
    }

    /// Refuses moments that do not match the parameters. Before the first update there are none.
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
                return Err(format!(
                    "`{}` does not match the model",
                    brief(&moment.name)
                ));
            }
        }
        match wanted.keys().next() {
            Some(missing) if updated => Err(format!("`{missing}` is missing")),
            _ => Ok(()),
        }
    }

    /// Refuses a carried state that does not match the model.
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
            Some(tensor) => Err(format!(
                "`{}` does not match the model",
                brief(&tensor.name)
            )),
            None if carried.len() != wanted.len() => Err("a layer's state is missing".to_string()),
            None => Ok(()),
        }
    }
}
