//! How long a model takes to load, and how much memory:
//! `cargo run --release -p shears-exchange --example load -- SOURCE`.
//!
//! SOURCE is a Hugging Face folder. Prints one line of JSON: the seconds to load the model,
//! including the SHA-256 of its files, and the peak memory of the process in bytes.
//! `tools/measure_import.py` runs it.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use shears_exchange::ModelSource;
use shears_model::{Initializer, Transformer};
use shears_train::{load_parameters, peak_rss_bytes};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1);
    let folder = folder.ok_or("one argument is needed: SOURCE")?;
    let start = Instant::now();
    let source = ModelSource::open(Path::new(&folder))?;
    let initializer = &mut Initializer::new(1, &Device::flex());
    let model = Transformer::new(source.vocabulary, &source.config, initializer);
    let model = load_parameters(model, source.read()?.tensors)?;
    let seconds = start.elapsed().as_secs_f64();
    drop(model);
    let peak = peak_rss_bytes().ok_or("this system does not report the memory of a process")?;
    let line = serde_json::json!({ "seconds": seconds, "peak_rss_bytes": peak });
    println!("{line}");
    Ok(())
}
