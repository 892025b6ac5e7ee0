//! The headers of safetensors files: written for our own, read from anybody's.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use shears_run::{escaped, json_problem};

/// The length of the header is in the first bytes.
const START: u64 = size_of::<u64>() as u64;
/// The most bytes of a header, by the format.
const HEADER_MAX: u64 = 100_000_000;
/// The most tensors of a file.
const MOST_TENSORS: usize = 100_000;
/// The most bytes of a tensor's name.
const LONGEST_NAME: usize = 10_000;
/// The key of the metadata, which is not a tensor.
const METADATA: &str = "__metadata__";

/// The start of an `f32` safetensors file: the length of the header, then the header with names,
/// shapes and offsets, in the order of the data. `format` is the metadata key of that name.
///
/// # Errors
///
/// If a name cannot be written as JSON.
pub fn safetensors_header<'a>(
    format: Option<&str>,
    tensors: impl Iterator<Item = (&'a str, Vec<usize>)>,
) -> io::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if let Some(format) = format {
        let metadata = serde_json::json!({ "format": format });
        header.insert(METADATA.into(), metadata);
    }
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += size_of::<f32>() * shape.iter().product::<usize>();
        let entry = serde_json::json!({
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [start, end],
        });
        header.insert(name.to_string(), entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    // The data is aligned to eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = header.len() as u64;
    Ok([&length.to_le_bytes()[..], &header].concat())
}

/// A tensor that the header of a file lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, which matches the size of its data.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub place: Range<usize>,
}

/// Reads the header of a safetensors file of `size` bytes, and returns its tensors by name.
///
/// # Errors
///
/// A sentence fragment, if the header is not valid, names a tensor twice (of which readers would
/// silently take one), or has names that no program uses, or if the data is not contiguous, or not
/// of the sizes of the shapes.
pub fn list_safetensors(mut file: impl Read, size: u64) -> Result<Vec<ListedTensor>, String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".to_string(),
        _ => format!("it cannot be read: {error}"),
    };
    if size < START {
        return Err("it is shorter than the length of a header".to_string());
    }
    let mut length = [0; START as usize];
    file.read_exact(&mut length).map_err(unreadable)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX {
        return Err("its header is larger than any may be".to_string());
    }
    let begin = START + length;
    if begin > size {
        return Err("it is cut off within its header".to_string());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(unreadable)?;
    let metadata = parse(&header)?;
    if begin + metadata.data_len() as u64 != size {
        return Err("it is cut off, or longer than its header says".to_string());
    }
    let listed = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        ListedTensor {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            place: begin as usize + from..begin as usize + to,
        }
    });
    let mut listed: Vec<ListedTensor> = listed.collect();
    listed.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(listed)
}

/// The JSON of a header, with all that the library checks and what it does not.
fn parse(header: &[u8]) -> Result<Metadata, String> {
    if std::str::from_utf8(header).is_err() {
        return Err("its header is not UTF-8".to_string());
    }
    let entries = serde_json::from_slice(header);
    let Entries {
        metadata,
        mut tensors,
    } = entries.map_err(|error| format!("its header {}", json_problem(&error)))?;
    if let Some(problem) = names_problem(&tensors) {
        return Err(format!("its header {problem}"));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Metadata::new(metadata, tensors).map_err(|error| data_problem(&error))
}

/// What is wrong with the names of tensors, if anything.
fn names_problem(tensors: &[(String, TensorInfo)]) -> Option<String> {
    let count = tensors.len();
    let mut seen = BTreeSet::new();
    let names = || tensors.iter().map(|(name, _)| name);
    if let Some(twice) = names().find(|name| !seen.insert(*name)) {
        Some(format!("has two tensors `{}`", brief(twice)))
    } else if count > MOST_TENSORS {
        Some(format!("has {count} tensors; {MOST_TENSORS} are the most"))
    } else {
        let long = names().find(|name| name.len() > LONGEST_NAME)?;
        let (bytes, name) = (long.len(), brief(long));
        Some(format!(
            "has a name of {bytes} bytes, `{name}`; {LONGEST_NAME} are the most"
        ))
    }
}

/// What is wrong with the offsets or shapes of tensors.
fn data_problem(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::InvalidOffset(name) => {
            format!("`{}` overlaps another tensor or leaves a gap", brief(name))
        }
        SafeTensorError::ValidationOverflow => {
            "a shape exceeds what a computer can address".to_string()
        }
        SafeTensorError::MisalignedSlice => "a tensor does not end at a whole byte".to_string(),
        _ => "the size of a tensor does not match its shape".to_string(),
    }
}

