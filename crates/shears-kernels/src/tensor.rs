//! From Burn's tensors to slices and back.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, FloatDType, Int, Tensor, bf16};

use crate::buffer::Buffer;
use crate::matmul::Weight;

/// Whether a tensor is computed with here: single precision on the CPU device, whether or not
/// gradients are tracked. Every other goes the way of Burn's own operations.
pub(crate) fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    if tensor.dtype() != DType::F32 {
        return false;
    }
    match tensor.device().as_dispatch() {
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        device => matches!(device, DispatchDevice::Flex(_)),
    }
}

/// The tensor with its elements side by side.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// A weight stored as bf16, which takes half the memory and, in products of few rows, half the time
/// to read; rounded to nearest, ties to even. Only products of this crate read it, so that a weight
/// is returned unchanged where others do: on another device, in another precision, within automatic
/// differentiation.
pub fn narrowed(weight: Tensor<2>) -> Tensor<2> {
    match is_ours(&weight) && !weight.is_autodiff() {
        true => weight.cast(DType::BF16),
        false => weight,
    }
}

/// A weight that went through [`contiguous`], as it is stored.
///
/// # Panics
///
/// If it did not.
pub(crate) fn weight(tensor: &FlexTensor) -> Weight<'_> {
    match tensor.dtype() {
        DType::BF16 => Weight::Bf16(tensor.as_slice::<bf16>().expect("the tensor is contiguous")),
        _ => Weight::F32(values(tensor)),
    }
}

/// The same weight in `f32`, for the products of many rows.
pub(crate) fn widened(weight: FlexTensor) -> FlexTensor {
    match weight.dtype() {
        DType::BF16 => Flex::float_cast(weight, FloatDType::F32),
        _ => weight,
    }
}

/// The elements of a tensor that went through [`contiguous`].
///
/// # Panics
///
/// If it did not.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("the tensor is contiguous and of type f32")
}

/// The tokens of a tensor of integers, row after row.
///
/// # Panics
///
/// If one is not in the vocabulary.
pub(crate) fn tokens<const D: usize>(tensor: Tensor<D, Int>, vocabulary: usize) -> Vec<u32> {
    let data = tensor.into_data();
    let tokens: Vec<u32> = data.iter::<i64>().map(|token| token as u32).collect();
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        panic!("token {token} is not in a vocabulary of {vocabulary}");
    }
    tokens
}

/// Sizes of a tensor of known rank.
pub(crate) fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let shape = tensor.layout().shape();
    std::array::from_fn(|dimension| shape[dimension])
}

/// A tensor of Burn around a buffer, outside automatic differentiation.
pub(crate) fn from_buffer<const D: usize>(buffer: Buffer, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(buffer.into_tensor(shape))
}
