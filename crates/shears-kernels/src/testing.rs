//! Helpers shared by the tests of several operations.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Pseudorandom values in (-1, 1) from a seed (Marsaglia's xorshift64).
pub(crate) fn elements(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Pseudorandom integers below `bound`.
pub(crate) fn integers(count: usize, bound: usize, seed: u64) -> Vec<u32> {
    let values = elements(count, seed).into_iter();
    values
        .map(|x| ((x + 1.0) / 2.0 * bound as f32) as u32 % bound as u32)
        .collect()
}

/// A tensor, with gradient tracking if the device supports it.
pub(crate) fn tensor<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let tensor = Tensor::from_data(TensorData::new(values.to_vec(), shape), device);
    match device.is_autodiff() {
        true => tensor.require_grad(),
        false => tensor,
    }
}

pub(crate) fn whole<const D: usize>(
    values: &[u32],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The elements of a tensor.
pub(crate) fn read<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

/// Asserts that all values differ by at most `bound` times the largest.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let worst = pairs.map(|(x, y)| (x - y).abs()).fold(0.0_f32, |most, x| {
        // NaN counts as the worst.
        if x <= most { most } else { x }
    });
    assert!(worst <= bound * largest, "{what}: {worst:e} of {largest:e}");
}
