//! The fuzz targets of files that only the command line reads.

use std::fs;

use shears_train::Preset;
use toml::Table;

use crate::fuzzing::Target;
use crate::gradient_files::{OtherTypes, parse};
use crate::output::one_line;
use crate::settings::Given;

/// A safetensors file.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// Any bytes are refused in one line, or are tensors that are written as they were read.
pub(crate) fn gradients() -> Target {
    let two = "{\"__metadata__\":{\"step\":\"7\"},\
         \"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\
         \"b\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[8,12]}}";
    let others = "{\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},\
         \"d\":{\"dtype\":\"F16\",\"shape\":[0,3],\"data_offsets\":[8,8]},\
         \"e\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]}}";
    let seeds = vec![
        file(two, &[1; 12]),
        file(others, &[2; 16]),
        file("{}", b""),
        file(&"[".repeat(10_000), b""),
        [&[0xff; 8][..], b"{}"].concat(),
        [&[0, 0, 0, 0, 0, 0, 0, 0x80][..], b"{}"].concat(),
        b"\x93NUMPY\x01\0".to_vec(),
    ];
    Target::new("shears", "gradients", seeds, |input| {
        for other_types in [OtherTypes::Refuse, OtherTypes::LeaveOut] {
            match parse(input, input.len() as u64, other_types) {
                Ok(file) => {
                    assert!(file.tensors.is_sorted_by_key(|tensor| &tensor.name));
                    let mut written = Vec::new();
                    file.write_to(&mut written).unwrap();
                    let is_whole = other_types == OtherTypes::Refuse;
                    assert!(!is_whole || written == input, "the bytes that were read");
                }
                Err(error) => {
                    let said = one_line(&format!("{error:#}"));
                    assert!(!said.contains(char::is_control) && !said.contains(", expected"));
                }
            }
        }
    })
}

/// Any file is a config that gives a plan, or is refused in words of our own.
pub(crate) fn config() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let stored = toml::to_string(&Preset::Gpt128.plan()).unwrap();
    let seeds = [
        stored.as_str(),
        "preset = \"gru-128\"\ntext = [\"a.txt\", \"b\"]\nsteps = 10\nout = \"x\"\nthreads = 2\n",
        "clip = \"skip:6+value:1+global-norm:0.5\"\ntied = false\nlr = 1e-3\n",
        "[model]\nlayers = 2\n",
        "a.b.c = [1, 2, { d = 1979-05-27T07:32:00Z }]\n\"\" = 0x_f\n",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    Target::new("shears", "config", seeds, move |input| {
        let path = folder.path().join("config.toml");
        fs::write(&path, input).unwrap();
        let given = Given::read(Table::new(), Some(&path));
        if let Err(error) = given.and_then(|given| given.plan()) {
            let said = format!("{error:#}");
            assert!(!said.is_empty() && !said.contains(", expected"), "{said}");
        }
    })
}

#[test]
fn no_file_of_gradients_panics() {
    gradients().run();
}

#[test]
fn no_config_panics() {
    config().run();
}
