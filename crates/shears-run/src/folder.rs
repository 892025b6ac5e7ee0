//! Folders and files that are durable, and new.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

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
///
/// # Errors
///
/// The system's error.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
        create_anew(&name).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&name).unwrap(), "new");
    }
}
