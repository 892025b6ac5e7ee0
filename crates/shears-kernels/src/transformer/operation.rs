//! The block as a Burn operation with its own backward pass.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, Tensor};

use super::backward::backward;
use super::cached::forward_cached;
use super::forward::{Block, Pass, Rotation, Saved, Sizes, forward};
use super::rope::RotaryTable;
use super::{BlockOf, BlockSettings, BlockWeights, KeysAndValues, Masks};
use crate::cpu::{Cpu, Precision};
use crate::operation::{
    Forward, Operation, call as call_operation, is_plain as is_plain_tensor, unwrap_plain,
};
use crate::tensor::{contiguous, from_buffer, sizes, values, weight, widened};

/// Calls the operation.
pub(super) fn call(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
) -> (Tensor<3>, KeysAndValues) {
    let [_, _, hidden] = x.dims();
    check(hidden, &weights, settings);
    // The operation gets an empty tensor for a missing bias.
    let empty = Tensor::<1>::zeros([0], &x.device()).into_dispatch();
    let tensors = joined(x.into_dispatch(), weights);
    let tensors = tensors.map(|tensor| tensor.unwrap_or_else(|| empty.clone()));
    let (output, constants) = call_operation(BlockOperation(settings), tensors);
    let mut constants = constants.into_iter().map(Tensor::from_dispatch);
    let mut next = || constants.next().expect("keys and values");
    let all = KeysAndValues {
        keys: next(),
        values: next(),
    };
    (Tensor::from_dispatch(output), all)
}

/// Values for the input, then for each weight, then for each bias, if present.
fn joined<T>(x: T, parameters: BlockOf<T>) -> [Option<T>; 13] {
    let (weights, biases) = parameters.into_arrays();
    let mut all = std::iter::once(x).chain(weights).map(Some).chain(biases);
    std::array::from_fn(|_| all.next().flatten())
}

/// # Panics
///
/// If the weights are not those of a block of width `hidden`.
pub(super) fn check(hidden: usize, weights: &BlockWeights, settings: BlockSettings) {
    let inner = weights.project.weight.shape()[1];
    let (heads, kv_heads, mlp) = (settings.heads, settings.kv_heads, settings.mlp);
    assert!(
        heads > 0 && hidden.is_multiple_of(heads),
        "{heads} heads do not divide {hidden}"
    );
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "{kv_heads} heads of keys do not divide {heads} heads of queries"
    );
    let expected: [&[usize]; 6] = [
        &[hidden],
        &[hidden + 2 * kv_heads * (hidden / heads), hidden],
        &[hidden, hidden],
        &[hidden],
        &[mlp.parts() * inner, hidden],
        &[hidden, inner],
    ];
    let (given, biases) = weights.as_ref().map(TensorMetadata::shape).into_arrays();
    for ((given, bias), expected) in given.iter().zip(&biases).zip(expected) {
        assert_eq!(given.as_slice(), expected, "the shape of a weight");
        let bias = bias.iter().all(|bias| bias.as_slice() == &expected[..1]);
        assert!(bias, "the shape of the bias of a weight {expected:?}");
    }
}

/// Whether [`call_cached`], which computes no gradients, can take the tensors.
pub(super) fn is_plain(
    x: &Tensor<3>,
    weights: &BlockWeights,
    settings: BlockSettings,
    earlier: &KeysAndValues,
) -> bool {
    let of_earlier = earlier.keys.is_autodiff() || earlier.values.is_autodiff();
    let is_tracked = x.is_autodiff() || !is_plain_tensor(&weights.qkv.weight) || of_earlier;
    settings.dropout.is_none() && !is_tracked
}

/// Computes a block outside automatic differentiation.
///
/// # Panics
///
/// If the tensors do not satisfy [`is_plain`].
pub(super) fn call_cached(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: KeysAndValues,
) -> (Tensor<3>, KeysAndValues) {
    let shape = x.dims();
    check(shape[2], &weights, settings);
    let parameters = weights.map(unwrap_plain);
    let [_, start, _] = earlier.keys.dims();
    let call = Call::new(primitive(x), parameters, settings, start);
    let call = match call.sizes.is_one_position() {
        true => call,
        false => call.widened(),
    };
    let earlier = [primitive(earlier.keys), primitive(earlier.values)];
    let (output, [keys, values]) = forward_cached(call.block(), earlier);
    let all = KeysAndValues {
        keys: Tensor::from_primitive::<Flex>(keys),
        values: Tensor::from_primitive::<Flex>(values),
    };
    (from_buffer(output, shape), all)
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor.try_into_primitive::<Flex>();
    tensor.expect("the tensor is on the CPU device, outside automatic differentiation")
}

