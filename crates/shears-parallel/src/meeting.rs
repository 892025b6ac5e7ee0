//! Waiting for the first rank while it does what only it can do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ranks::Ranks;

/// The longest time between two meetings.
const PAUSE: Duration = Duration::from_millis(500);

/// Has the first rank do something that may take however long it likes, such as reading a text,
/// while the others wait. All of them meet ever again meanwhile, so that a rank that has come to a
/// stop is missed: `beat` is called before each meeting, and tells a watchdog that all were there
/// at the one before. The others get nothing.
pub fn first_does<T>(
    ranks: &dyn Ranks,
    beat: &(dyn Fn() + Sync),
    work: impl FnOnce() -> T,
) -> Option<T> {
    if ranks.size() == 1 {
        return Some(work());
    }
    if ranks.rank() > 0 {
        meet(ranks, beat, |pause| {
            thread::sleep(pause);
            false
        });
        return None;
    }
    let done = Done::default();
    let result = thread::scope(|scope| {
        scope.spawn(|| meet(ranks, beat, |pause| done.wait(pause)));
        // The others are let go in a panic, too.
        let _at_the_end = Finally(&done);
        work()
    });
    Some(result)
}

/// Meets until the first rank says that it is done. `wait` waits, at most so long, and gives
/// whether this rank is.
fn meet(ranks: &dyn Ranks, beat: &(dyn Fn() + Sync), wait: impl Fn(Duration) -> bool) {
    let mut pause = Duration::from_millis(1);
    loop {
        let done = wait(pause);
        beat();
        let all = ranks.gather(&[u8::from(done)]);
        if all[0] == [1] {
            return;
        }
        // What is done in no time is not waited for, and nobody is kept busy for an hour.
        pause = (2 * pause).min(PAUSE);
    }
}

/// Whether something is done.
#[derive(Default)]
struct Done {
    is_so: Mutex<bool>,
    changed: Condvar,
}

impl Done {
    fn locked(&self) -> MutexGuard<'_, bool> {
        self.is_so.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, pause: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.locked(), pause, |done| !*done);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says that it is done when it is dropped.
struct Finally<'a>(&'a Done);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        *self.0.locked() = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Alone, Threads};

    #[test]
    fn the_first_rank_works_and_all_meet_meanwhile() {
        assert_eq!(
            first_does(&Alone, &|| panic!("nobody to meet"), || 7),
            Some(7)
        );
        let found = Threads::run(3, |ranks| {
            let met = AtomicUsize::new(0);
            let beat = || {
                met.fetch_add(1, Ordering::SeqCst);
            };
            let given = first_does(&ranks, &beat, || {
                while met.load(Ordering::SeqCst) < 5 {
                    thread::yield_now();
                }
                ranks.rank()
            });
            // Nobody is still in a meeting.
            let together = ranks.gather(&[9]);
            (given, met.into_inner() >= 5, together.concat())
        });
        let with = |given| (given, true, vec![9; 3]);
        assert_eq!(found, [with(Some(0)), with(None), with(None)]);
    }

    #[test]
    fn a_panic_of_the_first_rank_leaves_nobody_waiting() {
        let ended = std::panic::catch_unwind(|| {
            Threads::run(2, |ranks| {
                first_does(&ranks, &|| (), || assert!(ranks.rank() > 0, "on purpose"));
                ranks.barrier();
            })
        });
        assert!(ended.is_err());
    }
}
