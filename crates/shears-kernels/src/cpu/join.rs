//! A join whose idle threads spin briefly before they sleep.
//!
//! Every training step, and even every generated token, joins threads many times. An idle rayon
//! thread soon sleeps, and waking it takes as long as a short join. So threads spin for a while
//! before they sleep, as OpenMP's do.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an idle thread spins.
const SPIN_TIME: Duration = Duration::from_micros(200);

thread_local! {
    /// Whether this thread is already spinning in [`spin`].
    static SPINNING: Cell<bool> = const { Cell::new(false) };
}

/// Runs both closures, on two threads if another one is free.
pub(super) fn join(left: impl FnOnce() + Send, right: impl FnOnce() + Send) {
    let spins = has_core_per_thread();
    let right_runs = AtomicBool::new(false);
    rayon::join_context(
        |_| {
            left();
            if spins {
                // Rayon would sleep while another thread runs `right`.
                work_while(|| right_runs.load(Ordering::Acquire));
            }
        },
        |context| {
            right_runs.store(true, Ordering::Release);
            right();
            right_runs.store(false, Ordering::Release);
            if spins && context.migrated() {
                spin();
            }
        },
    );
}

/// With more threads than cores, spinning threads would take cores from working ones.
fn has_core_per_thread() -> bool {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::current_num_threads() <= *cores
}

/// Makes this thread spin after its current work.
fn spin() {
    if SPINNING.get() {
        return;
    }
    let this = rayon::current_thread_index();
    rayon::spawn(move || {
        // If another thread stole this job, it need not spin.
        if rayon::current_thread_index() == this && !SPINNING.replace(true) {
            work_while(|| true);
            SPINNING.set(false);
        }
    });
}

/// Executes available work while `condition` holds, until there has been none for [`SPIN_TIME`].
fn work_while(condition: impl Fn() -> bool) {
    let mut last = Instant::now();
    while condition() {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() > SPIN_TIME {
            return;
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{SPIN_TIME, join};

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    }

    /// Adds `count` ones in nested joins.
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
    fn work_runs_once() {
        for threads in [1, 2, 3] {
            let pool = pool(threads);
            for count in 0..200 {
                let sum = AtomicUsize::new(0);
                pool.install(|| add(count, &sum));
                assert_eq!(sum.into_inner(), count);
                if count % 50 == 0 {
                    // Lets all threads fall asleep.
                    std::thread::sleep(2 * SPIN_TIME);
                }
            }
        }
    }

    #[test]
    fn panics_propagate_from_either_side() {
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
