//! The output layer and its cross-entropy, fused.
//!
//! The matrix of probabilities has the size of batch times vocabulary, but only its products with
//! the weights and the hidden states are needed. So the forward pass computes logits, probabilities
//! and gradients for one block of rows at a time, in the cache (as Hsu et al. 2024, "Liger Kernel",
//! do on GPUs); the backward pass only multiplies these gradients by the gradient of the loss.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Int, Shape, Tensor, activation::log_softmax};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Precision};
use crate::linear::linear_plain;
use crate::operation::{Forward, Operation, call_with_one_output};
use crate::tensor::{contiguous, is_ours, sizes, tokens as to_tokens, values};

mod kernel;

use kernel::Problem;

pub use kernel::logit_rows_at_once;

/// The mean negative log-likelihood, in nats, of `targets` `[rows]` under `softmax(x Wᵀ + b)`, for
/// `hidden` `[rows, hidden]`, `weight` `[vocabulary, hidden]` and `bias` `[vocabulary]`.
///
/// # Panics
///
/// If the shapes do not match, or a target is not in the vocabulary.
pub fn output_loss(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
    precision: Precision,
) -> Tensor<1> {
    if !is_ours(&hidden) {
        return cross_entropy(linear_plain(hidden, weight, bias), targets);
    }
    let ([rows, size], [vocabulary, width]) = (hidden.dims(), weight.dims());
    assert_eq!(size, width, "width of the hidden states");
    assert_eq!(targets.dims(), [rows], "number of targets");
    // Without a bias the operation gets an empty one.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([0], &hidden.device()));
    assert!(
        bias.dims() == [vocabulary] || bias.dims() == [0],
        "size of the bias"
    );
    let tensors = [
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    let targets = to_tokens(targets, vocabulary);
    Tensor::from_dispatch(call_with_one_output(
        OutputLoss { targets, precision },
        tensors,
    ))
}

/// The mean negative log-likelihood of `targets` `[rows]` under `softmax(logits)` `[rows,
/// vocabulary]`, composed of Burn's operations, on any device and in any precision.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    let chosen = log_softmax(logits, 1).gather(1, targets.reshape([rows, 1]));
    chosen.mean().neg()
}

struct OutputLoss {
    targets: Vec<u32>,
    precision: Precision,
}

impl Operation<3> for OutputLoss {
    /// The gradients of hidden states, weight and bias, for a loss gradient of 1.
    type Saved = [FlexTensor; 3];

    fn shapes(&self, _inputs: &[FlexTensor; 3]) -> Option<Vec<Shape>> {
        Some(vec![Shape::new([1])])
    }

    fn forward(self, inputs: [FlexTensor; 3], needs_backward: bool) -> Forward<Self::Saved> {
        let [hidden, weight, bias] = inputs.map(contiguous);
        let [vocabulary, size] = sizes(&weight);
        let problem = Problem {
            hidden: values(&hidden),
            weight: values(&weight),
            bias: values(&bias),
            targets: &self.targets,
            size,
            vocabulary,
        };
        let found = problem.solve(Cpu::current().with(self.precision), needs_backward);
        let gradients = found.gradients.map(|gradients| {
            let bias = gradients.bias.len();
            [
                gradients.hidden.into_tensor([self.targets.len(), size]),
                gradients.weight.into_tensor([vocabulary, size]),
                gradients.bias.into_tensor([bias]),
            ]
        });
        Forward {
            output: Buffer::copy_of(&[found.loss]).into_tensor([1]),
            constants: Vec::new(),
            saved: gradients,
        }
    }

    fn backward(
        saved: Self::Saved,
        gradient: FlexTensor,
        _wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let factor = values(&gradient)[0];
        saved.map(|found| match factor {
            1.0 => Some(found),
            factor => Some(Flex::float_mul_scalar(found, factor.into())),
        })
    }
}

#[cfg(test)]
mod tests;
