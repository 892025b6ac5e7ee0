//! The numbers of a tensor on the CPU device, to change in place.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Shape, Tensor};

use crate::buffer::Buffer;
use crate::tensor::is_ours;

/// The numbers of a contiguous `f32` tensor of the CPU device.
///
/// Burn's tensors are values: an operation gives a new one. What is larger than the caches and
/// changes at every step, as parameters and moments do, is not to be written anew each time.
#[derive(Debug)]
pub struct Numbers {
    tensor: FlexTensor,
}

impl Numbers {
    /// Takes a tensor that is on the CPU device, outside automatic differentiation, and `f32`.
    /// Nothing is copied unless the tensor is a view that is not contiguous.
    ///
    /// # Errors
    ///
    /// The tensor, if it is another.
    #[allow(clippy::result_large_err, reason = "the tensor is given back")]
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Result<Numbers, Tensor<D>> {
        if !Numbers::has(&tensor) || tensor.is_autodiff() {
            return Err(tensor);
        }
        let tensor = tensor.try_into_primitive::<Flex>();
        let tensor = tensor.expect("the device of the tensor was asked for");
        // A contiguous tensor comes back as another handle of the same storage.
        let contiguous = tensor.to_contiguous();
        Ok(Numbers { tensor: contiguous })
    }

    /// Whether [`of`](Numbers::of) will take it when it is outside automatic differentiation.
    #[must_use]
    pub fn has<const D: usize>(tensor: &Tensor<D>) -> bool {
        is_ours(tensor)
    }

    /// So many zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Numbers {
        Numbers {
            tensor: Buffer::zeros(len).into_tensor([len]),
        }
    }

    /// The numbers, row-major.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        self.tensor.storage()
    }

    /// The numbers, to write. If another tensor shares the storage, this one gets its own first,
    /// so that the other keeps its values.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.tensor.storage_mut()
    }

    /// The tensor, of the shape that it had.
    ///
    /// # Panics
    ///
    /// If `D` is not its rank.
    #[must_use]
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        assert_eq!(self.shape().num_dims(), D, "the rank of a tensor");
        Tensor::from_primitive::<Flex>(self.tensor)
    }

    /// The same without its axes.
    #[must_use]
    pub fn into_flat(self) -> Tensor<1> {
        let layout = Layout::contiguous(Shape::from([self.as_slice().len()]));
        Numbers {
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

    use super::Numbers;

    #[test]
    fn numbers_go_in_and_out_without_a_copy() {
        let device = Device::flex();
        let tensor = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        assert!(Numbers::has(&tensor));
        let mut numbers = Numbers::of(tensor).unwrap();
        let address = numbers.as_slice().as_ptr();
        numbers.as_mut_slice()[1] = 5.0;
        let tensor = numbers.into_flat().reshape([2, 2]);
        assert_eq!(
            tensor.clone().into_data().try_to_vec(),
            Ok(vec![1.0_f32, 5.0, 3.0, 4.0])
        );
        let numbers = Numbers::of::<2>(tensor).unwrap();
        assert_eq!(numbers.as_slice().as_ptr(), address);
        assert_eq!(numbers.into_tensor::<2>().dims(), [2, 2]);
    }

    #[test]
    fn a_tensor_that_is_shared_keeps_its_values() {
        let tensor = Tensor::<1>::from_floats([1.0, 2.0], &Device::flex());
        let mut numbers = Numbers::of(tensor.clone()).unwrap();
        numbers.as_mut_slice()[0] = 7.0;
        assert_eq!(numbers.as_slice(), [7.0, 2.0]);
        assert_eq!(tensor.into_data().try_to_vec(), Ok(vec![1.0_f32, 2.0]));
    }

    #[test]
    fn a_view_is_made_contiguous_and_other_tensors_are_given_back() {
        let device = Device::flex();
        let tensor = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        let transposed = Numbers::of(tensor.clone().transpose()).unwrap();
        assert_eq!(transposed.as_slice(), [1.0, 3.0, 2.0, 4.0]);
        let row = Numbers::of(tensor.clone().slice(burn::tensor::s![0..1])).unwrap();
        assert_eq!(row.as_slice(), [1.0, 2.0]);
        let double = tensor.clone().cast(DType::F64);
        assert!(!Numbers::has(&double) && Numbers::of(double).is_err());
        let tracked = Tensor::<1>::zeros([2], &device.autodiff());
        assert_eq!(Numbers::of(tracked).unwrap_err().dims(), [2]);
    }
}
