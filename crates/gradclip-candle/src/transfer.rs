//! Transfers tensors to host memory and back, with one transfer per type and device.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, WithDType};
use gradclip::{Elements, Values};
use half::{bf16, f16};

/// The elements of many tensors, grouped by type and device.
#[derive(Debug)]
pub(crate) struct HostTensors {
    groups: Vec<Group>,
    places: Vec<Place>,
}

/// All elements of one type and device.
#[derive(Debug)]
struct Group {
    device: Device,
    buffer: Buffer,
}

#[derive(Debug)]
enum Buffer {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// The position of one tensor's elements.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    group: usize,
    range: Range<usize>,
}

impl HostTensors {
    /// Whether elements of this type can be clipped.
    pub(crate) fn can_hold(dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// Reads all tensors with one synchronisation per device and type, and returns the first
    /// `count` tensors and the rest separately.
    pub(crate) fn read(tensors: &[Tensor], count: usize) -> Result<[HostTensors; 2]> {
        let mut batches: Vec<Vec<&Tensor>> = Vec::new();
        let mut first_lengths: Vec<usize> = Vec::new();
        let mut places = Vec::with_capacity(tensors.len());
        let mut lengths: Vec<usize> = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let belongs = |batch: &Vec<&Tensor>| {
                let same_type = batch[0].dtype() == tensor.dtype();
                same_type && batch[0].device().location() == tensor.device().location()
            };
            let group = batches.iter().position(belongs).unwrap_or_else(|| {
                batches.push(Vec::new());
                lengths.push(0);
                first_lengths.push(0);
                batches.len() - 1
            });
            let start = lengths[group];
            lengths[group] += tensor.elem_count();
            if index < count {
                first_lengths[group] = lengths[group];
            }
            batches[group].push(tensor);
            // Ranges of the second part start at 0 again.
            let start = start
                - if index < count {
                    0
                } else {
                    first_lengths[group]
                };
            let range = start..start + tensor.elem_count();
            places.push(Place { group, range });
        }
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for (batch, length) in batches.iter().zip(first_lengths) {
            let device = batch[0].device().clone();
            let mut buffer = Buffer::read(batch)?;
            last.push(Group {
                buffer: buffer.split_off(length),
                device: device.clone(),
            });
            first.push(Group { device, buffer });
        }
        let last_places = places.split_off(count);
        Ok([(first, places), (last, last_places)]
            .map(|(groups, places)| HostTensors { groups, places }))
    }

    /// Uploads all tensors to their devices with one transfer per type and device. The tensors, of
    /// the given shapes, are views of it.
    pub(crate) fn into_tensors<'a>(
        self,
        shapes: impl Iterator<Item = &'a [usize]>,
    ) -> Result<Vec<Tensor>> {
        let HostTensors { groups, places } = self;
        let whole = groups.into_iter().map(Group::into_tensor);
        let whole = whole.collect::<Result<Vec<Tensor>>>()?;
        let view = |(Place { group, range }, shape): (Place, &[usize])| {
            whole[group]
                .narrow(0, range.start, range.len())?
                .reshape(shape)
        };
        places.into_iter().zip(shapes).map(view).collect()
    }

    /// The elements of the tensor at `index`.
    pub(crate) fn values(&self, index: usize) -> Values<'_> {
        let Place { group, range } = self.places[index].clone();
        match &self.groups[group].buffer {
            Buffer::F32(values) => Values::F32(&values[range]),
            Buffer::F64(values) => Values::F64(&values[range]),
            Buffer::F16(values) => Values::F16(&values[range]),
            Buffer::Bf16(values) => Values::Bf16(&values[range]),
        }
    }

    /// The elements of the tensor at `index`, mutable.
    pub(crate) fn elements(&mut self, index: usize) -> Elements<'_> {
        let Place { group, range } = self.places[index].clone();
        match &mut self.groups[group].buffer {
            Buffer::F32(values) => Elements::F32(&mut values[range]),
            Buffer::F64(values) => Elements::F64(&mut values[range]),
            Buffer::F16(values) => Elements::F16(&mut values[range]),
            Buffer::Bf16(values) => Elements::Bf16(&mut values[range]),
        }
    }
}

impl Group {
    fn into_tensor(self) -> Result<Tensor> {
        fn upload<T: WithDType>(values: Vec<T>, device: &Device) -> Result<Tensor> {
            let length = values.len();
            Tensor::from_vec(values, length, device)
        }
        match self.buffer {
            Buffer::F32(values) => upload(values, &self.device),
            Buffer::F64(values) => upload(values, &self.device),
            Buffer::F16(values) => upload(values, &self.device),
            Buffer::Bf16(values) => upload(values, &self.device),
        }
    }
}