/// The inputs of a call, contiguous.
#[derive(Debug)]
struct Call {
    sizes: Sizes,
    masks: Option<Masks>,
    precision: Precision,
    /// The table, and the position of the first row of each sequence.
    rotation: Option<(Arc<RotaryTable>, usize)>,
    x: FlexTensor,
    parameters: BlockOf<FlexTensor>,
}

impl Call {
    fn new(
        x: FlexTensor,
        parameters: BlockOf<FlexTensor>,
        settings: BlockSettings,
        start: usize,
    ) -> Call {
        let [batch, time, hidden] = sizes(&x);
        let [_, inner] = sizes(&parameters.project.weight);
        let sizes = Sizes::new([batch, time], [hidden, inner], settings);
        let rotation = settings.rope_theta.map(|theta| {
            let table = RotaryTable::of(sizes.head(), theta, start + time);
            (table, start)
        });
        Call {
            sizes,
            masks: settings.masks(batch * time),
            precision: settings.precision,
            rotation,
            x: contiguous(x),
            parameters: parameters.map(contiguous),
        }
    }

    /// Widens the weights to `f32`, for products of many rows.
    fn widened(self) -> Call {
        Call {
            parameters: self.parameters.map(widened),
            ..self
        }
    }

    fn block(&self) -> Block<'_> {
        let rotation = self.rotation.as_ref().map(|(table, start)| Rotation {
            table,
            start: *start,
            time: self.sizes.time,
        });
        Block {
            cpu: Cpu::current().with(self.precision),
            sizes: self.sizes,
            x: values(&self.x),
            weights: self.parameters.as_ref().map(weight),
            masks: self.masks,
            rotation,
        }
    }

    /// Computes the output, queries, keys and values, and what else the backward pass needs.
    fn forward(&self) -> (FlexTensor, FlexTensor, Saved) {
        let Pass { qkv, saved, output } = forward(self.block());
        let (batch, time, hidden) = (self.sizes.batch, self.sizes.time, self.sizes.hidden);
        let qkv = qkv.into_tensor([batch, time, self.sizes.qkv()]);
        (output.into_tensor([batch, time, hidden]), qkv, saved)
    }

    /// Views of the keys and values in the output of their product.
    fn keys_and_values(&self, qkv: &FlexTensor) -> [FlexTensor; 2] {
        let (hidden, width) = (self.sizes.hidden, self.sizes.keys());
        [hidden, hidden + width].map(|first| {
            let layout = qkv.layout().narrow(2, first, width);
            qkv.clone().with_layout(layout)
        })
    }
}

/// The operation: a block for sequences that start with `x`.
struct BlockOperation(BlockSettings);

impl Operation<13> for BlockOperation {
    /// The call, queries, keys and values, and what else the backward pass needs.
    type Saved = (Call, FlexTensor, Saved);

    fn shapes(&self, inputs: &[FlexTensor; 13]) -> Option<Vec<Shape>> {
        let output @ [batch, time, hidden] = sizes(&inputs[0]);
        let keys = [batch, time, hidden / self.0.heads * self.0.kv_heads];
        Some([output, keys, keys].map(Shape::new).into())
    }

    fn forward(
        self,
        [x, a, b, c, d, e, f, biases @ ..]: [FlexTensor; 13],
        _needs_backward: bool,
    ) -> Forward<Self::Saved> {
        let biases = biases.map(|bias| Some(bias).filter(|bias| sizes(bias) != [0]));
        let parameters = BlockOf::from_arrays([a, b, c, d, e, f], biases);
        let call = Call::new(x, parameters, self.0, 0).widened();
        let (output, qkv, saved) = call.forward();
        Forward {
            output,
            constants: call.keys_and_values(&qkv).into(),
            saved: Some((call, qkv, saved)),
        }
    }

    fn backward(
        (call, qkv, saved): Self::Saved,
        gradient: FlexTensor,
        _wanted: [bool; 13],
    ) -> [Option<FlexTensor>; 13] {
        let found = (values(&qkv), saved);
        let (x, parameters) = backward(call.block(), found, values(&gradient));
        drop((qkv, gradient));
        let mut given = joined(&call.x, call.parameters.as_ref()).into_iter();
        joined(x, parameters).map(|buffer| {
            let shape = given.next()??.layout().shape().clone();
            Some(buffer?.into_tensor(shape))
        })
    }
}
