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
use safetensors::{Dtype, SafeTensors};
use shears_data::foreign_kind;
use shears_run::{json_problem, names_problem};
use shears_train::header_problem;

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
    let invalid = |error| anyhow!("not a whole safetensors file: {}", header_problem(&error));
    let (header_length, _) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
    let data_start = size_of::<u64>() + header_length;
    // Of two tensors with the same name, the library silently takes the last.
    let names = names_problem(&bytes[size_of::<u64>()..data_start]);
    let names = names.map_err(|error| anyhow!("its header {}", json_problem(&error)))?;
    if let Some(problem) = names {
        bail!("its header {problem}");
    }
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    for (name, view) in SafeTensors::deserialize(&bytes).map_err(invalid)?.tensors() {
        let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        match from_bytes(view.dtype(), view.data()) {
            Some(values) => tensors.push(Tensor {
                name,
                shape: view.shape().to_vec(),
                values,
                place: start..start + view.data().len(),
            }),
            None => others.push(format!("`{name}` has type {}", view.dtype())),
        }
    }
    if other_types == OtherTypes::Refuse && !others.is_empty() {
        others.sort();
        let accepted = "gradients are F64, F32, F16 or BF16";
        bail!("{}; {accepted}", others.join(", "));
    }
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
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
