//! Whatever a stranger calls a model is refused in one line, or read, and never more than there is.

use std::fs;
use std::path::Path;

use shears_exchange::Source;

use crate::fuzzing::{EXTREMES, run};
use crate::golden::folder;

/// The most memory that a model of a fuzzed file may ask for: each seed has less than 100 kB.
const MOST: u64 = 64 << 20;

/// Opens and reads a model.
fn check(path: &Path) {
    let error = match Source::open(path) {
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
        !said.contains(['\n', '\r']) && !said.contains(", expected"),
        "{said}"
    );
}

/// A folder of Hugging Face whose files are changed one at a time.
fn folders(model: &str, file: &str) {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder(model)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join(file);
    let seed = fs::read(&path).unwrap();
    run(&format!("{file} of {model}"), &[seed], &EXTREMES, |input| {
        fs::write(&path, input).unwrap();
        check(copy.path());
    });
}

#[test]
fn no_config_of_a_stranger_panics() {
    folders("gpt2-tied", "config.json");
    folders("llama", "config.json");
}

#[test]
fn no_weights_of_a_stranger_panic() {
    folders("llama", "model.safetensors");
}

/// The pickle of a file of PyTorch, and the archive around it.
#[test]
fn no_pickle_panics() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.pt");
    let whole = |name: &str, file: &str| fs::read(folder(name).join(file)).unwrap();
    let archives = [whole("nanogpt", "ckpt.pt"), whole("lstm", "model.pt")];
    run("archives of PyTorch", &archives, &EXTREMES, |input| {
        fs::write(&path, input).unwrap();
        check(&path);
    });
    let [entries, others] = archives.each_ref().map(|archive| entries(archive));
    let pickles = [pickle(&entries), pickle(&others)];
    run("pickles of PyTorch", &pickles, &EXTREMES, |input| {
        fs::write(&path, archive(input, &entries)).unwrap();
        check(&path);
    });
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
