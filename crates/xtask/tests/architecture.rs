//! Checks the invariants of ARCHITECTURE.md: which crate may know what, and that the map is
//! correct.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The platform that this test was built on, as rustc calls it.
fn host() -> String {
    let text = output(Command::new("rustc").arg("-vV"));
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.unwrap().to_string()
}

/// What a program prints in the root of the workspace; it has to succeed.
fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The normal dependencies of each crate of the workspace, with all that they bring.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    // Packages of other platforms were never downloaded on a fresh machine.
    cargo.args(["--filter-platform", &host()]);
    let metadata: Value = serde_json::from_str(&output(&mut cargo)).unwrap();
    let mut names = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        names.insert(
            package["id"].as_str().unwrap(),
            package["name"].as_str().unwrap(),
        );
    }
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let normal = node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| {
                dependency["dep_kinds"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            });
        let targets = normal
            .map(|dependency| dependency["pkg"].as_str().unwrap())
            .collect();
        edges.insert(node["id"].as_str().unwrap(), targets);
    }
    let members = metadata["workspace_members"].as_array().unwrap();
    members
        .iter()
        .map(|member| {
            let mut reached = BTreeSet::new();
            let mut open = edges[member.as_str().unwrap()].clone();
            while let Some(id) = open.pop() {
                if reached.insert(id) {
                    open.extend(&edges[id]);
                }
            }
            let reached = reached
                .into_iter()
                .map(|id| names[id].to_string())
                .collect();
            (names[member.as_str().unwrap()].to_string(), reached)
        })
        .collect()
}

fn crates() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn dependencies_follow_the_map() {
    let dependencies = dependencies();
    let knows = |user: &str, what: &str| dependencies[user].contains(what);
    // The resolved graph has the features that the adapters turn on, so the manifest is asked.
    let manifest: toml::Table = toml::from_str(&read("crates/gradclip/Cargo.toml")).unwrap();
    for (name, dependency) in manifest["dependencies"].as_table().unwrap() {
        let optional = dependency.get("optional").and_then(toml::Value::as_bool);
        assert_eq!(optional, Some(true), "gradclip always brings {name}");
    }
    let features = manifest["features"].as_table().unwrap();
    assert_eq!(features["default"], vec!["std"].into());
    assert_eq!(features["std"], toml::Value::Array(Vec::new()));
    for (user, what) in [
        ("gradclip-burn", "shears-model"),
        ("gradclip-burn", "shears-train"),
        ("gradclip-candle", "burn"),
        ("gradclip-candle", "shears-train"),
        ("gradclip-burn", "candle-core"),
        ("shears-run", "burn"),
        ("shears-run", "shears-model"),
        ("shears-dash", "burn"),
        ("shears-dash", "burn-core"),
        ("shears-dash", "candle-core"),
        ("shears-dash", "shears-train"),
        ("shears-train", "shears-dash"),
        ("shears-data", "burn"),
        ("shears-data", "burn-core"),
        ("shears-model", "shears-data"),
        ("shears-model", "shears-train"),
        ("shears-generate", "shears-train"),
        ("shears-train", "shears-generate"),
        ("shears-kernels", "shears-model"),
    ] {
        assert!(!knows(user, what), "{user} must not know {what}");
    }
    // It knows the kernels, whose scan of gradients serves `gradclip`, but it does not clip.
    let model = read("crates/shears-model/Cargo.toml");
    assert!(!model.contains("gradclip"), "shears-model must not clip");
    for user in dependencies.keys().filter(|user| *user != "shears") {
        let manifest = read(&format!("crates/{user}/Cargo.toml"));
        let normal = manifest.split("[dev-dependencies]").next().unwrap();
        // The resolved graph cannot tell: features are unified over the workspace, and `anyhow`
        // may come with a library that uses it inside.
        for what in ["clap", "anyhow", "indicatif", "flex", "cuda", "wgpu"] {
            // The kernels are those of the CPU device, and xtask is a program.
            if [("shears-kernels", "flex"), ("xtask", "clap")].contains(&(user.as_str(), what)) {
                continue;
            }
            let mut words = normal.split(|c: char| !c.is_alphanumeric());
            assert!(
                !words.any(|word| word == what),
                "{user} must not know {what}"
            );
        }
    }
}

