//! Lists the tensors of files by name, type and shape, before any of them is read.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use half::{bf16, f16};
use pytorch_reader::{DType, PytorchError, PytorchReader};
use safetensors::Dtype;
use shears_train::{NamedTensor, in_one_line, list_safetensors};

use crate::error::ExchangeError;
use crate::foreign;
use crate::names::Piece;

/// The number of rows that are read and transposed at a time.
const ROWS: usize = 16;

/// The tensors of some files.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) tensors: BTreeMap<String, Stored>,
    /// The files in the order in which they were added.
    pub(crate) files: Vec<PathBuf>,
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    kind: Result<Kind, String>,
    file: usize,
    place: Place,
}

/// The supported element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Debug)]
enum Place {
    /// At this offset of the file.
    At(u64),
    /// In a PyTorch file.
    Pickled(pytorch_reader::Tensor),
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From these tensors of the files, stacked by rows.
    Files(Vec<Piece>),
    /// Zeros, for a bias that the model was trained without.
    Zeros,
    /// The identity matrix, as the embedding of a model that reads tokens as one-hot vectors.
    Identity,
}

/// A tensor that a model needs.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its name in the model.
    pub(crate) ours: String,
    /// Its shape in the model.
    pub(crate) shape: Vec<usize>,
    /// Where its values come from.
    pub(crate) origin: Origin,
}

impl Origin {
    fn pieces(&self) -> &[Piece] {
        match self {
            Origin::Files(pieces) => pieces,
            Origin::Zeros | Origin::Identity => &[],
        }
    }
}

