//! Reads a golden file.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;

/// A file that `tools/golden/models.py` wrote.
pub(crate) struct GoldenFile {
    bytes: Vec<u8>,
    /// The metadata's one entry.
    pub(crate) settings: Value,
}

impl GoldenFile {
    pub(crate) fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{name}.safetensors"));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let settings = &header.metadata().as_ref().unwrap()["settings"];
        let settings = serde_json::from_str(settings).unwrap();
        GoldenFile { bytes, settings }
    }

    /// The names that start with `prefix`, without the prefix.
    pub(crate) fn names_below(&self, prefix: &str) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let names = file.names().into_iter();
        names
            .filter_map(|name| name.strip_prefix(prefix).map(str::to_string))
            .collect()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(name).unwrap().shape().to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let chunks = view.data().as_chunks::<4>().0.iter();
        chunks.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<i64> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let chunks = view.data().as_chunks::<8>().0.iter();
        chunks.map(|bytes| i64::from_le_bytes(*bytes)).collect()
    }
}
