//! Work of the first rank, for which the others wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ranks::Ranks;

/// The longest pause between two meetings.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs `work` on the first rank, however long it takes, such as reading a text, while the others
/// wait; returns its result there, and `None` on the others. Meanwhile all ranks keep meeting, so
/// that a hanging rank is noticed: `beat` is called before each meeting, to tell a watchdog that
/// all took part in the previous one.
pub fn on_first_rank<T>(
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
        let meet = || meet(ranks, beat, |pause| done.wait(pause));
        let meeting = thread::Builder::new().spawn_scoped(scope, meet);
        let result = {
            // Releases the others even if `work` panics.
            let _at_the_end = Finally(&done);
            work()
        };
        if meeting.is_err() {
            // The system refuses a thread, so the others have waited in their first meeting.
            meet();
        }
        result
    });
    Some(result)
}

/// Meets until the first rank is done. `wait` waits at most the given time, and returns whether
/// this rank is done.
fn meet(ranks: &dyn Ranks, beat: &(dyn Fn() + Sync), wait: impl Fn(Duration) -> bool) {
    let mut pause = Duration::from_millis(1);
    loop {
        let done = wait(pause);
        beat();
        let all = ranks.gather(&[u8::from(done)]);
        if all[0] == [1] {
            return;
        }
        // Short work is not delayed, and long work does not keep anybody busy.
        pause = (2 * pause).min(PAUSE);
    }
}

/// A flag that can be waited for.
#[derive(Default)]
struct Done {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Done {
    fn locked(&self) -> MutexGuard<'_, bool> {
        self.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, pause: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.locked(), pause, |done| !*done);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Sets the flag when it is dropped.
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
    fn other_ranks_wait_while_the_first_one_works() {
        assert_eq!(
            on_first_rank(&Alone, &|| panic!("nobody to meet"), || 7),
            Some(7)
        );
        let found = Threads::run(3, |ranks| {
            let met = AtomicUsize::new(0);
            let beat = || {
                met.fetch_add(1, Ordering::SeqCst);
            };
            let result = on_first_rank(&ranks, &beat, || {
                while met.load(Ordering::SeqCst) < 5 {
                    thread::yield_now();
                }
                ranks.rank()
            });
            // No rank is still in a meeting.
            let all = ranks.gather(&[9]);
            (result, met.into_inner() >= 5, all.concat())
        });
        let with = |result| (result, true, vec![9; 3]);
        assert_eq!(found, [with(Some(0)), with(None), with(None)]);
    }

    #[test]
    fn a_panic_of_the_first_rank_releases_the_others() {
        let ended = std::panic::catch_unwind(|| {
            Threads::run(2, |ranks| {
                on_first_rank(&ranks, &|| (), || assert!(ranks.rank() > 0, "on purpose"));
                ranks.barrier();
            })
        });
        assert!(ended.is_err());
    }
}