impl Catalogue {
    /// Adds the tensors of a safetensors file, of which only the header is read.
    pub(crate) fn add_safetensors(&mut self, path: &Path) -> Result<(), ExchangeError> {
        let file = foreign::open(path)?;
        let size = file.metadata().map_err(ExchangeError::read(path))?.len();
        let listed = list_safetensors(file, size).map_err(|problem| {
            let problem = format!("is not a whole safetensors file: {problem}");
            ExchangeError::refused(path, problem)
        })?;
        let index = self.files.len();
        self.files.push(path.to_path_buf());
        for tensor in listed {
            let kind = match tensor.dtype {
                Dtype::F32 => Ok(Kind::F32),
                Dtype::F16 => Ok(Kind::F16),
                Dtype::BF16 => Ok(Kind::Bf16),
                other => Err(format!("{other:?}")),
            };
            let stored = Stored {
                shape: tensor.shape,
                kind,
                file: index,
                place: Place::At(tensor.place.start as u64),
            };
            self.insert(path, &tensor.name, stored)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, name: &str, stored: Stored) -> Result<(), ExchangeError> {
        match self.tensors.insert(name.to_string(), stored) {
            None => Ok(()),
            Some(_) => {
                let problem = format!("has `{name}`, which another file has too");
                Err(ExchangeError::refused(path, problem))
            }
        }
    }

    /// Adds the tensors of a `torch.save` file, or only those below `key`. Names and shapes are
    /// read, and no code in the file runs.
    pub(crate) fn add_pytorch(
        &mut self,
        path: &Path,
        key: Option<&str>,
    ) -> Result<(), ExchangeError> {
        let file = foreign::open(path)?;
        let size = file.metadata().map_err(ExchangeError::read(path))?.len();
        let read = match key {
            Some(key) => PytorchReader::with_top_level_key(path, key),
            None => PytorchReader::new(path),
        };
        let reader = read.map_err(|error| {
            let problem = pytorch_problem(&error);
            ExchangeError::refused(path, format!("cannot be read as a PyTorch file: {problem}"))
        })?;
        let index = self.files.len();
        self.files.push(path.to_path_buf());
        for (name, tensor) in reader.into_tensors() {
            // A compressed file, or a view that repeats its elements, could ask for more memory
            // than it has stored.
            if tensor.byte_len() as u64 > size {
                let name: String = name.chars().take(100).collect();
                let problem = format!("has `{name}`, which is larger than the file: save it again");
                return Err(ExchangeError::refused(path, problem));
            }
            let kind = match tensor.dtype() {
                DType::F32 => Ok(Kind::F32),
                DType::F16 => Ok(Kind::F16),
                DType::BF16 => Ok(Kind::Bf16),
                other => Err(format!("{other:?}")),
            };
            let stored = Stored {
                shape: tensor.shape().to_vec(),
                kind,
                file: index,
                place: Place::Pickled(tensor),
            };
            self.insert(path, &name, stored)?;
        }
        Ok(())
    }

    /// Strips a prefix from the names that have it.
    pub(crate) fn strip_prefix(&mut self, prefix: &str) {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        let strip = |name: String| {
            name.strip_prefix(prefix)
                .map_or(name.clone(), str::to_string)
        };
        self.tensors = tensors
            .map(|(name, stored)| (strip(name), stored))
            .collect();
    }

    /// Checks that the files have what a model needs, and nothing else except what is `ignored`.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Refused`] with all differences, for `source`.
    pub(crate) fn check(
        &self,
        source: &Path,
        wanted: &[Wanted],
        ignored: impl Fn(&str) -> bool,
    ) -> Result<(), ExchangeError> {
        let pieces = wanted.iter().flat_map(|wanted| {
            let pieces = wanted.origin.pieces().iter();
            pieces.map(move |piece| (piece, wanted.shape.as_slice()))
        });
        let differing = pieces
            .clone()
            .map(|(piece, shape)| self.differs(piece, shape));
        let mut problems: Vec<String> = differing.flatten().collect();
        let known: HashSet<&str> = pieces.map(|(piece, _)| piece.name.as_str()).collect();
        for name in self.tensors.keys().filter(|name| !ignored(name)) {
            if !known.contains(name.as_str()) {
                let name: String = name.chars().take(100).collect();
                problems.push(format!("`{name}` is not in the model"));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let problem = format!("does not match its config: {}", in_one_line(problems));
        Err(ExchangeError::refused(source, problem))
    }

    /// What is wrong with a tensor that is a piece of one with this shape, if anything.
    fn differs(&self, piece: &Piece, shape: &[usize]) -> Option<String> {
        let name = &piece.name;
        let mut shape = shape.to_vec();
        shape[0] = piece.rows.len();
        if piece.transposed {
            shape.reverse();
        }
        match self.tensors.get(name) {
            None => Some(format!("`{name}` is missing")),
            Some(found) if found.shape != shape => Some(format!(
                "`{name}` has shape {:?} in place of {shape:?}",
                found.shape
            )),
            Some(Stored {
                kind: Err(kind), ..
            }) => Some(format!(
                "`{name}` has type {kind}; only F32, F16 and BF16 are supported"
            )),
            Some(_) => None,
        }
    }

    /// Reads the tensors that were checked.
    ///
    /// # Errors
    ///
    /// If something cannot be read, or if an element is not finite.
    pub(crate) fn read_all(&self, wanted: &[Wanted]) -> Result<Vec<NamedTensor>, ExchangeError> {
        let named = wanted.iter().map(|wanted| {
            let shape = wanted.shape.clone();
            let data = match &wanted.origin {
                Origin::Files(pieces) => self.read(pieces, shape)?,
                Origin::Zeros => shears_kernels::filled(shape, |values| values.fill(0.0)),
                Origin::Identity => {
                    let columns = shape[1];
                    shears_kernels::filled(shape, |values| {
                        values.fill(0.0);
                        values
                            .iter_mut()
                            .step_by(columns + 1)
                            .for_each(|one| *one = 1.0);
                    })
                }
            };
            Ok(NamedTensor {
                name: wanted.ours.clone(),
                data,
            })
        });
        named.collect()
    }

    /// Reads a tensor of this shape.
    fn read(&self, pieces: &[Piece], shape: Vec<usize>) -> Result<TensorData, ExchangeError> {
        let row: usize = shape[1..].iter().product();
        let mut done = Ok(());
        let data = shears_kernels::written(shape, |values| {
            done = pieces.iter().try_for_each(|piece| {
                let rows = piece.rows.start * row..piece.rows.end * row;
                self.read_piece(piece, &mut values[rows])
            });
        });
        done.map(|()| data)
    }

    fn read_piece(&self, piece: &Piece, values: &mut [f32]) -> Result<(), ExchangeError> {
        let stored = &self.tensors[&piece.name];
        let path = &self.files[stored.file];
        let mut elements = stored.elements(path).map_err(ExchangeError::read(path))?;
        let filled = elements.fill(values, &stored.shape, piece.transposed);
        filled.map_err(ExchangeError::read(path))?;
        match elements.not_finite {
            None => Ok(()),
            Some(value) => {
                let name = &piece.name;
                let problem = format!("has {value} in `{name}`; all elements must be finite");
                Err(ExchangeError::refused(path, problem))
            }
        }
    }
}

impl Stored {
    fn elements(&self, path: &Path) -> std::io::Result<Elements> {
        let bytes: Box<dyn Read> = match &self.place {
            Place::At(place) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*place))?;
                Box::new(file)
            }
            Place::Pickled(tensor) => Box::new(Cursor::new(tensor.read()?)),
        };
        Ok(Elements {
            bytes,
            // `check` has refused other types.
            kind: self.kind.clone().unwrap_or(Kind::F32),
            buffer: Vec::new(),
            not_finite: None,
        })
    }
}

