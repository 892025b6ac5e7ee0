//! How long a model takes to load, and how much memory:
//! `cargo run --release -p shears-exchange --example load -- SOURCE`.
//!
//! SOURCE is a folder of Hugging Face. Prints one line of JSON: the bytes of its files, the seconds
//! in which they were read, the seconds in which they became a model after that, the most memory
//! that the process has had, and what it had before, in bytes. `tools/measure_import.py` runs it.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use shears_exchange::Source;
use shears_model::{Initializer, Transformer};
use shears_train::load_parameters;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("one argument is needed: SOURCE")?;
    let folder = Path::new(&folder);
    let start = Instant::now();
    let bytes = read(folder)?;
    let reading = start.elapsed().as_secs_f64();
    let before = peak()?;

    let start = Instant::now();
    let source = Source::open(folder)?;
    let initializer = &mut Initializer::new(1, &Device::flex());
    let model = Transformer::new(source.vocabulary, &source.config, initializer);
    let model = load_parameters(model, source.read()?.tensors)?;
    let loading = start.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "bytes": bytes,
        "seconds_to_read": reading,
        "seconds_to_load": loading,
        "peak_rss_bytes": peak()?,
        "peak_rss_bytes_before": before,
    });
    println!("{line}");
    drop(model);
    Ok(())
}

/// Reads all files of weights once, and gives their bytes.
fn read(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let files: Vec<PathBuf> = files.collect::<std::io::Result<_>>()?;
    let is_weights = |path: &&PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("safetensors" | "bin"))
    };
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    for path in files.iter().filter(is_weights) {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => bytes += count as u64,
            }
        }
    }
    Ok(bytes)
}

/// The most memory that this process has had.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.ok_or("this system does not tell what a process takes")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
