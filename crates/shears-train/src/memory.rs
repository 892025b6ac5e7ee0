//! What training will take, from the plan alone, before any of it is taken.

use shears_model::{Architecture, ParameterInfo};

use crate::optimizer::OptimizerKind;
use crate::plan::{Plan, PlanError};

/// Bytes by purpose. Parameters, gradients and moments are exact; activations are an estimate,
/// calibrated on measured peaks (`LOG.md`), and within a sixth of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The weights, and the copy of them that is taken when the size of an update is looked at.
    pub parameters: u64,
    /// One gradient for each weight.
    pub gradients: u64,
    /// What the optimizer remembers.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// The program itself, with its text.
    pub program: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [
            self.parameters,
            self.gradients,
            self.moments,
            self.activations,
            self.program,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What the program takes before it has a model.
const PROGRAM: u64 = 13_000_000;

/// Estimates the memory of training a model with these parameters.
///
/// # Errors
///
/// If the sizes exceed what 64 bits can count.
pub fn estimate_memory(
    plan: &Plan,
    parameters: &[ParameterInfo],
    vocabulary: usize,
) -> Result<MemoryEstimate, PlanError> {
    let too_large = || PlanError::new("the model's size exceeds what a computer can address");
    let mut elements = 0_u64;
    for parameter in parameters {
        let size = parameter
            .shape
            .iter()
            .try_fold(1_u64, |size, &n| size.checked_mul(n as u64));
        elements = size
            .and_then(|size| elements.checked_add(size))
            .ok_or_else(too_large)?;
    }
    let bytes = elements.checked_mul(4).ok_or_else(too_large)?;
    let moments = match plan.optimizer {
        OptimizerKind::Sgd => 0,
        OptimizerKind::Momentum | OptimizerKind::RmsProp => 1,
        OptimizerKind::Adam | OptimizerKind::AdamW => 2,
    };
    let tokens = (plan.batch as u64)
        .checked_mul(plan.window as u64)
        .ok_or_else(too_large)?;
    let per_token = activations_per_token(plan, vocabulary);
    let activations = tokens.checked_mul(per_token).and_then(|n| n.checked_mul(4));
    Ok(MemoryEstimate {
        parameters: bytes.checked_mul(2).ok_or_else(too_large)?,
        gradients: bytes,
        moments: bytes.checked_mul(moments).ok_or_else(too_large)?,
        activations: activations.ok_or_else(too_large)?,
        program: PROGRAM,
    })
}

/// Numbers kept for each token: multiples of each layer's width, fitted to measured peaks, and the
/// gradient of its logits. There are no attention scores among them.
fn activations_per_token(plan: &Plan, vocabulary: usize) -> u64 {
    let (layers, hidden) = (plan.layers as u64, plan.hidden as u64);
    let dropped = u64::from(plan.dropout > 0.0);
    let layer = match plan.model {
        Architecture::Rnn => (2 + dropped) * hidden,
        Architecture::Lstm => (7 + dropped) * hidden,
        Architecture::Gru => (6 + dropped) * hidden,
        // Masks are drawn again, and not kept.
        Architecture::Transformer => 23 * hidden / 2,
    };
    layers
        .saturating_mul(layer)
        .saturating_add(vocabulary as u64 + 5 * hidden / 4)
}