impl Buffer {
    /// Reads tensors of one type and device.
    fn read(tensors: &[&Tensor]) -> Result<Buffer> {
        Ok(match tensors[0].dtype() {
            DType::F64 => Buffer::F64(read(tensors)?),
            DType::F16 => Buffer::F16(read(tensors)?),
            DType::BF16 => Buffer::Bf16(read(tensors)?),
            _ => Buffer::F32(read(tensors)?),
        })
    }

    fn split_off(&mut self, at: usize) -> Buffer {
        match self {
            Buffer::F32(values) => Buffer::F32(values.split_off(at)),
            Buffer::F64(values) => Buffer::F64(values.split_off(at)),
            Buffer::F16(values) => Buffer::F16(values.split_off(at)),
            Buffer::Bf16(values) => Buffer::Bf16(values.split_off(at)),
        }
    }
}

fn read<T: WithDType>(tensors: &[&Tensor]) -> Result<Vec<T>> {
    match tensors[0].device() {
        Device::Cpu => read_in_place(tensors),
        _ => read_at_once(tensors),
    }
}

/// Copies each tensor separately, which only works in host memory. There it takes less than half
/// the time of concatenating first: 43 ms against 96 ms for 100 tensors of 100,000 elements, 1.7 ms
/// against 5.8 ms for 1000 of 1000, on two cores.
fn read_in_place<T: WithDType>(tensors: &[&Tensor]) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(tensors.iter().map(|t| t.elem_count()).sum());
    for tensor in tensors {
        // Copies only non-contiguous tensors.
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let slice: &[T] = match &*storage {
            Storage::Cpu(storage) => slice_of(storage)?,
            _ => candle_core::bail!("a tensor on the CPU is not in its memory"),
        };
        let start = layout.start_offset();
        values.extend_from_slice(&slice[start..start + tensor.elem_count()]);
    }
    Ok(values)
}

fn slice_of<T: WithDType>(storage: &CpuStorage) -> Result<&[T]> {
    T::cpu_storage_as_slice(storage)
}

/// Concatenates the tensors on their device, to synchronise only once.
fn read_at_once<T: WithDType>(tensors: &[&Tensor]) -> Result<Vec<T>> {
    let filled = tensors.iter().filter(|tensor| tensor.elem_count() > 0);
    let flat = filled.map(|tensor| tensor.flatten_all());
    let flat = flat.collect::<Result<Vec<Tensor>>>()?;
    match flat.is_empty() {
        true => Ok(Vec::new()),
        false => Tensor::cat(&flat, 0)?.to_vec1(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::{HostTensors, read_at_once, read_in_place};

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
        let in_place: Vec<f32> = read_in_place(&tensors).unwrap();
        let at_once: Vec<f32> = read_at_once(&tensors).unwrap();
        assert_eq!(in_place, at_once);
        assert_eq!(in_place.len(), 24 + 24 + 24 + 16 + 1 + 4);
        assert_eq!(in_place[48..52], [0.0, 12.0, 4.0, 16.0]);
    }

    #[test]
    fn tensors_round_trip() {
        let mut all = tensors();
        for dtype in [DType::F64, DType::BF16, DType::F16] {
            all.extend(
                tensors()
                    .iter()
                    .map(|tensor| tensor.to_dtype(dtype).unwrap()),
            );
        }
        for count in [0, 3, 9, all.len()] {
            let [first, last] = HostTensors::read(&all, count).unwrap();
            let dims: Vec<Vec<usize>> = all.iter().map(|tensor| tensor.dims().to_vec()).collect();
            let (first_dims, last_dims) = dims.split_at(count);
            let mut back = first
                .into_tensors(first_dims.iter().map(Vec::as_slice))
                .unwrap();
            back.extend(
                last.into_tensors(last_dims.iter().map(Vec::as_slice))
                    .unwrap(),
            );
            for (back, tensor) in back.iter().zip(&all) {
                assert_eq!(back.dtype(), tensor.dtype());
                assert_eq!(back.dims(), tensor.dims());
                let [back, tensor] = [back, tensor].map(|tensor| {
                    let tensor = tensor.to_dtype(DType::F64).unwrap();
                    tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap()
                });
                assert_eq!(back, tensor);
            }
        }
    }
}
