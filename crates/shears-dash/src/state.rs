//! Whether a run goes on, and how it ended.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use shears_events::EndReason;

/// For how long after a lock file was touched nobody but its trainer asks for the lock: a trainer makes the
/// file and takes the lock a moment later, and must not find it taken.
const GRACE: Duration = Duration::from_secs(2);

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    /// A trainer holds its lock.
    Running,
    /// All steps were taken, or patience ran out.
    Finished,
    /// Somebody stopped it; it can be resumed.
    Stopped,
    /// Gradients were not finite.
    Diverged,
    /// Something else went wrong.
    Failed,
    /// Its log has no end, and nobody holds its lock.
    Killed,
}

impl RunState {
    /// The state of a run whose log ends with `end`.
    pub(crate) fn of(end: Option<EndReason>, lives: bool) -> RunState {
        match end {
            None if lives => RunState::Running,
            None => RunState::Killed,
            Some(EndReason::Finished | EndReason::OutOfPatience) => RunState::Finished,
            Some(EndReason::Stopped) => RunState::Stopped,
            Some(EndReason::Diverged) => RunState::Diverged,
            Some(EndReason::Failed) => RunState::Failed,
        }
    }
}

/// Looks at the lock of a run.
#[derive(Debug, Default)]
pub(crate) struct LockWatch {
    /// When the lock file was last touched before it was found free. It stays free until it is touched again.
    free_since: Mutex<Option<SystemTime>>,
}

impl LockWatch {
    /// Whether a trainer holds the lock of the run in `folder`.
    pub(crate) fn trainer_lives(&self, folder: &Path) -> bool {
        let path = folder.join(".lock");
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
        // A time in the future is an old one of another clock.
        if touched.elapsed().is_ok_and(|age| age < GRACE) {
            return true;
        }
        let held = File::open(&path)
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

    #[test]
    fn a_lock_says_who_lives() {
        let folder = tempfile::tempdir().unwrap();
        let watch = LockWatch::default();
        assert!(!watch.trainer_lives(folder.path()), "no lock file");

        let lock = File::create(folder.path().join(".lock")).unwrap();
        assert!(
            watch.trainer_lives(folder.path()),
            "it may just be starting"
        );
        let earlier = SystemTime::now() - Duration::from_secs(60);
        lock.set_modified(earlier).unwrap();
        lock.try_lock().unwrap();
        assert!(watch.trainer_lives(folder.path()));
        drop(lock);
        assert!(!watch.trainer_lives(folder.path()), "the trainer is dead");
        assert!(!watch.trainer_lives(folder.path()));

        // Somebody resumes the run.
        let lock = File::create(folder.path().join(".lock")).unwrap();
        lock.try_lock().unwrap();
        assert!(watch.trainer_lives(folder.path()));
        assert_eq!(RunState::of(None, true), RunState::Running);
        assert_eq!(
            RunState::of(Some(EndReason::OutOfPatience), false),
            RunState::Finished
        );
    }
}
