//! Opens only regular files: anybody may have created the files in a run's folder, and a FIFO would
//! wait for a writer, a device may be endless.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file, or a link to one, to read it.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if it is something else, or the system's error.
pub fn open_regular(path: &Path) -> io::Result<File> {
    check_regular(path)?;
    File::open(path)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
///
/// As [`open_regular`]; [`ErrorKind::InvalidData`] if it is larger; [`ErrorKind::OutOfMemory`] if
/// there is no memory for it.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let too_large = || io::Error::new(ErrorKind::InvalidData, format!("has over {limit} bytes"));
    if length > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(length).map_err(|_| too_large())?;
    // One byte more, so that reading to the end of the file does not allocate again.
    let reserved = bytes.try_reserve_exact(size.saturating_add(1));
    reserved.map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

/// As [`read_regular`], decoded as UTF-8.
///
/// # Errors
///
/// As [`read_regular`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_regular_text(path: &Path, limit: u64) -> io::Result<String> {
    let bytes = read_regular(path, limit)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not UTF-8"))
}

/// Opens a file of a run's folder to write it, or creates it. A link is refused: what it leads to
/// may be anybody's.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if it is no file of the folder itself, or the system's error.
pub(crate) fn open_own(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let problem = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => "it is a link; put a copy of the file in its place",
        Ok(found) if !found.is_file() => "it is not a regular file",
        _ => return options.open(path),
    };
    Err(io::Error::new(ErrorKind::InvalidInput, problem))
}

/// Refuses a path that exists and is neither a regular file nor a link to one.
///
/// # Errors
///
/// As [`open_regular`].
pub fn check_regular(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_regular_text(&path, 4).unwrap(), "four");
        let error = read_regular(&path, 3).unwrap_err();
        assert!(error.to_string().contains("over 3 bytes"), "{error}");
        let error = open_regular(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = open_regular(&folder.path().join("absent")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_refused_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = read_regular(&path, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let log = crate::Log::read(path.clone()).unwrap_err();
        assert!(log.to_string().contains("events.jsonl"), "{log}");
        assert_eq!(crate::Glance::at(&path).step, None);
    }
}
