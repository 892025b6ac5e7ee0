//! `cargo xtask bench`: this system against PyTorch, Burn's own modules and Candle, on this
//! machine.
//!
//! `peers` measures the rows of a table of goals, `scaling` how the cost of a step grows, `ranks`
//! what two processes lose against two threads; all write what they measured to
//! `benches/baselines`. `report` writes the tables and plots of the
//! documentation from those files, and measures nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

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

use options::Options;
pub(crate) use programs::{build_shears, built_shears};

/// Runs the subcommand that the arguments name.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let Some((task, rest)) = arguments.split_first() else {
        eprintln!("{}", options::USAGE);
        return ExitCode::from(2);
    };
    let options = match Options::parse(task, rest) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let result = match task.as_str() {
        "peers" => peers::run(&options),
        "scaling" => scaling::run(&options),
        "ranks" => ranks::run(&options),
        _ => report::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where measurements are kept.
fn baseline(name: &str) -> PathBuf {
    root().join("benches/baselines").join(name)
}

/// Writes a file, and the folder it is in; says which.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let shown = path.strip_prefix(root()).unwrap_or(path);
    println!("wrote {}", shown.display());
    Ok(())
}
