//! `cargo xtask lines [BEFORE]`: counts the lines of each crate, code and tests separately, now and
//! at an earlier commit.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::markdown;

/// The lines of code and of tests of each crate, and of all.
type Lines = BTreeMap<String, [usize; 2]>;

/// Prints the table, in Markdown.
pub(crate) fn run(before: Option<&str>) -> Result<(), String> {
    let revisions: Vec<&str> = before.into_iter().chain(["HEAD"]).collect();
    let counted: Result<Vec<Lines>, String> = revisions.iter().map(|at| count(at)).collect();
    println!("{}", table(&revisions, &counted?));
    Ok(())
}

/// Counts the lines at a commit.
fn count(revision: &str) -> Result<Lines, String> {
    let files = git(&["ls-tree", "-r", "--name-only", revision, "--", "crates"])?;
    let mut counted = Lines::new();
    for path in files.lines().filter(|path| path.ends_with(".rs")) {
        let text = git(&["show", &format!("{revision}:{path}")])?;
        let all = text.lines().count();
        let code = match is_test(path) {
            true => 0,
            // Unit tests are at the end of their file.
            false => start_of_tests(&text).map_or(all, |start| text[..start].lines().count()),
        };
        for name in [path.split('/').nth(1).unwrap_or(path), "all"] {
            let lines = counted.entry(name.to_string()).or_default();
            *lines = [lines[0] + code, lines[1] + all - code];
        }
    }
    Ok(counted)
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

fn table(revisions: &[&str], counted: &[Lines]) -> String {
    let heads = revisions
        .iter()
        .map(|at| [format!("code at {at}"), "tests".into()]);
    let head = ["crate".to_string()].into_iter().chain(heads.flatten());
    let names: BTreeSet<&String> = counted.iter().flat_map(BTreeMap::keys).collect();
    let rows = names.into_iter().map(|name| {
        let cells = counted.iter().map(|lines| lines.get(name).copied());
        let cells = cells.flat_map(|lines| lines.unwrap_or_default().map(|some| some.to_string()));
        [name.clone()]
            .into_iter()
            .chain(cells)
            .collect::<Vec<String>>()
    });
    let below = format!("|---|{}", "--:|--:|".repeat(revisions.len()));
    markdown::table(head, &below, rows)
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
