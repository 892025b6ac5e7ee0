//! Writes weights as safetensors files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use shears_train::{NamedTensor, safetensors_header};

use crate::error::ExchangeError;

/// A tensor to be written.
pub(crate) struct Written<'a> {
    pub(crate) name: String,
    pub(crate) tensor: &'a NamedTensor,
    /// The rows that are written.
    pub(crate) rows: Range<usize>,
    /// Whether to write the transpose of a matrix.
    pub(crate) transposed: bool,
}

impl<'a> Written<'a> {
    /// A whole tensor under another name.
    pub(crate) fn whole(tensor: &'a NamedTensor, name: String) -> Self {
        Written {
            name,
            tensor,
            rows: 0..tensor.data.shape()[0],
            transposed: false,
        }
    }

    /// The shape of these rows, before transposing.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.data.shape().to_vec();
        shape[0] = self.rows.len();
        shape
    }

    fn bytes(&self) -> &'a [u8] {
        rows_of(self.tensor, &self.rows)
    }
}

/// The bytes of some rows of a tensor.
pub(crate) fn rows_of<'a>(tensor: &'a NamedTensor, rows: &Range<usize>) -> &'a [u8] {
    let bytes = tensor.data.as_bytes();
    let row = bytes.len() / tensor.data.shape()[0].max(1);
    &bytes[rows.start * row..rows.end * row]
}

/// Writes a file for PyTorch programs, tensor by tensor in the order of their names. Matrices are
/// transposed while they are written.
pub(crate) fn write(path: &Path, mut tensors: Vec<Written<'_>>) -> Result<(), ExchangeError> {
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let shapes = tensors.iter().map(|written| {
            let mut shape = written.shape();
            if written.transposed {
                shape.reverse();
            }
            (written.name.as_str(), shape)
        });
        // `transformers` 4 and MLX refuse a file without a format.
        file.write_all(&safetensors_header(Some("pt"), shapes)?)?;
        for written in &tensors {
            let bytes = written.bytes();
            match (written.transposed, written.shape().as_slice()) {
                (true, [rows, columns]) => write_transposed(bytes, *rows, *columns, &mut file)?,
                _ => file.write_all(bytes)?,
            }
        }
        file.flush()
    };
    write().map_err(ExchangeError::write(path))
}

/// Writes the transpose of a matrix `[rows, columns]` of four-byte elements.
fn write_transposed(
    bytes: &[u8],
    rows: usize,
    columns: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let elements = bytes.as_chunks::<4>().0;
    for column in 0..columns {
        for row in 0..rows {
            out.write_all(&elements[row * columns + column])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let bytes = |values: &[u8]| -> Vec<u8> { values.iter().flat_map(|v| [*v; 4]).collect() };
        let mut out = Vec::new();
        write_transposed(&bytes(&[1, 2, 3, 4, 5, 6]), 2, 3, &mut out).unwrap();
        assert_eq!(out, bytes(&[1, 4, 2, 5, 3, 6]));
    }
}
