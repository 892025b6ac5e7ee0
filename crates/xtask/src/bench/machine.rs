//! The machine and the versions of a measurement.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A machine, and the versions of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    /// The vector instructions that kernels choose from at run time.
    pub(super) instructions: Vec<String>,
    pub(super) system: String,
    pub(super) rustc: String,
    pub(super) torch: String,
    /// The day, as `2026-11-24`.
    pub(super) date: String,
    /// The commit; older measurements do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
}

impl Machine {
    /// This machine, with the PyTorch of the given interpreter.
    pub(super) fn this(python: &Path) -> Result<Machine, String> {
        let torch = "import torch; print(torch.__version__)";
        let torch = first_line(Command::new(python).args(["-c", torch]))?;
        Ok(Machine {
            torch,
            ..Machine::without_pytorch()?
        })
    }

    /// This machine.
    pub(super) fn without_pytorch() -> Result<Machine, String> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let rustc = first_line(Command::new("rustc").arg("--version"))?;
        let cores = std::thread::available_parallelism();
        Ok(Machine {
            processor: processor(&cpuinfo),
            cores: cores.map_or(1, usize::from),
            instructions: instructions(&cpuinfo),
            system: system(&os_release),
            rustc: rustc.split(' ').nth(1).unwrap_or(&rustc).to_string(),
            torch: "none".to_string(),
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%d"]))?,
            commit: first_line(Command::new("git").args(["describe", "--always", "--dirty"])).ok(),
        })
    }

    /// The processor as a part of a file's name.
    pub(super) fn slug(&self) -> String {
        let words = self.processor.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.join("-").to_lowercase()
    }

    /// The machine in one sentence.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} with {} cores ({}), {}; rustc {}, PyTorch {}; {}",
            self.processor,
            self.cores,
            self.instructions.join(", "),
            self.system,
            self.rustc,
            self.torch,
            self.when()
        )
    }

    /// The day, and the commit where it is known.
    pub(super) fn when(&self) -> String {
        match &self.commit {
            Some(commit) => format!("{}, commit {commit}", self.date),
            None => self.date.clone(),
        }
    }
}

/// The model, with family and number where the name alone says little.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim().to_string())
    };
    let Some(name) = field("model name") else {
        return format!("{} processor", std::env::consts::ARCH);
    };
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

fn system(os_release: &str) -> String {
    let pretty = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = pretty.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    match first_line(Command::new("uname").arg("-sr")) {
        Ok(kernel) => format!("{name}, {kernel}"),
        Err(_) => name.to_string(),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions(cpuinfo: &str) -> Vec<String> {
    let found = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX512-BF16", is_x86_feature_detected!("avx512bf16")),
        // The standard library does not detect it yet.
        ("AMX", cpuinfo.contains(" amx_bf16")),
    ];
    let present = found.into_iter().filter(|(_, present)| *present);
    present.map(|(name, _)| name.to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions(_cpuinfo: &str) -> Vec<String> {
    vec![std::env::consts::ARCH.to_string()]
}

/// The first line that a command prints.
pub(super) fn first_line(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().filter(|_| output.status.success());
    line.map(str::to_string).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        format!("{name} failed: {}", complaint.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_named_as_precisely_as_it_can_be() {
        let cpuinfo = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(processor(cpuinfo), "AMD EPYC (family 25, model 1)");
        assert!(processor("").ends_with("processor"));
        let machine = Machine {
            processor: processor(cpuinfo),
            ..crate::bench::peers::tests::machine()
        };
        assert_eq!(machine.slug(), "amd-epyc-family-25-model-1");
    }
}
