//! `y = x Wᵀ + b`, with PyTorch's weight layout.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::matmul::{FEW_ROWS, Packed, Start, product_of_few_rows, transposed_product};
use crate::tensor::{contiguous, is_ours, sizes, values, weight as stored, widened};
use crate::vector::sum_columns;

/// `x Wᵀ + b` for `input` `[.., inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`.
///
/// # Panics
///
/// If the shapes do not fit together.
pub fn linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !is_ours(&input) {
        return linear_plain(input, weight, bias);
    }
    let mut shape = input.dims();
    let [outputs, inputs] = weight.dims();
    assert_eq!(shape[D - 1], inputs, "width of the input");
    let rows = shape[..D - 1].iter().product();
    shape[D - 1] = outputs;
    // Without a bias the operation gets an empty one.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([0], &input.device()));
    assert!(
        bias.dims() == [outputs] || bias.dims() == [0],
        "size of the bias"
    );
    let output = <Dispatch as LinearBackend>::linear(
        input.reshape([rows, inputs]).into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    Tensor::<2>::from_dispatch(output).reshape(shape)
}

/// [`linear`] in Burn's own operations, on any device and in any precision.
pub fn linear_plain<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    burn::tensor::module::linear(input, weight.transpose(), bias)
}

#[backend_extension(Autodiff, Flex)]
trait LinearBackend: Backend {
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl LinearBackend for Flex {
    fn linear(input: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (input, weight, bias) = (contiguous(input), contiguous(weight), contiguous(bias));
        let ([rows, inputs], [outputs, _]) = (sizes(&input), sizes(&weight));
        let cpu = Cpu::current();
        let start = match values(&bias) {
            [] => Start::Zero,
            bias => Start::Bias(bias),
        };
        let x = values(&input);
        let mut y = Buffer::uninitialised(rows * outputs);
        if rows <= FEW_ROWS {
            let (weight, y) = (stored(&weight), (&mut y[..], outputs));
            product_of_few_rows(cpu, (weight, outputs), (x, rows), y, start);
        } else {
            let weight = widened(weight);
            let packed = Packed::transposed(cpu, values(&weight), outputs, inputs);
            packed.multiply(cpu, (x, inputs), (&mut y, outputs), start);
        }
        y.into_tensor([rows, outputs])
    }
}

impl<C: CheckpointStrategy> LinearBackend for Autodiff<Flex, C> {
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (input, weight) = (contiguous(input), contiguous(weight));
        let output = Flex::linear(input.clone(), weight.clone(), bias);
        let parents = [input_node, weight_node, bias_node];
        match Linear.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((input, weight), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Flex, 3> for Linear {
    type State = (FlexTensor, FlexTensor);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (input, weight) = ops.state;
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let ([rows, inputs], [outputs, _]) = (sizes(&input), sizes(&weight));
        let cpu = Cpu::current();
        let dy = values(&gradient);
        let [input_parent, weight_parent, bias_parent] = ops.parents;
        if let Some(parent) = input_parent {
            let mut dx = Buffer::uninitialised(rows * inputs);
            let packed = Packed::plain(cpu, values(&weight), outputs, inputs);
            packed.multiply(cpu, (dy, outputs), (&mut dx, inputs), Start::Zero);
            gradients.register::<Flex>(parent.id, dx.into_tensor([rows, inputs]));
        }
        if let Some(parent) = weight_parent {
            let mut dw = Buffer::uninitialised(outputs * inputs);
            let factors = ((dy, outputs, outputs), (values(&input), inputs, inputs));
            transposed_product(cpu, rows, factors.0, factors.1, (&mut dw, inputs), false);
            gradients.register::<Flex>(parent.id, dw.into_tensor([outputs, inputs]));
        }
        if let Some(parent) = bias_parent {
            let db = sum_columns(cpu, dy, outputs, 0..outputs);
            gradients.register::<Flex>(parent.id, db.into_tensor([outputs]));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{linear, linear_plain};
    use crate::testing::{assert_close, numbers, read, tensor};

    #[test]
    fn agrees_with_the_composition() {
        let device = Device::flex().autodiff();
        for [rows, inputs, outputs] in [[1, 1, 1], [3, 8, 5], [4, 5, 65], [31, 40, 17]] {
            for with_bias in [false, true] {
                let run = |fused: bool| {
                    let x = tensor(&numbers(rows * inputs, 1), [1, rows, inputs], &device);
                    let weight = tensor(&numbers(outputs * inputs, 2), [outputs, inputs], &device);
                    let bias = tensor(&numbers(outputs, 3), [outputs], &device);
                    let given = with_bias.then(|| bias.clone());
                    let call = if fused { linear } else { linear_plain };
                    let y = call(x.clone(), weight.clone(), given);
                    let gradients = (y.clone() * y.clone()).sum().backward();
                    let mut found = vec![
                        read(&y),
                        read(&x.grad(&gradients).unwrap()),
                        read(&weight.grad(&gradients).unwrap()),
                    ];
                    found.extend(bias.grad(&gradients).map(|gradient| read(&gradient)));
                    found
                };
                let (found, expected) = (run(true), run(false));
                assert_eq!(found.len(), if with_bias { 4 } else { 3 });
                for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let what = format!("{rows} {inputs} {outputs} {with_bias}: {n}");
                    assert_close(&what, found, expected, 1e-5);
                }
            }
        }
    }
}
