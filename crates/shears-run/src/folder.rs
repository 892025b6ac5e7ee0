//! The folder of a file.

use std::fs::File;
use std::io;
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
