//! `cargo xtask lines [BEFORE]`: counts the lines of each crate, code and tests separately, now and
//! at an earlier commit.

use std::collections::BTreeMap;
use std::process::Command;

use crate::markdown;

/// Lines of Rust.
#[derive(Clone, Copy, Default)]
struct Lines {
    code: usize,
    tests: usize,
}

/// Prints the table, in Markdown.
pub(crate) fn run(before: Option<&str>) -> Result<(), String> {
    let revisions: Vec<&str> = before.into_iter().chain(["HEAD"]).collect();
    let counted: Result<Vec<_>, String> = revisions.iter().map(|at| count(at)).collect();
    println!("{}", table(&revisions, &counted?));
    Ok(())
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
            // Unit tests are at the end of their file.
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

/// Whether the whole file is for tests, benchmarks or fuzzing.
fn is_test(path: &str) -> bool {
    let mut parts = path.split('/').skip(2);
    parts.any(|part| {
        matches!(
            part,
            "tests" | "tests.rs" | "testing.rs" | "benches" | "fuzz" | "fuzz.rs"
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
    let heads = revisions
        .iter()
        .map(|at| [format!("code at {at}"), "tests".into()]);
    let head = ["crate".to_string()].into_iter().chain(heads.flatten());
    let mut names: Vec<&String> = counted.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    let sum = |crates: &BTreeMap<String, Lines>, is_counted: &dyn Fn(&str) -> bool| {
        let its = crates.iter().filter(|(name, _)| is_counted(name));
        let sum = its.fold([0, 0], |[code, tests], (_, lines)| {
            [code + lines.code, tests + lines.tests]
        });
        sum.map(|lines| lines.to_string())
    };
    let row = |label: &str, is_counted: &dyn Fn(&str) -> bool| {
        let cells = counted.iter().flat_map(|crates| sum(crates, is_counted));
        [label.to_string()]
            .into_iter()
            .chain(cells)
            .collect::<Vec<String>>()
    };
    let rows = names
        .iter()
        .map(|crate_| row(crate_, &|name| name == crate_.as_str()));
    let rows = rows.chain([row("all", &|_| true)]);
    markdown::table(
        head,
        &format!("|---|{}", "--:|--:|".repeat(revisions.len())),
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::is_test;

    #[test]
    fn tests_are_recognised_by_their_path() {
        assert!(is_test("crates/gradclip/tests/golden.rs"));
        assert!(is_test("crates/shears-kernels/src/matmul/tests.rs"));
        assert!(!is_test("crates/shears-kernels/src/matmul.rs"));
        assert!(!is_test("crates/tests/src/lib.rs"));
    }
}
