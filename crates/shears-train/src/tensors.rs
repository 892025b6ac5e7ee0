//! Named tensors, read from and written to modules and safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Read, Write};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData, Transaction};
use safetensors::Dtype;
use shears_model::{ParameterMapper, ParameterVisitor, map_parameters, visit_parameters};

use crate::safetensors_header::{ListedTensor, brief, list_safetensors, safetensors_header};

/// A named tensor on the host.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// The path in the module, or a name chosen by its owner.
    pub name: String,
    /// The values, f32.
    pub data: TensorData,
}

impl NamedTensor {
    /// Whether all elements are finite.
    pub(crate) fn is_finite(&self) -> bool {
        match self.data.as_slice::<f32>() {
            Ok(values) => values.iter().all(|value| value.is_finite()),
            Err(_) => self.data.iter::<f32>().all(f32::is_finite),
        }
    }
}

/// A tensor that is read from its device on demand, so that only one of many is copied at a time.
pub struct LazyTensor<'a> {
    pub(crate) name: String,
    shape: Vec<usize>,
    read: Box<dyn Fn() -> Cow<'a, TensorData> + 'a>,
}

impl fmt::Debug for LazyTensor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {:?}", self.name, self.shape)
    }
}

impl LazyTensor<'_> {
    /// A tensor on a device, which must not change until this is dropped.
    pub(crate) fn on_device<const D: usize>(name: String, tensor: Tensor<D>) -> Self {
        LazyTensor {
            name,
            shape: tensor.dims().to_vec(),
            read: Box::new(move || Cow::Owned(tensor.clone().into_data())),
        }
    }

    /// Reads the elements.
    pub(crate) fn read(&self) -> NamedTensor {
        NamedTensor {
            name: self.name.clone(),
            data: (self.read)().into_owned(),
        }
    }
}

impl From<NamedTensor> for LazyTensor<'_> {
    fn from(tensor: NamedTensor) -> Self {
        LazyTensor {
            shape: tensor.data.shape().to_vec(),
            read: Box::new(move || Cow::Owned(tensor.data.clone())),
            name: tensor.name,
        }
    }
}

impl<'a> From<&'a NamedTensor> for LazyTensor<'a> {
    fn from(tensor: &'a NamedTensor) -> Self {
        LazyTensor {
            name: tensor.name.clone(),
            shape: tensor.data.shape().to_vec(),
            read: Box::new(|| Cow::Borrowed(&tensor.data)),
        }
    }
}

/// The parameters of a module, each once, read lazily.
pub(crate) fn lazy_tensors<'a, M: Module>(module: &M) -> Vec<LazyTensor<'a>> {
    struct Reader<'a>(Vec<LazyTensor<'a>>);
    impl ParameterVisitor for Reader<'_> {
        fn visit<const D: usize>(&mut self, name: String, parameter: &Param<Tensor<D>>) {
            let tensor = parameter.val().without_autodiff();
            self.0.push(LazyTensor::on_device(name, tensor));
        }
    }
    let mut reader = Reader(Vec::new());
    visit_parameters(module, &mut reader);
    reader.0
}

/// The parameters of a module, each once, read from the device in one transaction.
pub fn module_tensors<M: Module>(module: &M) -> Vec<NamedTensor> {
    #[derive(Default)]
    struct Reader {
        names: Vec<String>,
        transaction: Transaction,
    }
    impl ParameterVisitor for Reader {
        fn visit<const D: usize>(&mut self, name: String, parameter: &Param<Tensor<D>>) {
            self.names.push(name);
            let transaction = std::mem::take(&mut self.transaction);
            self.transaction = transaction.register(parameter.val().without_autodiff());
        }
    }
    let mut reader = Reader::default();
    visit_parameters(module, &mut reader);
    let data = reader.transaction.execute();
    let named = reader.names.into_iter().zip(data);
    named
        .map(|(name, data)| NamedTensor { name, data })
        .collect()
}

