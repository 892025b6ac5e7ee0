//! A join whose threads stay awake.
//!
//! A step of training and even a token of generation join their threads many times. A thread of
//! rayon that finds no work soon goes to sleep, and waking it takes as long as the work of a short
//! join. So threads look for the next work for a moment before they sleep, as those of OpenMP do.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps.
const AWAKE: Duration = Duration::from_micros(200);

thread_local! {
    /// Whether this thread looks for work already, as [`stay_awake`] has it do.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Does both, on two threads if another one is free.
pub(super) fn join(left: impl FnOnce() + Send, right: impl FnOnce() + Send) {
    let awake = has_a_core_for_each_thread();
    let right_runs = AtomicBool::new(false);
    rayon::join_context(
        |_| {
            left();
            if awake {
                // Rayon would go to sleep while another thread does the rest.
                while_idle(|| right_runs.load(Ordering::Acquire));
            }
        },
        |context| {
            right_runs.store(true, Ordering::Release);
            right();
            right_runs.store(false, Ordering::Release);
            if awake && context.migrated() {
                stay_awake();
            }
        },
    );
}

/// Threads that wait would take the cores of those that work, if there were more of them.
fn has_a_core_for_each_thread() -> bool {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::current_num_threads() <= *cores
}

/// Has this thread look for work when it is through with what it does.
fn stay_awake() {
    if LOOKS.get() {
        return;
    }
    let this = rayon::current_thread_index();
    rayon::spawn(move || {
        // Another thread that has taken this piece of work has better to do.
        if rayon::current_thread_index() == this && !LOOKS.replace(true) {
            while_idle(|| true);
            LOOKS.set(false);
        }
    });
}

/// Does the work of others while the condition holds, until there has been none for [`AWAKE`].
fn while_idle(condition: impl Fn() -> bool) {
    let mut last = Instant::now();
    while condition() {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() > AWAKE {
            return;
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{AWAKE, join};

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    }

    /// Adds one for each of `count`, in joins within joins.
    fn add(count: usize, sum: &AtomicUsize) {
        match count {
            0 => {}
            1 => {
                sum.fetch_add(1, Ordering::Relaxed);
            }
            _ => join(|| add(count / 2, sum), || add(count - count / 2, sum)),
        }
    }

    #[test]
    fn all_is_done_once() {
        for threads in [1, 2, 3] {
            let pool = pool(threads);
            for count in 0..200 {
                let sum = AtomicUsize::new(0);
                pool.install(|| add(count, &sum));
                assert_eq!(sum.into_inner(), count);
                if count % 50 == 0 {
                    // So that all threads are asleep at the next one.
                    std::thread::sleep(2 * AWAKE);
                }
            }
        }
    }

    #[test]
    fn a_panic_of_either_comes_out() {
        let pool = pool(2);
        let fails = |left: bool, right: bool| {
            let work = || join(|| assert!(!left), || assert!(!right));
            catch_unwind(AssertUnwindSafe(|| pool.install(work))).is_err()
        };
        for _ in 0..20 {
            assert!(fails(true, false));
            assert!(fails(false, true));
            assert!(!fails(false, false));
        }
    }
}
