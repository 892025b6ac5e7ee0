//! `y = x Wᵀ + b`, with PyTorch's weight layout.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::matmul::{FEW_ROWS, Initial, Packed, product_of_few_rows, transposed_product};
use crate::operation::{Forward, Operation, call_with_one_output};
use crate::tensor::{Whole, contiguous, is_ours, sizes, values, weight as stored, widened};
use crate::transformer::WithBias;
use crate::vector::sum_columns;

/// `x Wᵀ + b` for `input` `[.., inputs]`, `weight` `[outputs, inputs]` and `bias` `[outputs]`.
///
/// # Panics
///
/// If the shapes do not match.
pub fn linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !is_ours(&input) {
        return linear_plain(input, weight, bias);
    }
    let [outputs, inputs] = weight.dims();
    assert_eq!(input.dims()[D - 1], inputs, "width of the input");
    // Without a bias the operation gets an empty one.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([0], &input.device()));
    assert!(
        bias.dims() == [outputs] || bias.dims() == [0],
        "size of the bias"
    );
    let tensors = [
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    Tensor::from_dispatch(call_with_one_output(Linear, tensors))
}

/// [`linear`] composed of Burn's operations, on any device and in any precision.
pub fn linear_plain<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    burn::tensor::module::linear(input, weight.transpose(), bias)
}

struct Linear;

impl Operation<3> for Linear {
    /// Input and weight.
    type Saved = [FlexTensor; 2];

    fn forward(self, inputs: [FlexTensor; 3], _needs_backward: bool) -> Forward<Self::Saved> {
        let [input, weight, bias] = inputs.map(contiguous);
        let [outputs, inputs] = sizes(&weight);
        let (rows, shape) = rows_and_shape(&input, outputs);
        let cpu = Cpu::current();
        let initial = match values(&bias) {
            [] => Initial::Zero,
            bias => Initial::Bias(bias),
        };
        let x = values(&input);
        let mut y = Buffer::uninitialised(rows * outputs);
        if rows <= FEW_ROWS {
            let (weight, y) = (stored(&weight), (&mut y[..], outputs));
            product_of_few_rows(cpu, (weight, outputs), (x, rows), y, initial);
        } else {
            let weight = widened(weight.clone());
            let packed = Packed::transposed(cpu, values(&weight), outputs, inputs);
            packed.multiply(cpu, (x, inputs), (&mut y, outputs), initial);
        }
        Forward::of(y.into_tensor(shape), [input, weight])
    }

    fn backward(
        [input, weight]: Self::Saved,
        gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [outputs, inputs] = sizes(&weight);
        let (rows, shape) = rows_and_shape(&input, inputs);
        let cpu = Cpu::current();
        let dy = values(&gradient);
        let [input_wanted, weight_wanted, bias_wanted] = wanted;
        let dx = input_wanted.then(|| {
            let mut dx = Buffer::uninitialised(rows * inputs);
            let packed = Packed::plain(cpu, values(&weight), outputs, inputs);
            packed.multiply(cpu, (dy, outputs), (&mut dx, inputs), Initial::Zero);
            dx.into_tensor(shape)
        });
        let dw = weight_wanted.then(|| {
            let mut dw = Buffer::uninitialised(outputs * inputs);
            let factors = ((dy, outputs, outputs), (values(&input), inputs, inputs));
            transposed_product(cpu, rows, factors, &mut dw, false);
            dw.into_tensor([outputs, inputs])
        });
        let db = bias_wanted.then(|| {
            let db = sum_columns(cpu, dy, outputs, 0..outputs);
            db.into_tensor([outputs])
        });
        [dx, dw, db]
    }
}

/// `x Wᵀ + b` for one row: the logits of the last token.
pub(crate) fn last_row_product(cpu: Cpu, of: &WithBias<Whole>, x: &[f32]) -> Vec<f32> {
    let [outputs, _] = of.weight.sizes();
    let mut y = vec![0.0; outputs];
    let initial = Initial::from(of.bias.as_ref().map(Whole::values));
    let weight = (of.weight.weight(), outputs);
    product_of_few_rows(cpu, weight, (x, 1), (&mut y, outputs), initial);
    y
}

/// The number of rows of a tensor `[.., inputs]`, and its shape with `width` instead of `inputs`.
fn rows_and_shape(tensor: &FlexTensor, width: usize) -> (usize, Shape) {
    let mut shape = tensor.layout().shape().clone();
    let last = shape.num_dims() - 1;
    let rows = shape[..last].iter().product();
    shape[last] = width;
    (rows, shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{linear, linear_plain};
    use crate::testing::{assert_close, elements, read, tensor};

    #[test]
    fn matches_the_composition() {
        let device = Device::flex().autodiff();
        for [rows, inputs, outputs] in [[1, 1, 1], [3, 8, 5], [4, 5, 65], [31, 40, 17]] {
            for with_bias in [false, true] {
                let run = |fused: bool| {
                    let x = tensor(&elements(rows * inputs, 1), [1, rows, inputs], &device);
                    let weight = tensor(&elements(outputs * inputs, 2), [outputs, inputs], &device);
                    let bias = tensor(&elements(outputs, 3), [outputs], &device);
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