/// A name for messages: names in a file may be a megabyte long, and have control characters.
pub(crate) fn brief(name: &str) -> String {
    const MAX_LENGTH: usize = 100;
    match name.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => escaped(&name[..end]) + "...",
        None => escaped(name),
    }
}

/// All entries of a header in the order of the file, duplicates included.
struct Entries {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries {
                    metadata: None,
                    tensors: Vec::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    match name == METADATA {
                        true => entries.metadata = map.next_value()?,
                        false => entries.tensors.push((name, map.next_value()?)),
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of tensors with one byte each.
    fn file<'a>(names: impl Iterator<Item = &'a str>) -> Vec<u8> {
        let entries: Vec<String> = names
            .enumerate()
            .map(|(at, name)| {
                let end = at + 1;
                format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{end}]}}"#)
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let length = header.len() as u64;
        let data = vec![7; entries.len()];
        [&length.to_le_bytes()[..], header.as_bytes(), &data].concat()
    }

    fn list(file: &[u8]) -> Result<Vec<ListedTensor>, String> {
        list_safetensors(file, file.len() as u64)
    }

    #[test]
    fn duplicate_long_and_excess_names_are_found() {
        let listed = list(&file(["b", "a"].into_iter())).unwrap();
        let names: Vec<&str> = listed.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let twice = list(&file(["a", "b", "b", "a"].into_iter()));
        assert_eq!(twice.unwrap_err(), "its header has two tensors `b`");
        let long = list(&file(["n".repeat(1 << 20).as_str()].into_iter())).unwrap_err();
        assert!(long.contains("1048576 bytes") && long.len() < 200, "{long}");
        let numbers: Vec<String> = (0..100_001).map(|number| number.to_string()).collect();
        let most = file(numbers[1..].iter().map(String::as_str));
        assert_eq!(list(&most).unwrap().len(), 100_000);
        let many = list(&file(numbers.iter().map(String::as_str)));
        assert_eq!(
            many.unwrap_err(),
            "its header has 100001 tensors; 100000 are the most"
        );
    }

    /// Nothing of the promised size is allocated before.
    #[test]
    fn headers_that_promise_what_is_not_there_are_refused() {
        for length in 0..8 {
            let problem = list(&vec![1; length]).unwrap_err();
            assert_eq!(problem, "it is shorter than the length of a header");
        }
        for (length, problem) in [
            (u64::MAX, "larger than any may be"),
            (HEADER_MAX + 1, "larger than any may be"),
            (HEADER_MAX, "cut off within its header"),
            (3, "cut off within its header"),
        ] {
            let file = [&length.to_le_bytes()[..], b"{}"].concat();
            let said = list(&file).unwrap_err();
            assert!(said.contains(problem), "{length}: {said}");
        }
        let of = |header: &str| {
            let length = (header.len() as u64).to_le_bytes();
            list(&[&length[..], header.as_bytes(), &[0; 8]].concat())
        };
        let tensor = |dtype: &str, shape: &str, offsets: &str| {
            format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
        };
        let two = |first: &str, second: &str| {
            let [first, second] = [first, second].map(|offsets| tensor("F32", "[1]", offsets));
            format!("{{\"a\":{first},\"b\":{second}}}")
        };
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!("{{\"a\":{}}}", tensor(dtype, shape, offsets))
        };
        assert!(of(&two("[0,4]", "[4,8]")).is_ok());
        let most = u64::MAX;
        for (header, problem) in [
            ("hello".to_string(), "not JSON"),
            ("[".repeat(10_000), "has a list where something else"),
            (two("[0,4]", "[2,6]"), "overlaps"),
            (two("[0,4]", "[0,4]"), "overlaps"),
            (two("[0,4]", "[5,9]"), "leaves a gap"),
            (two("[1,5]", "[5,9]"), "leaves a gap"),
            (two("[0,4]", "[4,0]"), "overlaps"),
            (
                two("[0,4]", &format!("[4,{most}]")),
                "does not match its shape",
            ),
            (one("F32", "[2]", "[0,4]"), "does not match its shape"),
            (one("F32", "[3]", "[0,12]"), "cut off, or longer"),
            (one("F32", "[1]", "[0,4]"), "cut off, or longer"),
            (
                one("F32", &format!("[{most},{most}]"), "[0,8]"),
                "can address",
            ),
            (one("F33", "[2]", "[0,8]"), "its header"),
            (one("F32", "[-2]", "[0,8]"), "its header"),
        ] {
            let said = of(&header).unwrap_err();
            assert!(
                said.contains(problem) && said.len() < 200,
                "{problem}: {said}"
            );
        }
    }
}
