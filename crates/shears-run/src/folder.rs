//! Folders and files that are durable, and new.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// The step of a checkpoint, from the name of its folder.
#[must_use]
pub fn checkpoint_step(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix("step-")?.parse().ok()
}

/// The folder of a path; for a bare name, the working directory.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// Makes new names in a folder durable. Only Unix lets a folder be opened and synced.
///
/// # Errors
///
/// The system's error.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

/// Creates a folder and those above it that are missing, and makes their names durable.
///
/// # Errors
///
/// The system's error.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    let is_missing = |above: &&Path| *above != Path::new("") && !above.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(folder)?;
    missing.into_iter().map(folder_of).try_for_each(sync_folder)
}

/// Creates a file in the folder of a run, in place of what a killed program or a stranger may have
/// left under its name: a link would lead elsewhere, and opening a FIFO would wait for a reader.
pub(crate) fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

/// Writes a file in the folder of a run to disk, in place of whatever has its name.
///
/// # Errors
///
/// The system's error.
pub fn write_anew(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_anew(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file in the folder of a run, durably and whole or not at all.
///
/// # Errors
///
/// The system's error.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(".tmp");
    write_anew(Path::new(&temporary), bytes)?;
    fs::rename(temporary, path)?;
    sync_folder(folder_of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_created_with_those_above_them() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a/b/c");
        create_folders(&folder).unwrap();
        create_folders(&folder).unwrap();
        assert!(folder.is_dir());
        fs::write(scratch.path().join("file"), "").unwrap();
        assert!(create_folders(&scratch.path().join("file/below")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_under_the_name_of_a_new_file_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let [precious, name] = ["precious", "plan.toml.tmp"].map(|name| scratch.path().join(name));
        fs::write(&precious, "mine").unwrap();
        std::os::unix::fs::symlink(&precious, &name).unwrap();
        write_anew(&name, b"new").unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "new");
        // Nor one under the temporary name.
        fs::remove_file(&name).unwrap();
        std::os::unix::fs::symlink(&precious, &name).unwrap();
        let plan = scratch.path().join("plan.toml");
        replace_file(&plan, b"newer").unwrap();
        assert_eq!(fs::read_to_string(&plan).unwrap(), "newer");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
        assert!(!name.exists());
    }
}
