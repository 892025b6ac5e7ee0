//! The output layer and its cross-entropy as one operation.
//!
//! The matrix of probabilities is as large as the batch times the vocabulary, and nobody wants it: only
//! its product with the weights and with the hidden states. So a block of rows becomes logits,
//! probabilities and gradients while it is in the cache, already in the forward pass (as Hsu et al.
//! 2024, "Liger Kernel", do on GPUs), and the backward pass only hands out what was found, multiplied by the gradient of
//! the loss.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, activation::log_softmax};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Precision};
use crate::linear::linear_plain;
use crate::tensor::{contiguous, is_ours, sizes, tokens as to_tokens, values};

mod kernel;

use kernel::{Found, Problem};

pub use kernel::logit_rows_at_once;

/// The mean negative log-likelihood, in nats, of `targets` `[rows]` under `softmax(x Wᵀ + b)`, for `hidden`
/// `[rows, hidden]`, `weight` `[vocabulary, hidden]` and `bias` `[vocabulary]`.
///
/// # Panics
///
/// If the shapes do not fit together, or a target is not in the vocabulary.
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
    Tensor::from_dispatch(<Dispatch as LossBackend>::output_loss(
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        targets.into_dispatch(),
        precision,
    ))
}

/// The mean negative log-likelihood of `targets` `[rows]` under `softmax(logits)` `[rows, vocabulary]`, in Burn's
/// own operations, on any device and in any precision.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    let chosen = log_softmax(logits, 1).gather(1, targets.reshape([rows, 1]));
    chosen.mean().neg()
}

#[backend_extension(Autodiff, Flex)]
trait LossBackend: Backend {
    fn output_loss(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl LossBackend for Flex {
    fn output_loss(
        hidden: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        targets: FlexTensor,
        precision: Precision,
    ) -> FlexTensor {
        scalar(find([hidden, weight, bias], targets, precision, false).loss)
    }
}

impl<C: CheckpointStrategy> LossBackend for Autodiff<Flex, C> {
    fn output_loss(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let (hidden, hidden_node) = hidden.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let parents = [hidden_node, weight_node, bias_node];
        let given = [hidden, weight, bias];
        match Loss.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [rows, size] = sizes(&given[0]);
                let [vocabulary, _] = sizes(&given[1]);
                let found = find(given, targets, precision, true);
                let gradients = found.gradients.map(|gradients| {
                    let bias = gradients.bias.len();
                    [
                        gradients.hidden.into_tensor([rows, size]),
                        gradients.weight.into_tensor([vocabulary, size]),
                        gradients.bias.into_tensor([bias]),
                    ]
                });
                prep.finish(gradients, scalar(found.loss))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::output_loss(
                given[0].clone(),
                given[1].clone(),
                given[2].clone(),
                targets,
                precision,
            )),
        }
    }
}

fn find(
    given: [FlexTensor; 3],
    targets: FlexTensor,
    precision: Precision,
    with_gradients: bool,
) -> Found {
    let [hidden, weight, bias] = given.map(contiguous);
    let [vocabulary, size] = sizes(&weight);
    let targets = to_tokens(targets, vocabulary);
    let problem = Problem {
        hidden: values(&hidden),
        weight: values(&weight),
        bias: values(&bias),
        targets: &targets,
        size,
        vocabulary,
    };
    problem.solve(Cpu::current().with(precision), with_gradients)
}

fn scalar(value: f32) -> FlexTensor {
    Buffer::copy_of(&[value]).into_tensor([1])
}

#[derive(Debug)]
struct Loss;

impl Backward<Flex, 3> for Loss {
    /// The gradients of hidden states, weight and bias for a loss whose own gradient is 1.
    type State = Option<[FlexTensor; 3]>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let factor = values(&gradient)[0];
        let found = ops.state.expect("a tracked loss has gradients");
        for (parent, found) in ops.parents.into_iter().zip(found) {
            let Some(parent) = parent else { continue };
            let found = match factor {
                1.0 => found,
                factor => Flex::float_mul_scalar(found, factor.into()),
            };
            gradients.register::<Flex>(parent.id, found);
        }
    }
}

#[cfg(test)]
mod tests;
