//! From Burn's tensors to slices and back.

use burn::backend::flex::FlexTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Int, Tensor};

use crate::buffer::Buffer;

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

/// The tensor with its numbers side by side.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>() {
        Some(_) => tensor,
        None => tensor.to_contiguous(),
    }
}

/// The numbers of a tensor that went through [`contiguous`].
///
/// # Panics
///
/// If it did not.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("the tensor is contiguous and of type f32")
}

/// The tokens of a tensor of whole numbers, row after row.
///
/// # Panics
///
/// If one is not in the vocabulary.
pub(crate) fn tokens(tensor: FlexTensor, vocabulary: usize) -> Vec<u32> {
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

/// Used where an operation has tokens or has none.
pub(crate) fn no_tokens(device: &burn::tensor::Device) -> Tensor<2, Int> {
    Tensor::zeros([0, 0], device)
}
