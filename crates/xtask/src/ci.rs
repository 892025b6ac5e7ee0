//! `cargo xtask ci`: everything that continuous integration checks, in its order.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of each check, and its arguments to cargo.
const CHECKS: [(&str, &str); 7] = [
    ("format", "fmt --all --check"),
    // Without building them, which takes a nightly compiler. The index of packages is known offline,
    // because those of the fuzz targets are among the workspace's.
    (
        "lock file of the fuzz targets (to mend it, repeat this without --locked)",
        "update --workspace --locked --offline --manifest-path fuzz/Cargo.toml",
    ),
    (
        "clippy",
        "clippy --release --workspace --all-targets --features xtask/peers -- -D warnings",
    ),
    (
        "documentation",
        "doc --release --workspace --no-deps --document-private-items",
    ),
    (
        "gradclip without dependencies",
        "check --release --package gradclip",
    ),
    (
        "gradclip without the standard library",
        "check --release --package gradclip --no-default-features --features libm",
    ),
    (TESTS, "test --release --workspace"),
];

/// The tests use MPI if it can be built, in one build with all others: a second build with one more
/// feature would rebuild Burn.
const TESTS: &str = "tests";
const MPI: &str = "shears/mpi";
/// The examples that only `cargo xtask bench` builds.
const PEERS: &str = "xtask/peers";

/// Whether the MPI binding can be built, which needs an MPI compiler and libclang.
fn has_mpi() -> bool {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let holds_clang = |folder: &Path| {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("libclang")
        })
    };
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")];
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    // Folders of versions and platforms.
    let entries = Path::new("/usr/lib").read_dir().into_iter().flatten();
    let versions = entries.flatten().map(|entry| entry.path());
    folders.extend(versions.flat_map(|path| [path.join("lib"), path]));
    runs("mpicc") && folders.iter().any(|folder| holds_clang(folder))
}

/// Only run with a driver, because it builds Burn a second time.
const WGPU_TEST: (&str, &str) = (
    "tests on a wgpu device",
    "test --release --package gradclip-burn --features wgpu --test wgpu",
);

/// Where Vulkan drivers are registered.
const VULKAN_DRIVERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Runs the checks until one fails.
pub(crate) fn run() -> Result<(), String> {
    let has_driver = |folder: &str| {
        let mut entries = Path::new(folder).read_dir().into_iter().flatten();
        entries.next().is_some()
    };
    let wgpu_test = VULKAN_DRIVERS
        .iter()
        .any(|folder| has_driver(folder))
        .then_some(WGPU_TEST);
    let has_mpi = has_mpi();
    for (name, arguments) in CHECKS.into_iter().chain(wgpu_test) {
        let mut arguments = arguments.to_string();
        if has_mpi && name == TESTS {
            arguments += &format!(" --features {MPI}");
        }
        if has_mpi {
            arguments = arguments.replace(PEERS, &format!("{PEERS},{MPI}"));
        }
        println!("== {name}: cargo {arguments}");
        let mut cargo = Command::new("cargo");
        cargo.args(arguments.split(' '));
        crate::execute(cargo.env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    println!("== what is published: cargo xtask package");
    crate::package::run()?;
    println!("== machine code: cargo xtask asm");
    // The program of the tests: other features would rebuild Burn.
    crate::asm::run(Some(&crate::bench::built_shears()?))?;
    if !has_mpi {
        println!("== tests with several processes: skipped, there is no mpicc or no libclang");
    }
    if wgpu_test.is_none() {
        println!("== {}: skipped, there is no Vulkan driver", WGPU_TEST.0);
    }
    println!("== all checks passed");
    Ok(())
}
