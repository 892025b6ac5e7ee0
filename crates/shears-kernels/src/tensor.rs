//! Conversions between Burn's tensors and slices.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, FloatDType, Int, Tensor, bf16};

use crate::buffer::Buffer;
use crate::matmul::Weight;

/// Whether the kernels apply to a tensor: `f32` on the CPU device, with or without gradient
/// tracking. All others use Burn's operations.
pub(crate) fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    if tensor.dtype() != DType::F32 {
        return false;
    }
    match tensor.device().as_dispatch() {
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        device => matches!(device, DispatchDevice::Flex(_)),
    }
}

/// The tensor, copied if it is not contiguous.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// Converts a weight to bf16, rounding to nearest, ties to even. It then takes half the memory and,
/// in products of few rows, half the time to read. Only the kernels of this crate read such
/// weights, so others are returned unchanged: on another device, of another precision, or within
/// automatic differentiation.
pub fn narrowed(weight: Tensor<2>) -> Tensor<2> {
    match is_ours(&weight) && !weight.is_autodiff() {
        true => weight.cast(DType::BF16),
        false => weight,
    }
}

/// The elements of a weight that went through [`contiguous`], in its storage type.
///
/// # Panics
///
/// If it is not contiguous.
pub(crate) fn weight(tensor: &FlexTensor) -> Weight<'_> {
    match tensor.dtype() {
        DType::BF16 => Weight::Bf16(tensor.as_slice::<bf16>().expect("the tensor is contiguous")),
        _ => Weight::F32(values(tensor)),
    }
}

/// A tensor whose storage is its elements in row-major order and nothing else. To see that of a
/// [`FlexTensor`] takes as long as a product of a small model's token, so decoders look once.
#[derive(Clone, Debug)]
pub(crate) struct Whole(FlexTensor);

impl Whole {
    /// The tensor, copied if it is a view of another one.
    pub(crate) fn new(tensor: FlexTensor) -> Whole {
        Whole(tensor.to_contiguous())
    }

    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub(crate) fn sizes<const D: usize>(&self) -> [usize; D] {
        sizes(&self.0)
    }

    /// The elements of a tensor of type `f32`.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.storage()
    }

    /// The elements in their storage type.
    pub(crate) fn weight(&self) -> Weight<'_> {
        match self.dtype() {
            DType::BF16 => Weight::Bf16(self.0.storage()),
            _ => Weight::F32(self.values()),
        }
    }

    /// In `f32`, for products of many rows.
    pub(crate) fn widened(self) -> Whole {
        match self.dtype() {
            DType::BF16 => Whole::new(widened(self.0)),
            _ => self,
        }
    }
}

/// The weight in `f32`, for products of many rows.
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
/// If it is not contiguous.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("the tensor is contiguous and of type f32")
}

/// The tokens of an integer tensor, row-major.
///
/// # Panics
///
/// If one is not in the vocabulary.
pub(crate) fn tokens<const D: usize>(tensor: Tensor<D, Int>, vocabulary: usize) -> Vec<u32> {
    let data = tensor.into_data();
    let tokens: Vec<u32> = data.iter::<i64>().map(|token| token as u32).collect();
    check_tokens(&tokens, vocabulary);
    tokens
}

/// # Panics
///
/// If a token is not in the vocabulary.
pub(crate) fn check_tokens(tokens: &[u32], vocabulary: usize) {
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        panic!("token {token} is not in a vocabulary of {vocabulary}");
    }
}

/// The dimensions of a tensor of known rank.
pub(crate) fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let shape = tensor.layout().shape();
    std::array::from_fn(|dimension| shape[dimension])
}

/// Wraps a buffer in a Burn tensor, outside automatic differentiation.
pub(crate) fn from_buffer<const D: usize>(buffer: Buffer, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(buffer.into_tensor(shape))
}