/// Each package that a selection of the workspace builds, with its features.
fn built(selection: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--target", &host()]);
    cargo.args(["--prefix", "none", "--format", "{p} {f}"]);
    let text = output(cargo.args(selection));
    text.lines()
        .map(|line| line.trim_end_matches(" (*)").trim().to_string())
        .filter(|line| !line.is_empty())
        .collect()
}

/// With one more feature, a package and everything that depends on it would be rebuilt, including
/// Burn.
#[test]
fn the_tests_find_the_dependencies_of_the_program_built() {
    let program = built(&["--package", "shears", "--edges", "normal,build"]);
    let tests = built(&["--workspace", "--edges", "normal,build,dev"]);
    let twice: Vec<_> = program.difference(&tests).collect();
    assert!(
        twice.is_empty(),
        "the tests have more features of these; crates/shears/Cargo.toml needs them too: {twice:#?}"
    );
}

#[test]
fn every_crate_is_on_the_map_and_the_map_has_no_other() {
    let map = read("ARCHITECTURE.md");
    let rows = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let named: BTreeSet<String> = rows.map(str::to_string).collect();
    assert_eq!(named, crates());
    let readme = read("README.md");
    for name in crates() {
        assert!(
            readme.contains(&format!("{name}/")),
            "README's tree lacks {name}"
        );
    }
}

/// The crates of the workspace in the manifest of each crate, without dev-dependencies.
fn direct_edges() -> BTreeMap<String, BTreeSet<String>> {
    let members = crates();
    let edges = |name: &String| {
        let manifest: toml::Table =
            toml::from_str(&read(&format!("crates/{name}/Cargo.toml"))).unwrap();
        let named = manifest.get("dependencies").and_then(toml::Value::as_table);
        let names = named.into_iter().flat_map(toml::Table::keys);
        let own = names.filter(|name| members.contains(*name)).cloned();
        (name.clone(), own.collect())
    };
    members.iter().map(edges).collect()
}

/// Each line of the drawing is `crate -> what it names`, and names only crates of lines below it.
#[test]
fn the_edges_between_crates_are_as_drawn() {
    let text = read("ARCHITECTURE.md");
    let drawing = text.split("```text\n").nth(1).unwrap();
    let drawing = drawing.split("```").next().unwrap();
    let mut drawn = BTreeMap::new();
    let mut below: BTreeSet<String> = crates();
    for line in drawing.lines() {
        let (name, targets) = line.split_once("->").unwrap_or((line, ""));
        let name = name.trim().to_string();
        assert!(
            below.remove(&name),
            "{name} is not a crate, or is drawn below one that names it"
        );
        let targets = targets.split(',').map(str::trim);
        let targets: BTreeSet<String> = targets
            .filter(|target| !target.is_empty())
            .map(str::to_string)
            .collect();
        assert!(
            targets.is_subset(&below),
            "{name} names a crate of a line above it"
        );
        drawn.insert(name, targets);
    }
    assert_eq!(drawn, direct_edges());
}

