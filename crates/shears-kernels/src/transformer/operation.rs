//! The block as an operation of Burn, with its own backward pass.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::backward::backward;
use super::cached::forward_cached;
use super::forward::{BlockSlices, Pass, Saved, Sizes, forward};
use super::{BlockOf, BlockSettings, BlockWeights, KeysAndValues, Masks, WithBias};
use crate::cpu::{Cpu, Precision};
use crate::operation::{Forward, Operation, call as call_operation};
use crate::tensor::{contiguous, from_buffer, sizes, values, weight, widened};

/// Calls the operation.
pub(super) fn call(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
) -> (Tensor<3>, KeysAndValues) {
    check(&x, &weights, settings);
    let parameters = weights.map(Tensor::into_dispatch, Tensor::into_dispatch);
    let tensors = joined(x.into_dispatch(), parameters);
    let (output, constants) = call_operation(Block(settings), tensors);
    let mut constants = constants.into_iter().map(Tensor::from_dispatch);
    let mut next = || constants.next().expect("keys and values");
    let all = KeysAndValues {
        keys: next(),
        values: next(),
    };
    (Tensor::from_dispatch(output), all)
}

/// Something for the input, followed by the same for each parameter.
fn joined<T>(x: T, parameters: BlockOf<T>) -> [T; 13] {
    let mut all = std::iter::once(x).chain(parameters.into_array());
    std::array::from_fn(|_| all.next().expect("an input and twelve parameters"))
}

fn check(x: &Tensor<3>, weights: &BlockWeights, settings: BlockSettings) {
    let [_, _, hidden] = x.dims();
    let [inner, _] = weights.expand.weight.dims();
    let norm = WithBias::new([hidden], [hidden]);
    let linear = |outputs, inputs| WithBias::new([outputs, inputs], [outputs]);
    let expected = BlockOf {
        norm_1: norm,
        qkv: linear(3 * hidden, hidden),
        projection: linear(hidden, hidden),
        norm_2: norm,
        expand: linear(inner, hidden),
        project: linear(hidden, inner),
    };
    let given = weights.as_ref().map(Tensor::dims, Tensor::dims);
    assert_eq!(given, expected, "shapes of a block's parameters");
    assert!(
        settings.heads > 0 && hidden % settings.heads == 0,
        "{} heads do not divide {hidden}",
        settings.heads
    );
}

/// Whether [`call_cached`] takes the tensors: it computes no gradients.
pub(super) fn is_plain(
    x: &Tensor<3>,
    weights: &BlockWeights,
    settings: BlockSettings,
    earlier: &KeysAndValues,
) -> bool {
    let of_weights = weights.qkv.weight.is_autodiff();
    let of_earlier = earlier.keys.is_autodiff() || earlier.values.is_autodiff();
    settings.dropout.is_none() && !x.is_autodiff() && !of_weights && !of_earlier
}

/// Computes a block outside automatic differentiation.
///
/// # Panics
///
/// If the tensors are not [`is_plain`].
pub(super) fn call_cached(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: KeysAndValues,
) -> (Tensor<3>, KeysAndValues) {
    check(&x, &weights, settings);
    let shape = x.dims();
    let parameters = weights.map(primitive, primitive);
    let call = Call::new(primitive(x), parameters, settings);
    let call = match call.sizes.is_one_position() {
        true => call,
        false => call.widened(),
    };
    let earlier = [primitive(earlier.keys), primitive(earlier.values)];
    let (output, [keys, values]) = forward_cached(
        Cpu::current().with(call.precision),
        call.sizes,
        values(&call.x),
        call.weights(),
        earlier,
    );
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

/// Everything that a call reads, contiguous.
#[derive(Debug)]
struct Call {
    sizes: Sizes,
    masks: Option<Masks>,
    precision: Precision,
    x: FlexTensor,
    parameters: BlockOf<FlexTensor>,
}

impl Call {
    fn new(x: FlexTensor, parameters: BlockOf<FlexTensor>, settings: BlockSettings) -> Call {
        let [batch, time, hidden] = sizes(&x);
        let [inner, _] = sizes(&parameters.expand.weight);
        let sizes = Sizes {
            batch,
            time,
            hidden,
            inner,
            heads: settings.heads,
            mlp: settings.mlp,
        };
        Call {
            sizes,
            masks: settings.masks(batch * time),
            precision: settings.precision,
            x: contiguous(x),
            parameters: parameters.map(contiguous, contiguous),
        }
    }

    /// With weights that products of many rows read.
    fn widened(self) -> Call {
        Call {
            parameters: self.parameters.map(widened, widened),
            ..self
        }
    }

    fn weights(&self) -> BlockSlices<'_> {
        self.parameters.as_ref().map(weight, values)
    }

    /// The output, queries with keys and values, and what backward needs besides.
    fn forward(&self) -> (FlexTensor, FlexTensor, Saved) {
        let x = values(&self.x);
        let Pass { qkv, saved, output } = forward(
            Cpu::current().with(self.precision),
            self.sizes,
            x,
            self.weights(),
            self.masks,
        );
        let Sizes {
            batch,
            time,
            hidden,
            ..
        } = self.sizes;
        let qkv = qkv.into_tensor([batch, time, 3 * hidden]);
        (output.into_tensor([batch, time, hidden]), qkv, saved)
    }

    /// Keys and values, where the product left them.
    fn keys_and_values(&self, qkv: &FlexTensor) -> [FlexTensor; 2] {
        let hidden = self.sizes.hidden;
        [1, 2].map(|part| {
            let layout = qkv.layout().narrow(2, part * hidden, hidden);
            qkv.clone().with_layout(layout)
        })
    }
}

/// A block for a text that begins here.
struct Block(BlockSettings);

impl Operation<13> for Block {
    /// The call, queries with keys and values, and what backward needs besides.
    type Saved = (Call, FlexTensor, Saved);

    fn forward(
        self,
        [x, parameters @ ..]: [FlexTensor; 13],
        _needs_backward: bool,
    ) -> Forward<Self::Saved> {
        let call = Call::new(x, BlockOf::from_array(parameters), self.0).widened();
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
        let (x, parameters) = backward(
            Cpu::current().with(call.precision),
            call.sizes,
            values(&call.x),
            call.weights(),
            call.masks,
            (values(&qkv), saved),
            values(&gradient),
        );
        drop((qkv, gradient));
        let mut shapes = joined(&call.x, call.parameters.as_ref())
            .map(|tensor| tensor.layout().shape().clone())
            .into_iter();
        joined(x, parameters).map(|buffer| Some(buffer.into_tensor(shapes.next()?)))
    }
}
