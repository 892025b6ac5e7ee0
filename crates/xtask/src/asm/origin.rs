//! The source of an instruction, through all functions that were inlined into each other.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The folder of the sources of the kernels.
const KERNELS: &str = "shears-kernels/src/";

/// A function of the kernels that contains an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The path below the sources of the kernels, such as `matmul/tile.rs`.
    pub(super) file: String,
    /// The name with type parameters and without path.
    pub(super) function: String,
}

/// The frames of each address, innermost first; none outside the kernels.
pub(super) fn of(program: &Path, addresses: &[u64]) -> Result<HashMap<u64, Vec<Frame>>, String> {
    let mut command = Command::new("addr2line");
    command.args(["--addresses", "--inlines", "--functions", "--demangle"]);
    command.arg("--exe").arg(program);
    command.args(addresses.iter().map(|address| format!("{address:x}")));
    let output = command.output();
    let output = output.map_err(|error| format!("cannot start addr2line: {error}"))?;
    if !output.status.success() {
        return Err("addr2line failed".to_string());
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// A line with an address is followed by two lines for each frame: a function, and a file with a
/// line.
fn parse(output: &str) -> HashMap<u64, Vec<Frame>> {
    let mut origins: HashMap<u64, Vec<Frame>> = HashMap::new();
    let mut lines = output.lines();
    let mut address = 0;
    while let Some(line) = lines.next() {
        if let Some(number) = line.strip_prefix("0x") {
            address = u64::from_str_radix(number, 16).unwrap_or_default();
            continue;
        }
        let place = lines.next().unwrap_or_default();
        if let Some((_, place)) = place.split_once(KERNELS) {
            let file = place.split(':').next().unwrap_or_default().to_string();
            let function = line.to_string();
            let frame = Frame { file, function };
            origins.entry(address).or_default().push(frame);
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::{Frame, parse};

    #[test]
    fn frames_of_kernels_are_found() {
        let output = "0x0000000000b9ff74\n\
            _mm512_fmadd_ps\n/rust/pulp/src/core_arch/mod.rs:45\n\
            exp<pulp::x86::v4::V4>\n/shears/crates/shears-kernels/src/math.rs:46\n\
            with_simd<pulp::x86::v4::V4>\n/shears/crates/shears-kernels/src/loss/kernel.rs:155 (discriminator 2)\n\
            0x0000000000000010\n??\n??:0\n";
        let origins = parse(output);
        let frame = |file: &str, function: &str| Frame {
            file: file.to_string(),
            function: function.to_string(),
        };
        let expected = vec![
            frame("math.rs", "exp<pulp::x86::v4::V4>"),
            frame("loss/kernel.rs", "with_simd<pulp::x86::v4::V4>"),
        ];
        assert_eq!(
            origins.into_iter().collect::<Vec<_>>(),
            [(0xb9ff74, expected)]
        );
    }
}
