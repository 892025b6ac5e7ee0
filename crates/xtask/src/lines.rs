//! `cargo xtask lines [BEFORE]`: how long each crate is, code and tests apart, now and at an
//! earlier commit.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

/// Lines of Rust.
#[derive(Clone, Copy, Default)]
struct Lines {
    code: usize,
    tests: usize,
}

/// Prints the table, in Markdown.
pub(crate) fn run(before: Option<&str>) -> ExitCode {
    let revisions: Vec<&str> = before.into_iter().chain(["HEAD"]).collect();
    let counted: Result<Vec<_>, String> = revisions.iter().map(|at| count(at)).collect();
    match counted {
        Ok(counted) => {
            print!("{}", table(&revisions, &counted));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask lines: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The lines of each crate at a commit.
fn count(revision: &str) -> Result<BTreeMap<String, Lines>, String> {
    let files = git(&["ls-tree", "-r", "--name-only", revision, "--", "crates"])?;
    let mut crates: BTreeMap<String, Lines> = BTreeMap::new();
    for path in files.lines().filter(|path| path.ends_with(".rs")) {
        let text = git(&["show", &format!("{revision}:{path}")])?;
        let name = path.split('/').nth(1).unwrap_or(path);
        let lines = crates.entry(name.to_string()).or_default();
        let all = text.lines().count();
        let code = match is_test(path) {
            true => 0,
            // Unit tests stand at the end of their file.
            false => start_of_tests(&text).map_or(all, |start| text[..start].lines().count()),
        };
        lines.code += code;
        lines.tests += all - code;
    }
    Ok(crates)
}

/// Where the unit tests of a file begin.
fn start_of_tests(text: &str) -> Option<usize> {
    ["mod", "pub(super) mod", "pub(crate) mod"]
        .iter()
        .find_map(|module| text.find(&format!("\n#[cfg(test)]\n{module} tests {{\n")))
}

/// Whether the whole file is for tests: theirs, benchmarks, fuzzing.
fn is_test(path: &str) -> bool {
    let mut parts = path.split('/').skip(2);
    parts.any(|part| {
        matches!(
            part,
            "tests" | "tests.rs" | "testing.rs" | "benches" | "fuzz"
        )
    })
}

fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").args(arguments).output();
    let output = output.map_err(|error| format!("cannot start git: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

fn table(revisions: &[&str], counted: &[BTreeMap<String, Lines>]) -> String {
    let mut text = String::from("| crate |");
    for revision in revisions {
        text += &format!(" code at {revision} | tests |");
    }
    text += "\n|---|";
    text += &"--:|--:|".repeat(revisions.len());
    let mut names: Vec<&String> = counted.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    for name in names {
        text += &format!("\n| {name} |");
        for crates in counted {
            let lines = crates.get(name).copied().unwrap_or_default();
            text += &format!(" {} | {} |", lines.code, lines.tests);
        }
    }
    text += "\n| all |";
    for crates in counted {
        let code: usize = crates.values().map(|lines| lines.code).sum();
        let tests: usize = crates.values().map(|lines| lines.tests).sum();
        text += &format!(" {code} | {tests} |");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::is_test;

    #[test]
    fn tests_are_told_by_their_place() {
        assert!(is_test("crates/gradclip/tests/golden.rs"));
        assert!(is_test("crates/shears-kernels/src/matmul/tests.rs"));
        assert!(!is_test("crates/shears-kernels/src/matmul.rs"));
        assert!(!is_test("crates/tests/src/lib.rs"));
    }
}
