//! `cargo xtask package`: tests the published crates as `cargo package` makes them, outside the
//! workspace.
//!
//! A file that is missing from a package, a lost development dependency, or a path out of the crate
//! works in the workspace, but not for someone who downloads the crate.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::execute;

/// The published crates in the order of publication, and the features that their tests need.
const PUBLISHED: [(&str, &[&str]); 5] = [
    ("gradclip", &["--features", "half"]),
    ("gradclip-judge", &[]),
    ("gradclip-suite", &[]),
    ("gradclip-burn", &[]),
    ("gradclip-candle", &[]),
];

/// Files that each package must contain.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Packs, unpacks and tests the crates.
pub(crate) fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let scratch = root.join("target/package/unpacked");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    // Without its own verification, which only builds the libraries.
    let mut package = Command::new("cargo");
    package.args(["package", "--no-verify", "--allow-dirty", "--quiet"]);
    package.args(PUBLISHED.iter().flat_map(|(name, _)| ["--package", name]));
    execute(package.current_dir(&root))?;
    let mut workspace = String::from("[workspace]\nresolver = \"3\"\nmembers = [\"*-*\"]\n\n");
    workspace.push_str("[patch.crates-io]\n");
    for (name, _) in PUBLISHED {
        // All crates of the workspace have one version.
        let folder = format!("{name}-{}", env!("CARGO_PKG_VERSION"));
        let mut tar = Command::new("tar");
        // With new modification times: all packages have the same, by which cargo would take a
        // changed crate for the one that it built before.
        tar.arg("-xzmf")
            .arg(root.join(format!("target/package/{folder}.crate")));
        execute(tar.current_dir(&scratch))?;
        for file in FILES {
            let packed = fs::read(scratch.join(&folder).join(file));
            let packed = packed.map_err(|error| format!("{folder}/{file}: {error}"))?;
            if file.starts_with("LICENSE")
                && packed != fs::read(root.join(file)).unwrap_or_default()
            {
                return Err(format!("{folder}/{file} is not that of the workspace"));
            }
        }
        workspace.push_str(&format!("{name} = {{ path = \"{folder}\" }}\n"));
    }
    write(&scratch.join("Cargo.toml"), workspace.as_bytes())?;
    // The same versions as in all other tests.
    let lock = fs::read(root.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    write(&scratch.join("Cargo.lock"), &lock)?;
    for (name, features) in PUBLISHED {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--quiet", "--package", name]);
        cargo.args(features);
        cargo.current_dir(&scratch);
        cargo.env("CARGO_TARGET_DIR", root.join("target/package/target"));
        // Only the corpus; the search runs in the workspace.
        execute(cargo.env("SHEARS_FUZZ_SECONDS", "1"))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