/// Why a PyTorch file cannot be read, without the words of the library.
fn pytorch_problem(error: &PytorchError) -> String {
    match error {
        PytorchError::Zip(_) | PytorchError::Io(_) | PytorchError::Tar(_) => {
            "its archive is cut off or damaged, or has an entry that is too large; copy it again"
        }
        PytorchError::Pickle(_) => {
            "its pickle is cut off or damaged, or has something else than tensors of a model"
        }
        PytorchError::KeyNotFound(key) => return format!("it has no `{key}`"),
        _ => "it has none of the forms that torch.save has written on machines like this one",
    }
    .to_string()
}

/// The elements of a tensor, read in order.
struct Elements {
    bytes: Box<dyn Read>,
    kind: Kind,
    buffer: Vec<u8>,
    /// The first element that is not finite, if there is one.
    not_finite: Option<f32>,
}

impl Elements {
    /// Reads a whole tensor of this shape, possibly transposing it, a few rows at a time.
    fn fill(
        &mut self,
        values: &mut [f32],
        shape: &[usize],
        transposed: bool,
    ) -> std::io::Result<()> {
        let [rows, columns] = match shape {
            [rows, columns] if transposed => [*rows, *columns],
            _ => return self.fill_in_order(values),
        };
        let mut block = vec![0.0; ROWS.min(rows) * columns];
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let block = &mut block[..count * columns];
            self.fill_in_order(block)?;
            for column in 0..columns {
                let out = &mut values[column * rows + first..][..count];
                for (row, out) in out.iter_mut().enumerate() {
                    *out = block[row * columns + column];
                }
            }
        }
        Ok(())
    }

    fn fill_in_order(&mut self, values: &mut [f32]) -> std::io::Result<()> {
        /// The number of elements read at a time.
        const PIECE: usize = 1 << 16;
        let size = match self.kind {
            Kind::F32 => 4,
            Kind::F16 | Kind::Bf16 => 2,
        };
        for piece in values.chunks_mut(PIECE) {
            self.buffer.resize(piece.len() * size, 0);
            self.bytes.read_exact(&mut self.buffer)?;
            let pairs = self.buffer.as_chunks::<2>().0;
            match self.kind {
                Kind::F32 => {
                    for (value, bytes) in piece.iter_mut().zip(self.buffer.as_chunks::<4>().0) {
                        *value = f32::from_le_bytes(*bytes);
                    }
                }
                Kind::F16 => {
                    for (value, bytes) in piece.iter_mut().zip(pairs) {
                        *value = f16::from_le_bytes(*bytes).to_f32();
                    }
                }
                Kind::Bf16 => {
                    for (value, bytes) in piece.iter_mut().zip(pairs) {
                        *value = bf16::from_le_bytes(*bytes).to_f32();
                    }
                }
            }
            // While the values are in the cache; without a branch per element, this vectorizes.
            let any = piece
                .iter()
                .fold(false, |any, value| any | !value.is_finite());
            if any && self.not_finite.is_none() {
                self.not_finite = piece.iter().copied().find(|value| !value.is_finite());
            }
        }
        Ok(())
    }
}