/// Loads values into a module. Lazy parameters are not initialised first, and on the CPU device the
/// module uses the memory of the tensors without a copy.
///
/// # Errors
///
/// A message with all tensors that are missing, unexpected or of another shape.
pub fn load_parameters<M: Module>(module: M, tensors: Vec<NamedTensor>) -> Result<M, String> {
    struct Writer {
        values: BTreeMap<String, TensorData>,
        /// Loaded values, for further occurrences of a tied parameter.
        loaded: HashMap<ParamId, Tensor<1>>,
    }
    impl ParameterMapper for Writer {
        fn map<const D: usize>(
            &mut self,
            name: String,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let id = param.id;
            let shape = param.lazy_shape();
            let shape: [usize; D] = std::array::from_fn(|axis| shape[axis]);
            if let Some(loaded) = self.loaded.get(&id) {
                return param.transform_for_load(loaded.clone().reshape(shape), id);
            }
            // A tied parameter is saved under its first name.
            let Some(data) = self.values.remove(&name) else {
                return param;
            };
            let tensor = Tensor::<D>::from_data(data, &param.lazy_device());
            let flat = tensor.clone().reshape([tensor.shape().num_elements()]);
            self.loaded.insert(id, flat);
            param.transform_for_load(tensor, id)
        }
    }
    let values: BTreeMap<String, TensorData> = tensors
        .into_iter()
        .map(|tensor| (tensor.name, tensor.data))
        .collect();
    let problems = differences(&shears_model::parameters(&module), &values);
    if !problems.is_empty() {
        return Err(in_one_line(problems));
    }
    let mut writer = Writer {
        values,
        loaded: HashMap::new(),
    };
    Ok(map_parameters(module, &mut writer))
}

fn differences(
    wanted: &[shears_model::ParameterInfo],
    given: &BTreeMap<String, TensorData>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for parameter in wanted {
        match given.get(&parameter.name) {
            None => problems.push(format!("`{}` is missing", parameter.name)),
            Some(data) if data.shape().to_vec() != parameter.shape => {
                let shape = data.shape().to_vec();
                let shape = brief(&format!("{shape:?}"));
                problems.push(format!(
                    "`{}` has shape {shape} in place of {:?}",
                    parameter.name, parameter.shape
                ));
            }
            Some(_) => {}
        }
    }
    let names: BTreeSet<&String> = wanted.iter().map(|parameter| &parameter.name).collect();
    let extra = given.keys().filter(|name| !names.contains(name));
    problems.extend(extra.map(|name| format!("`{}` is not in the model", brief(name))));
    problems
}

/// The most problems that are listed.
const MAX_LISTED: usize = 20;

/// The first problems of a model's tensors, and the number of the others.
pub fn in_one_line(mut problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        problems.truncate(MAX_LISTED);
        problems.push(format!("and {more} more"));
    }
    problems.join("; ")
}

/// Writes a safetensors file, sorted by name, reading one tensor at a time.
pub(crate) fn write_safetensors(
    tensors: &[LazyTensor<'_>],
    out: &mut impl Write,
) -> io::Result<()> {
    let mut sorted: Vec<&LazyTensor<'_>> = tensors.iter().collect();
    sorted.sort_by(|left, right| left.name.cmp(&right.name));
    let shapes = sorted.iter().map(|t| (t.name.as_str(), t.shape.clone()));
    out.write_all(&safetensors_header(None, shapes)?)?;
    for tensor in sorted {
        out.write_all((tensor.read)().as_bytes())?;
    }
    Ok(())
}

/// The tensors of a safetensors file in memory.
pub(crate) fn from_safetensors(mut bytes: &[u8]) -> Result<Vec<NamedTensor>, String> {
    let size = bytes.len() as u64;
    read_safetensors(&mut bytes, size)
}

/// Reads the tensors of a safetensors file of `size` bytes, in the order of the file.
pub(crate) fn read_safetensors(
    file: &mut impl Read,
    size: u64,
) -> Result<Vec<NamedTensor>, String> {
    let mut listed = list_safetensors(&mut *file, size)?;
    // The data is contiguous, and of the sizes of the shapes.
    listed.sort_by_key(|tensor| tensor.place.start);
    if let Some(other) = listed.iter().find(|tensor| tensor.dtype != Dtype::F32) {
        let (name, kind) = (brief(&other.name), other.dtype);
        return Err(format!("`{name}` has type {kind:?}; only F32 is used"));
    }
    let mut buffer = Vec::new();
    let mut read = |tensor: ListedTensor| {
        let mut done = Ok(());
        let data = shears_kernels::written(tensor.shape, |values| {
            done = read_elements(file, values, &mut buffer);
        });
        done.map_err(|error| format!("it cannot be read: {error}"))?;
        let name = tensor.name;
        Ok(NamedTensor { name, data })
    };
    listed.into_iter().map(&mut read).collect()
}

/// The number of elements read at a time.
const PIECE: usize = 1 << 16;

/// Reads little-endian elements.
fn read_elements(file: &mut impl Read, values: &mut [f32], buffer: &mut Vec<u8>) -> io::Result<()> {
    for piece in values.chunks_mut(PIECE) {
        buffer.resize(size_of_val(piece), 0);
        file.read_exact(buffer)?;
        for (value, bytes) in piece.iter_mut().zip(buffer.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    Ok(())
}
