//! `cargo xtask bench`: this system against PyTorch, Burn's own modules and Candle, on this
//! machine.
//!
//! `peers` measures the rows of a table of goals, `scaling` how the cost of a step grows, `ranks`
//! what two processes lose compared with two threads; all write their measurements to
//! `benches/baselines`. `report` writes the tables and plots of the documentation from those files,
//! and measures nothing.

use std::path::{Path, PathBuf};

mod machine;
mod options;
mod peers;
mod plot;
mod programs;
mod ranks;
mod report;
mod rows;
mod scaling;
mod statistics;

pub(crate) use options::Options;
pub(crate) use programs::{build_shears, built_shears};

/// What the arguments ask for: a task and its options.
///
/// # Errors
///
/// The problem, and the usage.
pub(crate) fn options(arguments: &[String]) -> Result<(String, Options), String> {
    let (task, rest) = arguments.split_first().ok_or(options::USAGE)?;
    let options = Options::parse(task, rest);
    let options = options.map_err(|error| format!("{error}\n{}", options::USAGE))?;
    Ok((task.clone(), options))
}

/// Runs a task.
pub(crate) fn run(task: &str, options: &Options) -> Result<(), String> {
    match task {
        "peers" => peers::run(options),
        "scaling" => scaling::run(options),
        "ranks" => ranks::run(options),
        _ => report::run(),
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file of a measurement.
fn baseline(name: &str) -> PathBuf {
    root().join("benches/baselines").join(name)
}

/// Writes a file and its folder, and prints its path.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let shown = path.strip_prefix(root()).unwrap_or(path);
    println!("wrote {}", shown.display());
    Ok(())
}
