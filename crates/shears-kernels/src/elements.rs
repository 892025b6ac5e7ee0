//! In-place access to the elements of a CPU tensor.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Shape, Tensor};

use crate::buffer::Buffer;
use crate::tensor::is_ours;

/// The elements of a contiguous `f32` tensor of the CPU device.
///
/// Burn's operations return new tensors. Parameters and moments are larger than the caches and
/// change at every step, so they are updated in place instead.
#[derive(Debug)]
pub struct Elements {
    tensor: FlexTensor,
}

impl Elements {
    /// Takes an `f32` tensor on the CPU device, outside automatic differentiation. Only a
    /// non-contiguous view is copied.
    ///
    /// # Errors
    ///
    /// Returns any other tensor.
    #[allow(clippy::result_large_err, reason = "returns the tensor")]
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Result<Elements, Tensor<D>> {
        if !Elements::accepts(&tensor) || tensor.is_autodiff() {
            return Err(tensor);
        }
        let tensor = tensor.try_into_primitive::<Flex>();
        let tensor = tensor.expect("`accepts` checked the device");
        // A contiguous tensor keeps its storage.
        let contiguous = tensor.to_contiguous();
        Ok(Elements { tensor: contiguous })
    }

    /// Whether [`of`](Elements::of) accepts the tensor, apart from automatic differentiation.
    #[must_use]
    pub fn accepts<const D: usize>(tensor: &Tensor<D>) -> bool {
        is_ours(tensor)
    }

    /// Zeros of the given length.
    #[must_use]
    pub fn zeros(len: usize) -> Elements {
        Elements {
            tensor: Buffer::zeros(len).into_tensor([len]),
        }
    }

    /// The elements, row-major.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        self.tensor.storage()
    }

    /// The elements, mutable. Copies the storage first if another tensor shares it.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.tensor.storage_mut()
    }

    /// Converts back to a tensor of the original shape.
    ///
    /// # Panics
    ///
    /// If `D` is not its rank.
    #[must_use]
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        assert_eq!(self.shape().num_dims(), D, "the rank of a tensor");
        Tensor::from_primitive::<Flex>(self.tensor)
    }

    /// Converts back to a one-dimensional tensor.
    #[must_use]
    pub fn into_flat(self) -> Tensor<1> {
        let layout = Layout::contiguous(Shape::from([self.as_slice().len()]));
        Elements {
            tensor: self.tensor.with_layout(layout),
        }
        .into_tensor()
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.tensor.layout().shape()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor};

    use super::Elements;

    #[test]
    fn elements_are_not_copied() {
        let device = Device::flex();
        let tensor = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        assert!(Elements::accepts(&tensor));
        let mut elements = Elements::of(tensor).unwrap();
        let address = elements.as_slice().as_ptr();
        elements.as_mut_slice()[1] = 5.0;
        let tensor = elements.into_flat().reshape([2, 2]);
        assert_eq!(
            tensor.clone().into_data().try_to_vec(),
            Ok(vec![1.0_f32, 5.0, 3.0, 4.0])
        );
        let elements = Elements::of::<2>(tensor).unwrap();
        assert_eq!(elements.as_slice().as_ptr(), address);
        assert_eq!(elements.into_tensor::<2>().dims(), [2, 2]);
    }

    #[test]
    fn a_shared_tensor_keeps_its_values() {
        let tensor = Tensor::<1>::from_floats([1.0, 2.0], &Device::flex());
        let mut elements = Elements::of(tensor.clone()).unwrap();
        elements.as_mut_slice()[0] = 7.0;
        assert_eq!(elements.as_slice(), [7.0, 2.0]);
        assert_eq!(tensor.into_data().try_to_vec(), Ok(vec![1.0_f32, 2.0]));
    }

    #[test]
    fn a_view_is_made_contiguous_and_other_tensors_are_returned() {
        let device = Device::flex();
        let tensor = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        let transposed = Elements::of(tensor.clone().transpose()).unwrap();
        assert_eq!(transposed.as_slice(), [1.0, 3.0, 2.0, 4.0]);
        let row = Elements::of(tensor.clone().slice(burn::tensor::s![0..1])).unwrap();
        assert_eq!(row.as_slice(), [1.0, 2.0]);
        let double = tensor.clone().cast(DType::F64);
        assert!(!Elements::accepts(&double) && Elements::of(double).is_err());
        let tracked = Tensor::<1>::zeros([2], &device.autodiff());
        assert_eq!(Elements::of(tracked).unwrap_err().dims(), [2]);
    }
}
