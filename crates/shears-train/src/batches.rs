//! The batches of a plan, a pure function of the step.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use shears_data::{Batch, DataError, RandomWindows, StreamBatches, Tokens};
use shears_model::Reading;

use crate::plan::Plan;

/// The training batches of a model.
#[derive(Debug)]
pub enum Batches {
    /// Consecutive windows of parallel streams.
    Streams(StreamBatches),
    /// Random windows.
    Windows(RandomWindows),
}

impl Batches {
    /// Creates the batches of a plan over `tokens`.
    pub fn new(plan: &Plan, reading: Reading, tokens: Tokens) -> Result<Self, DataError> {
        Ok(match reading {
            Reading::Streams => {
                let streams = StreamBatches::new(tokens, plan.batch, plan.window)?;
                Batches::Streams(match plan.format {
                    ..=1 => streams.dropping_ends(),
                    _ => streams,
                })
            }
            Reading::Windows { context } => {
                let window = plan.window.min(context);
                Batches::Windows(RandomWindows::new(tokens, plan.batch, window, plan.seed)?)
            }
        })
    }

    /// The number of tokens that one pass over the text does not read, and the number of passes
    /// after which all are read, if ever. `None` for models that read random windows.
    pub fn unread_per_pass(&self) -> Option<(usize, Option<u64>)> {
        match self {
            Batches::Streams(streams) => {
                Some((streams.left_by_an_epoch(), streams.epochs_of_all()))
            }
            Batches::Windows(_) => None,
        }
    }

    /// The micro-batch with this index, counted from the start of the run.
    pub fn at(&self, index: u64) -> Batch {
        match self {
            Batches::Streams(streams) => streams.batch_at(index),
            Batches::Windows(windows) => windows.batch_at(index),
        }
    }

    /// The first `most` rows of a micro-batch, or all if there are fewer.
    pub fn rows_at(&self, index: u64, most: usize) -> Batch {
        match self {
            Batches::Streams(streams) => streams.rows_at(index, most),
            Batches::Windows(windows) => windows.rows_at(index, most),
        }
    }
}

/// Selects rows of a batch.
pub(crate) fn rows_of(batch: Batch, rows: &Range<usize>) -> Batch {
    if *rows == (0..batch.batch) {
        return batch;
    }
    let range = rows.start * batch.window..rows.end * batch.window;
    Batch {
        inputs: batch.inputs[range.clone()].to_vec(),
        targets: batch.targets[range].to_vec(),
        batch: rows.len(),
        ..batch
    }
}

/// Inputs and targets `[batch, window]` on a device.
pub(crate) fn to_tensors(batch: &Batch, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let shape = [batch.batch, batch.window];
    let tensor = |tokens: &[u32]| {
        let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), device)
    };
    (tensor(&batch.inputs), tensor(&batch.targets))
}
