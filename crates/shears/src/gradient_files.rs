//! Safetensors files of gradients: read whole, clipped in memory, written whole or not at all.
//!
//! An output file has the header of its input, byte for byte: names, shapes, storage types, their
//! order and the metadata stay the same, and only values change.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use gradclip::Buffer;
use half::{bf16, f16};
use safetensors::Dtype;
use shears_data::foreign_kind;
use shears_train::{ListedTensor, list_safetensors};

use crate::new_file;

/// What to do with a tensor whose type gradients cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherTypes {
    Refuse,
    LeaveOut,
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct TensorFile {
    /// The file as it was read, with its header and other tensors.
    bytes: Vec<u8>,
    /// Sorted by name.
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Buffer,
    /// Their place in the file.
    pub(crate) place: Range<usize>,
}

impl TensorFile {
    /// Reads a file, and checks that it matches its header.
    pub(crate) fn read(path: &Path, other_types: OtherTypes) -> anyhow::Result<TensorFile> {
        let bytes = fs::read(path).map_err(anyhow::Error::from);
        let read = bytes.and_then(|bytes| parse(bytes, other_types));
        read.with_context(|| path.display().to_string())
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Tensor> {
        let find = |tensor: &Tensor| tensor.name.as_str().cmp(name);
        let index = self.tensors.binary_search_by(find).ok()?;
        self.tensors.get(index)
    }

    /// Writes the file whole or not at all, replacing an existing one.
    pub(crate) fn write(mut self, target: &Path) -> anyhow::Result<()> {
        for tensor in &self.tensors {
            let place = tensor.place.clone();
            self.bytes[place].copy_from_slice(&tensor.to_bytes());
        }
        new_file::write(target, &self.bytes, true)
    }
}

/// Reads the content of a file, and checks that it matches its header.
pub(crate) fn parse(bytes: Vec<u8>, other_types: OtherTypes) -> anyhow::Result<TensorFile> {
    if let Some(what) = foreign_kind(&bytes) {
        bail!("this is {what}, not a safetensors file");
    }
    let listed = list_safetensors(&bytes[..], bytes.len() as u64);
    let listed = listed.map_err(|problem| anyhow!("not a whole safetensors file: {problem}"))?;
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    for ListedTensor {
        name,
        dtype,
        shape,
        place,
    } in listed
    {
        match from_bytes(dtype, &bytes[place.clone()]) {
            Some(values) => tensors.push(Tensor {
                name,
                shape,
                values,
                place,
            }),
            None => others.push(format!("`{name}` has type {dtype}")),
        }
    }
    if other_types == OtherTypes::Refuse && !others.is_empty() {
        let accepted = "gradients are F64, F32, F16 or BF16";
        bail!("{}; {accepted}", others.join(", "));
    }
    Ok(TensorFile { bytes, tensors })
}

/// Elements from little-endian bytes without alignment; none for other types.
fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Buffer> {
    fn convert<T, const SIZE: usize>(bytes: &[u8], of: fn([u8; SIZE]) -> T) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<SIZE>();
        elements.iter().map(|element| of(*element)).collect()
    }
    match dtype {
        Dtype::F64 => Some(Buffer::F64(convert(bytes, f64::from_le_bytes))),
        Dtype::F32 => Some(Buffer::F32(convert(bytes, f32::from_le_bytes))),
        Dtype::F16 => Some(Buffer::F16(convert(bytes, f16::from_le_bytes))),
        Dtype::BF16 => Some(Buffer::Bf16(convert(bytes, bf16::from_le_bytes))),
        _ => None,
    }
}

/// Evaluates an expression for elements of any type that [`from_bytes`] gives.
macro_rules! of_any_type {
    ($buffer:expr, $values:ident => $result:expr) => {
        match $buffer {
            Buffer::F64($values) => $result,
            Buffer::F32($values) => $result,
            Buffer::F16($values) => $result,
            Buffer::Bf16($values) => $result,
            other => unreachable!("no file has such elements: {other:?}"),
        }
    };
}

impl Tensor {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        of_any_type!(&self.values, values => {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        })
    }

    pub(crate) fn is_finite(&self) -> bool {
        of_any_type!(&self.values, values => values.iter().all(|value| value.is_finite()))
    }
}
