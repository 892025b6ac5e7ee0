//! Whatever a stranger calls a model is refused in one line, or read, and never more than there is.

use std::fs;
use std::path::{Path, PathBuf};

use shears_exchange::ModelSource;

use crate::fuzzing::{self, Target};

/// The most memory that a model of a fuzzed file may ask for: each seed has less than 100 kB.
const MOST: u64 = 64 << 20;

/// Opens and reads a model.
fn check(path: &Path) {
    let error = match ModelSource::open(path) {
        Err(error) => error,
        Ok(source) => {
            assert!(source.bytes() < MOST, "{source:?}");
            match source.read() {
                Err(error) => error,
                Ok(read) => {
                    assert!(!read.tensors.is_empty());
                    return;
                }
            }
        }
    };
    let said = error.to_string();
    assert!(
        !said.contains(char::is_control) && !said.contains(", expected"),
        "{said}"
    );
}

/// A file of a model in `tests/golden`.
fn golden(model: &str) -> PathBuf {
    fuzzing::folder("shears-exchange", "golden").join(model)
}

/// A folder of Hugging Face, one file of which is fuzzed.
fn folder_with(name: &'static str, model: &str, file: &str) -> Target {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(model)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(file);
    let seed = fs::read(&path).unwrap();
    Target::new("shears-exchange", name, vec![seed], move |input| {
        fs::write(&path, input).unwrap();
        check(copy.path());
    })
}

pub(crate) fn gpt2_config() -> Target {
    folder_with("gpt2_config", "gpt2-tied", "config.json")
}

pub(crate) fn llama_config() -> Target {
    folder_with("llama_config", "llama", "config.json")
}

pub(crate) fn llama_weights() -> Target {
    folder_with("llama_weights", "llama", "model.safetensors")
}

/// Files that PyTorch wrote.
fn archives() -> [Vec<u8>; 2] {
    ["nanogpt/ckpt.pt", "lstm/model.pt"].map(|file| fs::read(golden(file)).unwrap())
}

/// A file of PyTorch.
pub(crate) fn torch_archive() -> Target {
    let place = tempfile::tempdir().unwrap();
    Target::new(
        "shears-exchange",
        "torch_archive",
        archives().to_vec(),
        move |input| {
            let path = place.path().join("model.pt");
            fs::write(&path, input).unwrap();
            check(&path);
        },
    )
}

/// The pickle in a file of PyTorch.
pub(crate) fn torch_pickle() -> Target {
    let place = tempfile::tempdir().unwrap();
    let [entries, others] = archives().map(|archive| entries(&archive));
    let pickles = vec![pickle(&entries), pickle(&others)];
    Target::new("shears-exchange", "torch_pickle", pickles, move |input| {
        let path = place.path().join("model.pt");
        fs::write(&path, archive(input, &entries)).unwrap();
        check(&path);
    })
}

#[test]
fn no_config_of_gpt2_panics() {
    gpt2_config().run();
}

#[test]
fn no_config_of_llama_panics() {
    llama_config().run();
}

#[test]
fn no_foreign_weights_panic() {
    llama_weights().run();
}

#[test]
fn no_archive_of_pytorch_panics() {
    torch_archive().run();
}

#[test]
fn no_pickle_panics() {
    torch_pickle().run();
}

type Entry = (String, Vec<u8>);

/// The entries of an archive as `torch.save` writes it: none is compressed.
fn entries(archive: &[u8]) -> Vec<Entry> {
    let number = |place: usize, size: usize| {
        let bytes = archive[place..place + size].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let end = archive
        .windows(4)
        .rposition(|four| four == b"PK\x05\x06")
        .unwrap();
    let (count, mut place) = (number(end + 10, 2), number(end + 16, 4));
    let mut entries = Vec::new();
    for _ in 0..count {
        let (size, local) = (number(place + 24, 4), number(place + 42, 4));
        let lengths = [28, 30, 32].map(|at| number(place + at, 2));
        let name = archive[place + 46..][..lengths[0]].to_vec();
        let data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
        entries.push((
            String::from_utf8(name).unwrap(),
            archive[data..][..size].to_vec(),
        ));
        place += 46 + lengths.iter().sum::<usize>();
    }
    entries
}

fn pickle(entries: &[Entry]) -> Vec<u8> {
    let found = entries.iter().find(|(name, _)| name.ends_with("data.pkl"));
    found.unwrap().1.clone()
}

/// The archive with another pickle, and without sums, which would find every change.
fn archive(pickle: &[u8], entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let data = if name.ends_with("data.pkl") {
            pickle
        } else {
            data
        };
        let size = (data.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        // Flags, method, time and date, sum; both sizes; the name and no extra field.
        let common = [&[0; 12][..], &size, &size, &length, &[0; 2]].concat();
        directory.extend([&b"PK\x01\x02\x14\0\x14\0"[..], &common, &[0; 10]].concat());
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.bytes());
        out.extend([&b"PK\x03\x04\x14\0"[..], &common, name.as_bytes(), data].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let [size, start] = [directory.len(), out.len()].map(|n| (n as u32).to_le_bytes());
    out.extend(directory);
    out.extend(
        [
            &b"PK\x05\x06\0\0\0\0"[..],
            &count,
            &count,
            &size,
            &start,
            &[0; 2],
        ]
        .concat(),
    );
    out
}
