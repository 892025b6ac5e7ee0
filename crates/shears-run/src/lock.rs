//! The lock of a folder, which lets one program at a time write to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::RunError;
use crate::regular::{open_own, open_regular};

/// The locked file.
const FILE: &str = ".lock";
/// After a lock file was touched, only its trainer asks for the lock for this long: a trainer
/// creates the file and takes the lock a moment later, and must not find it taken.
const GRACE: Duration = Duration::from_secs(2);

/// Locks a folder until the returned file is dropped; the system releases the lock when the process
/// ends, however it ends. If another program has it, the error says `taken`.
///
/// # Errors
///
/// [`RunError::Locked`] if another program has it.
pub fn lock_folder(folder: &Path, taken: &str) -> Result<File, RunError> {
    let path = folder.join(FILE);
    let file = open_to_lock(&path).map_err(RunError::io("lock", &path))?;
    let mut attempts = 1;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // The live page holds it for a moment while it checks whether somebody trains.
            Err(TryLockError::WouldBlock) if attempts < 5 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(RunError::Locked {
                    path: folder.to_path_buf(),
                    problem: taken.to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(RunError::io("lock", &path)(error)),
        }
    }
}

/// Opens or creates the lock file and touches it. Does not follow links.
fn open_to_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = open_own(path, options.write(true).create(true).truncate(false))?;
    // `LockWatch` relies on the time. Some file systems have no times.
    let _ = file.set_modified(SystemTime::now());
    Ok(file)
}

/// Watches the lock of a run.
#[derive(Debug, Default)]
pub struct LockWatch {
    /// When the lock file was last touched before it was found free. It stays free until it is
    /// touched again.
    free_since: Mutex<Option<SystemTime>>,
}

impl LockWatch {
    /// Whether a trainer holds the lock of the run in `folder`.
    pub fn is_training(&self, folder: &Path) -> bool {
        let path = folder.join(FILE);
        let Ok(touched) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else {
            return false;
        };
        let mut free_since = self
            .free_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *free_since == Some(touched) {
            return false;
        }
        // A time in the future is an old one from another clock.
        if touched.elapsed().is_ok_and(|age| age < GRACE) {
            return true;
        }
        let held = open_regular(&path)
            .map(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
        let held = held.unwrap_or(false);
        if !held {
            *free_since = Some(touched);
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_linked_lock_file_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(".lock")).unwrap();
        let error = lock_folder(folder.path(), "taken").unwrap_err();
        assert!(error.to_string().contains(".lock"), "{error}");
        assert_eq!(fs::read_to_string(precious).unwrap(), "mine");
    }

    #[test]
    fn a_lock_shows_who_is_training() {
        let folder = tempfile::tempdir().unwrap();
        let watch = LockWatch::default();
        assert!(!watch.is_training(folder.path()), "no lock file");

        let lock = File::create(folder.path().join(".lock")).unwrap();
        assert!(watch.is_training(folder.path()), "it may just be starting");
        let earlier = SystemTime::now() - Duration::from_secs(60);
        lock.set_modified(earlier).unwrap();
        lock.try_lock().unwrap();
        assert!(watch.is_training(folder.path()));
        drop(lock);
        assert!(!watch.is_training(folder.path()), "the trainer is dead");
        assert!(!watch.is_training(folder.path()));

        // Somebody resumes the run.
        let lock = File::create(folder.path().join(".lock")).unwrap();
        lock.try_lock().unwrap();
        assert!(watch.is_training(folder.path()));
    }
}
