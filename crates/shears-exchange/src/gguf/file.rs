//! The GGUF format, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! The crate `gguf-rs-lib` writes it too, but keeps its values in a hash map, so that exporting the
//! same run twice would give different bytes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::quantize::{write_f16, write_q8};
use super::{GgufType, interleaved_of};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Integers(Vec<i32>),
}

/// A tensor to be written.
pub(super) struct Tensor<'a> {
    pub(super) name: String,
    pub(super) kind: GgufType,
    /// `f32`, row by row.
    pub(super) bytes: &'a [u8],
    /// Bytes of a row, and rows of a head, if the halves of its heads are interleaved when written.
    pub(super) interleaved: Option<(usize, usize)>,
    pub(super) rows: Rows,
}

/// The shape of a tensor.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The rows of a matrix; rows beyond the given bytes are zeros. `None` for a vector.
    pub(super) count: Option<usize>,
    /// The elements of a row.
    pub(super) size: usize,
}

impl Tensor<'_> {
    /// The number of its type in the format, and its size in bytes.
    fn stored(&self) -> (u32, u64) {
        let elements = (self.rows.count.unwrap_or(1) * self.rows.size) as u64;
        match self.kind {
            GgufType::F32 => (0, elements * 4),
            GgufType::F16 => (1, elements * 2),
            GgufType::Q8 => (8, elements / 32 * 34),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let missing = self.rows.count.unwrap_or(1) * self.rows.size * 4 - self.bytes.len();
        let zeros = vec![0; missing];
        let interleaved = self.interleaved;
        let interleaved = interleaved.map(|(row, head)| interleaved_of(self.bytes, row, head));
        for bytes in [interleaved.as_deref().unwrap_or(self.bytes), &zeros] {
            match self.kind {
                GgufType::F32 => out.write_all(bytes)?,
                GgufType::F16 => write_f16(bytes, out)?,
                GgufType::Q8 => write_q8(bytes, out)?,
            }
        }
        Ok(())
    }
}

/// Writes a file with metadata and tensors in this order.
pub(super) fn write(
    path: &Path,
    values: &[(String, Value)],
    tensors: &[Tensor<'_>],
) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(values.len() as u64).to_le_bytes());
    for (key, value) in values {
        push_string(&mut head, key);
        push_value(&mut head, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        let (kind, size) = tensor.stored();
        push_string(&mut head, &tensor.name);
        // The innermost dimension comes first.
        let dimensions = [Some(tensor.rows.size), tensor.rows.count];
        let dimensions: Vec<usize> = dimensions.into_iter().flatten().collect();
        head.extend_from_slice(&(dimensions.len() as u32).to_le_bytes());
        for size in dimensions {
            head.extend_from_slice(&(size as u64).to_le_bytes());
        }
        head.extend_from_slice(&kind.to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        offset = (offset + size).next_multiple_of(ALIGNMENT);
    }
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&head)?;
    pad(&mut out, head.len() as u64)?;
    for tensor in tensors {
        tensor.write(&mut out)?;
        pad(&mut out, tensor.stored().1)?;
    }
    out.flush()
}

fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&[0; ALIGNMENT as usize][..missing as usize])
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    const ARRAY: u32 = 9;
    let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend_from_slice(&ARRAY.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(count as u64).to_le_bytes());
    };
    let single = |out: &mut Vec<u8>, kind: u32| out.extend_from_slice(&kind.to_le_bytes());
    match value {
        Value::U32(number) => {
            single(out, 4);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::F32(number) => {
            single(out, 6);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Bool(truth) => {
            single(out, 7);
            out.push(u8::from(*truth));
        }
        Value::String(text) => {
            single(out, 8);
            push_string(out, text);
        }
        Value::Strings(texts) => {
            array(out, 8, texts.len());
            texts.iter().for_each(|text| push_string(out, text));
        }
        Value::Integers(numbers) => {
            array(out, 5, numbers.len());
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
            out.extend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_layout_of_version_3() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = [1.0_f32, 2.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let rows = Rows {
            count: Some(2),
            size: 2,
        };
        let (name, kind) = ("t".to_string(), GgufType::F32);
        let tensors = [Tensor {
            name,
            kind,
            bytes: &bytes,
            interleaved: None,
            rows,
        }];
        write(&path, &[("k".into(), Value::U32(7))], &tensors).unwrap();
        let file = std::fs::read(&path).unwrap();
        let mut expected = b"GGUF".to_vec();
        expected.extend(3_u32.to_le_bytes());
        expected.extend([1_u64, 1, 1].iter().flat_map(|v| v.to_le_bytes()));
        expected.extend(b"k");
        expected.extend([4_u32, 7].iter().flat_map(|v| v.to_le_bytes()));
        expected.extend(1_u64.to_le_bytes());
        expected.extend(b"t");
        expected.extend(2_u32.to_le_bytes());
        expected.extend([2_u64, 2].iter().flat_map(|v| v.to_le_bytes()));
        expected.extend(0_u32.to_le_bytes());
        expected.extend(0_u64.to_le_bytes());
        expected.resize(expected.len().next_multiple_of(32), 0);
        expected.extend(&bytes);
        // The padding row.
        expected.extend([0; 8]);
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(file, expected);
    }
}
