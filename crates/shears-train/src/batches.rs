//! The batches of a plan: a pure function of the step.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use shears_data::{Batch, DataError, RandomWindows, StreamBatches};
use shears_model::Reading;

use crate::plan::Plan;

/// What a model reads in training, whichever way it reads.
#[derive(Debug)]
pub enum Batches {
    /// Consecutive windows of parallel streams.
    Streams(StreamBatches),
    /// Random windows.
    Windows(RandomWindows),
}

impl Batches {
    /// The batches of a plan over `tokens`.
    pub fn new(plan: &Plan, reading: Reading, tokens: Arc<[u32]>) -> Result<Self, DataError> {
        Ok(match reading {
            Reading::Streams => {
                Batches::Streams(StreamBatches::new(tokens, plan.batch, plan.window)?)
            }
            Reading::Windows { context } => {
                let window = plan.window.min(context);
                Batches::Windows(RandomWindows::new(tokens, plan.batch, window, plan.seed)?)
            }
        })
    }

    /// The micro-batch of that index, counted from the start of the run.
    pub fn at(&self, index: u64) -> Batch {
        match self {
            Batches::Streams(streams) => streams.batch_at(index),
            Batches::Windows(windows) => windows.batch_at(index),
        }
    }
}

/// Inputs and targets `[batch, window]` on a device.
pub(crate) fn to_tensors(batch: &Batch, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let ints = |tokens: &[u32]| {
        tokens
            .iter()
            .map(|&token| token as i32)
            .collect::<Vec<i32>>()
    };
    let shape = [batch.batch, batch.window];
    let tensor = |tokens| Tensor::from_data(TensorData::new(ints(tokens), shape), device);
    (tensor(&batch.inputs), tensor(&batch.targets))
}