/// `unsafe` is forbidden everywhere except in the crate of the kernels, which documents why each
/// block is sound, and otherwise has the same lints as all.
#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let workspace: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let lints = workspace["workspace"]["lints"].clone();
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for name in crates().iter().filter(|name| *name != "shears-kernels") {
        let manifest = read(&format!("crates/{name}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
    }
    let kernels: toml::Table = toml::from_str(&read("crates/shears-kernels/Cargo.toml")).unwrap();
    let mut own = kernels["lints"].clone();
    let own_rust = own["rust"].as_table_mut().unwrap();
    assert!(own_rust.remove("unsafe_code").is_some());
    assert_eq!(
        own_rust.remove("unsafe_op_in_unsafe_fn").unwrap().as_str(),
        Some("deny")
    );
    let own_clippy = own["clippy"].as_table_mut().unwrap();
    let documented = own_clippy.remove("undocumented_unsafe_blocks").unwrap();
    assert_eq!(documented.as_str(), Some("deny"));
    let mut expected = lints;
    expected["rust"]
        .as_table_mut()
        .unwrap()
        .remove("unsafe_code");
    assert_eq!(own, expected);
}

/// Those of the page, without what is vendored.
#[test]
fn assets_have_lines_and_sizes_that_can_be_read() {
    let folder = root().join("crates/shears-dash/assets");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 500, "{}", path.display());
        for (number, line) in text.lines().enumerate() {
            let width = line.chars().count();
            assert!(
                width <= 100,
                "{}:{}: {width} columns",
                path.display(),
                number + 1
            );
        }
        checked += 1;
    }
    assert!(checked > 10, "only {checked} files were found");
}

#[test]
fn files_are_of_a_size_that_can_be_read() {
    let mut open = vec![root().join("crates")];
    let mut checked = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let in_source = path.components().any(|part| part.as_os_str() == "src");
        if !in_source || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().count();
        assert!(
            lines <= 500,
            "{} has {lines} lines without its tests",
            path.display()
        );
        for banned in ["base.rs", "common.rs", "helpers.rs", "utils.rs", "mod.rs"] {
            assert!(
                !path.ends_with(banned),
                "{} says nothing by its name",
                path.display()
            );
        }
        checked += 1;
    }
    assert!(checked > 30, "only {checked} files were found");
}

/// The places where a text names something as `word`, followed by `::`.
fn names(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = text.match_indices(word);
    found.any(|(place, _)| {
        let is_whole = !text[..place].ends_with(is_part);
        is_whole && text[place + word.len()..].starts_with("::")
    })
}

/// The names of the dependencies in a manifest, as the code has them.
fn dependencies_in(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = toml::from_str(&read(manifest)).unwrap();
    let tables = ["dependencies", "dev-dependencies"];
    let tables = tables
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table());
    let names = tables.flat_map(toml::Table::keys);
    names.map(|name| name.replace('-', "_")).collect()
}

/// A file without its tests and comments, and the same of its modules in files of their own.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut code: String = lines.flat_map(|line| [line, "\n"]).collect();
    let modules: Vec<String> = code
        .lines()
        .filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'))
        .map(|name| format!("{name}.rs"))
        .collect();
    for name in modules {
        let places = [
            path.with_extension("").join(&name),
            path.with_file_name(&name),
        ];
        let there = places.iter().find(|place| place.is_file());
        code += &there.map_or(String::new(), |place| code_of(place));
    }
    code
}

/// `fuzz` is no member of the workspace, so nothing else compiles it on a stable compiler.
#[test]
fn the_fuzz_crate_has_what_the_files_in_it_name() {
    let library = read("fuzz/src/lib.rs");
    let there = dependencies_in("fuzz/Cargo.toml");
    let paths = library
        .lines()
        .filter_map(|line| line.strip_prefix("#[path = \"../../"));
    let mut checked = 0;
    for path in paths.map(|path| path.trim_end_matches("\"]")) {
        let code = code_of(&root().join(path));
        let owner = path.split('/').nth(1).unwrap();
        let mut known = dependencies_in(&format!("crates/{owner}/Cargo.toml"));
        known.insert(owner.replace('-', "_"));
        let lacking = known.difference(&there).find(|name| names(&code, name));
        assert_eq!(
            lacking, None,
            "fuzz/Cargo.toml lacks it, and {path} names it"
        );
        for rest in code.split("crate::").skip(1) {
            let name = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            let is_module = rest[name.len()..].starts_with("::");
            let declared = [format!("mod {name};"), format!("mod {name} {{")];
            assert!(
                !is_module || declared.iter().any(|line| library.contains(line)),
                "fuzz/src/lib.rs lacks the module {name}, which {path} names"
            );
        }
        checked += 1;
    }
    assert!(checked > 10, "only {checked} files were found");
}
