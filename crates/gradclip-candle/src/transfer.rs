//! Transfers tensors to host memory and back, with one transfer per type and device.

use candle_core::{DType, Device, DeviceLocation, Result, Tensor, WithDType};
use gradclip::Buffer;

/// Whether elements of this type can be clipped.
pub(crate) fn can_hold(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Reads the elements of each tensor, with one synchronisation per type and device.
pub(crate) fn download(tensors: &[Tensor]) -> Result<Vec<Buffer>> {
    let mut buffers: Vec<Option<Buffer>> = vec![None; tensors.len()];
    for (dtype, _, group) in groups(tensors.iter().map(|t| (t.dtype(), t.device()))) {
        let of_group: Vec<&Tensor> = group.iter().map(|index| &tensors[*index]).collect();
        let read = match dtype {
            DType::F64 => read(&of_group, Buffer::F64),
            DType::F16 => read(&of_group, Buffer::F16),
            DType::BF16 => read(&of_group, Buffer::Bf16),
            _ => read(&of_group, Buffer::F32),
        };
        for (index, buffer) in group.into_iter().zip(read?) {
            buffers[index] = Some(buffer);
        }
    }
    Ok(buffers.into_iter().flatten().collect())
}

/// Uploads buffers as tensors of the given shapes to their devices, with one transfer per type and
/// device. The tensors on a device are views of it.
pub(crate) fn upload<'a>(
    buffers: impl Iterator<Item = (Buffer, Vec<usize>, &'a Device)>,
) -> Result<Vec<Tensor>> {
    let (mut tensors, mut devices) = (Vec::new(), Vec::new());
    for (buffer, shape, device) in buffers {
        tensors.push(match buffer {
            Buffer::F32(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Buffer::F64(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Buffer::F16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Buffer::Bf16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            other => candle_core::bail!("Candle has no such type: {other:?}"),
        }?);
        devices.push(device);
    }
    let places = tensors.iter().zip(&devices);
    for (_, device, group) in groups(places.map(|(tensor, device)| (tensor.dtype(), *device))) {
        if !device.is_cpu() {
            send(&mut tensors, &group, device)?;
        }
    }
    Ok(tensors)
}

/// Sends the tensors of one type in a group to a device, concatenated.
fn send(tensors: &mut [Tensor], group: &[usize], device: &Device) -> Result<()> {
    let flat = group.iter().map(|index| tensors[*index].flatten_all());
    let whole = Tensor::cat(&flat.collect::<Result<Vec<Tensor>>>()?, 0)?.to_device(device)?;
    let mut start = 0;
    for index in group {
        let (length, shape) = (
            tensors[*index].elem_count(),
            tensors[*index].shape().clone(),
        );
        tensors[*index] = whole.narrow(0, start, length)?.reshape(shape)?;
        start += length;
    }
    Ok(())
}

/// The indices of the items of each type and device.
fn groups<'a>(
    items: impl Iterator<Item = (DType, &'a Device)>,
) -> Vec<(DType, &'a Device, Vec<usize>)> {
    let mut keys: Vec<(DType, DeviceLocation)> = Vec::new();
    let mut groups = Vec::new();
    for (index, (dtype, device)) in items.enumerate() {
        let key = (dtype, device.location());
        let group = keys.iter().position(|other| *other == key);
        let group = group.unwrap_or_else(|| {
            keys.push(key);
            groups.push((dtype, device, Vec::new()));
            groups.len() - 1
        });
        groups[group].2.push(index);
    }
    groups
}

/// Reads tensors of one type and device.
fn read<T: WithDType>(tensors: &[&Tensor], of: fn(Vec<T>) -> Buffer) -> Result<Vec<Buffer>> {
    let values = match tensors[0].device() {
        Device::Cpu => read_in_place(tensors)?,
        _ => read_at_once(tensors)?,
    };
    Ok(values.into_iter().map(of).collect())
}

/// Copies each tensor separately, which only costs nothing extra in host memory. There it takes
/// less than half the time of concatenating first: 43 ms against 96 ms for 100 tensors of 100,000
/// elements, 1.7 ms against 5.8 ms for 1000 of 1000, on two cores.
fn read_in_place<T: WithDType>(tensors: &[&Tensor]) -> Result<Vec<Vec<T>>> {
    let values = tensors.iter().map(|tensor| tensor.flatten_all()?.to_vec1());
    values.collect()
}

/// Concatenates the tensors on their device, to synchronise only once.
fn read_at_once<T: WithDType>(tensors: &[&Tensor]) -> Result<Vec<Vec<T>>> {
    let filled = tensors.iter().filter(|tensor| tensor.elem_count() > 0);
    let flat = filled.map(|tensor| tensor.flatten_all());
    let flat = flat.collect::<Result<Vec<Tensor>>>()?;
    let values: Vec<T> = match flat.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(&flat, 0)?.to_vec1()?,
    };
    let mut rest = values.as_slice();
    let own = |tensor: &&Tensor| {
        let (own, others) = rest.split_at(tensor.elem_count());
        rest = others;
        own.to_vec()
    };
    Ok(tensors.iter().map(own).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::{download, read_at_once, read_in_place, send, upload};

    fn tensors() -> Vec<Tensor> {
        let count = Tensor::arange(0_f32, 24.0, &Device::Cpu).unwrap();
        let cube = count.reshape((2, 3, 4)).unwrap();
        vec![
            count.clone(),
            cube.clone(),
            cube.transpose(0, 2).unwrap(),
            cube.narrow(1, 1, 2).unwrap(),
            count.narrow(0, 5, 0).unwrap(),
            count.narrow(0, 7, 1).unwrap().reshape(()).unwrap(),
            Tensor::new(3_f32, &Device::Cpu)
                .unwrap()
                .broadcast_as((2, 2))
                .unwrap(),
        ]
    }

    /// Tests the path of other devices on the CPU, which is always available.
    #[test]
    fn both_ways_to_read_agree() {
        let tensors = tensors();
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        let in_place: Vec<Vec<f32>> = read_in_place(&tensors).unwrap();
        let at_once: Vec<Vec<f32>> = read_at_once(&tensors).unwrap();
        assert_eq!(in_place, at_once);
        let lengths: Vec<usize> = in_place.iter().map(Vec::len).collect();
        assert_eq!(lengths, [24, 24, 24, 16, 0, 1, 4]);
        assert_eq!(in_place[2][..4], [0.0, 12.0, 4.0, 16.0]);
    }

    fn elements(tensor: &Tensor) -> Vec<f64> {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn tensors_round_trip() {
        let mut all = tensors();
        for dtype in [DType::F64, DType::BF16, DType::F16] {
            let tensors = tensors().into_iter();
            all.extend(tensors.map(|tensor| tensor.to_dtype(dtype).unwrap()));
        }
        let buffers = download(&all).unwrap().into_iter();
        let uploads = buffers.zip(&all);
        let uploads =
            uploads.map(|(buffer, tensor)| (buffer, tensor.dims().to_vec(), tensor.device()));
        for (back, tensor) in upload(uploads).unwrap().iter().zip(&all) {
            assert_eq!(back.dtype(), tensor.dtype());
            assert_eq!(back.dims(), tensor.dims());
            assert_eq!(elements(back), elements(tensor));
        }
    }

    /// As to another device.
    #[test]
    fn concatenated_tensors_keep_shapes_and_elements() {
        let (before, mut after) = (tensors(), tensors());
        let group: Vec<usize> = (0..before.len()).rev().collect();
        send(&mut after, &group, &Device::Cpu).unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.dims(), after.dims());
            assert_eq!(elements(before), elements(after));
        }
    }
}
