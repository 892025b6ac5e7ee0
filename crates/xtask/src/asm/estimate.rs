//! Estimates the cycles of a loop with llvm-mca.

use std::io::Write;
use std::process::{Command, Stdio};

use super::kernels::Set;
use super::report::Loop;

/// Processors with an instruction set, by the names that LLVM and people use.
fn processors(set: Set) -> &'static [(&'static str, &'static str)] {
    match set {
        Set::Amx => &[("sapphirerapids", "Sapphire Rapids")],
        Set::Avx512 => &[("sapphirerapids", "Sapphire Rapids"), ("znver4", "Zen 4")],
        Set::Avx2 | Set::Portable => &[
            ("sapphirerapids", "Sapphire Rapids"),
            ("znver3", "Zen 3"),
            ("znver4", "Zen 4"),
        ],
    }
}

/// Whether there is llvm-mca.
pub(super) fn is_possible() -> bool {
    Command::new("llvm-mca").arg("--version").output().is_ok()
}

/// Cycles of one iteration on each processor, in words.
pub(super) fn of(one: &Loop<'_>) -> String {
    let lines: Vec<&str> = one.code.iter().map(|one| one.source()).collect();
    let source = lines.join("\n");
    let estimates =
        processors(one.set)
            .iter()
            .map(|(processor, name)| match cycles(&source, processor) {
                Ok(cycles) => {
                    let multiplications = one.multiplications as f64 / cycles;
                    format!(
                        "{name} {cycles:.1} cycles ({multiplications:.2} multiplications a cycle)"
                    )
                }
                Err(why) => format!("{name} skipped: {why}"),
            });
    estimates.collect::<Vec<_>>().join(", ")
}

fn cycles(source: &str, processor: &str) -> Result<f64, String> {
    let mut command = Command::new("llvm-mca");
    command.args(["-mtriple=x86_64", "-iterations=100"]);
    command.arg(format!("-mcpu={processor}"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it does not know the processor, it exits before reading its input; the error is
        // reported below.
        let _ = stdin.write_all(source.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("not a recognized processor") {
        return Err(format!("this llvm-mca does not know {processor}"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    total(&text).map(|total| total / 100.0).ok_or_else(|| {
        let line = complaint.lines().next().unwrap_or("no answer");
        line.to_string()
    })
}

fn total(output: &str) -> Option<f64> {
    let mut lines = output.lines();
    let total = lines.find_map(|line| line.strip_prefix("Total Cycles:"))?;
    total.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn cycles_are_read() {
        let output = "Iterations:        100\nInstructions:      18300\nTotal Cycles:      6078\n";
        assert_eq!(super::total(output), Some(6078.0));
        assert_eq!(super::total("error"), None);
    }
}
