//! Safetensors files of gradients: read whole, clipped in memory, written whole or not at all.
//!
//! Each element is in memory once. An output file has the header of its input, byte for byte:
//! names, shapes, storage types, their order and the metadata stay the same, and only values
//! change.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use gradclip::Buffer;
use half::{bf16, f16};
use safetensors::Dtype;
use shears_data::{FOREIGN_BYTES, foreign_kind};
use shears_train::list_safetensors;

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
    /// The bytes before the elements: the length of the header, and the header.
    head: Vec<u8>,
    /// Sorted by name.
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Buffer,
    /// Where its elements begin in the file.
    start: usize,
}

impl TensorFile {
    /// Reads a file, and checks that it matches its header.
    pub(crate) fn read(path: &Path, other_types: OtherTypes) -> anyhow::Result<TensorFile> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let opened = opened.map_err(anyhow::Error::from);
        let read = opened.and_then(|(size, file)| parse(file, size, other_types));
        read.with_context(|| path.display().to_string())
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Tensor> {
        let find = |tensor: &Tensor| tensor.name.as_str().cmp(name);
        let index = self.tensors.binary_search_by(find).ok()?;
        self.tensors.get(index)
    }

    /// Writes the file whole or not at all, replacing an existing one.
    pub(crate) fn write(&self, target: &Path) -> anyhow::Result<()> {
        new_file::write_with(target, true, |file| self.write_to(file))
    }

    /// Writes the file, which must have been read with [`OtherTypes::Refuse`].
    pub(crate) fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        let mut in_order: Vec<&Tensor> = self.tensors.iter().collect();
        in_order.sort_by_key(|tensor| tensor.start);
        let mut write = |tensor: &Tensor| tensor.write_to(&mut out);
        in_order.into_iter().try_for_each(&mut write)
    }
}

/// Reads a file of `size` bytes, and checks that it matches its header.
pub(crate) fn parse(
    mut file: impl Read,
    size: u64,
    other_types: OtherTypes,
) -> anyhow::Result<TensorFile> {
    let mut start = Vec::new();
    let first = FOREIGN_BYTES as u64;
    file.by_ref().take(first).read_to_end(&mut start)?;
    if let Some(what) = foreign_kind(&start) {
        bail!("this is {what}, not a safetensors file");
    }
    let mut file = Recording {
        reader: Cursor::new(start).chain(file),
        record: Some(Vec::new()),
    };
    let listed = list_safetensors(&mut file, size);
    let mut listed =
        listed.map_err(|problem| anyhow!("not a whole safetensors file: {problem}"))?;
    let head = file.record.take().unwrap_or_default();
    let others = listed.iter().filter(|tensor| !is_readable(tensor.dtype));
    let others = others.map(|tensor| format!("`{}` has type {}", tensor.name, tensor.dtype));
    let others: Vec<String> = others.collect();
    if other_types == OtherTypes::Refuse && !others.is_empty() {
        let accepted = "gradients are F64, F32, F16 or BF16";
        bail!("{}; {accepted}", others.join(", "));
    }
    // The data is contiguous, and of the sizes of the shapes.
    listed.sort_by_key(|tensor| tensor.place.start);
    let mut tensors = Vec::new();
    for tensor in listed {
        let values = read_elements(tensor.dtype, tensor.place.len(), &mut file)?;
        tensors.extend(values.map(|values| Tensor {
            name: tensor.name,
            shape: tensor.shape,
            values,
            start: tensor.place.start,
        }));
    }
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(TensorFile { head, tensors })
}

/// A reader that keeps what was read while there is a record.
struct Recording<R> {
    reader: R,
    record: Option<Vec<u8>>,
}

impl<R: Read> Read for Recording<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if let Some(record) = &mut self.record {
            record.extend_from_slice(&buffer[..count]);
        }
        Ok(count)
    }
}

/// The bytes that are read or written at a time, a whole number of elements of any type.
const PIECE: usize = 1 << 18;

fn is_readable(dtype: Dtype) -> bool {
    [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].contains(&dtype)
}

/// Reads little-endian elements; skips those of other types.
fn read_elements(dtype: Dtype, bytes: usize, file: &mut impl Read) -> io::Result<Option<Buffer>> {
    fn convert<T, const SIZE: usize>(
        bytes: usize,
        file: &mut impl Read,
        of: fn([u8; SIZE]) -> T,
    ) -> io::Result<Vec<T>> {
        let mut elements = Vec::with_capacity(bytes / SIZE);
        let mut buffer = vec![0; PIECE.min(bytes)];
        for start in (0..bytes).step_by(PIECE) {
            let piece = &mut buffer[..PIECE.min(bytes - start)];
            file.read_exact(piece)?;
            let (piece, _) = piece.as_chunks::<SIZE>();
            elements.extend(piece.iter().map(|element| of(*element)));
        }
        Ok(elements)
    }
    Ok(Some(match dtype {
        Dtype::F64 => Buffer::F64(convert(bytes, file, f64::from_le_bytes)?),
        Dtype::F32 => Buffer::F32(convert(bytes, file, f32::from_le_bytes)?),
        Dtype::F16 => Buffer::F16(convert(bytes, file, f16::from_le_bytes)?),
        Dtype::BF16 => Buffer::Bf16(convert(bytes, file, bf16::from_le_bytes)?),
        _ => {
            io::copy(&mut file.take(bytes as u64), &mut io::sink())?;
            return Ok(None);
        }
    }))
}

/// Evaluates an expression for elements of any type that [`read_elements`] gives.
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
    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(PIECE);
        of_any_type!(&self.values, values => {
            for piece in values.chunks(PIECE / size_of::<f64>()) {
                buffer.clear();
                buffer.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
                out.write_all(&buffer)?;
            }
        });
        Ok(())
    }

    pub(crate) fn is_finite(&self) -> bool {
        of_any_type!(&self.values, values => values.iter().all(|value| value.is_finite()))
    }
}
