//! How far apart two cores are.
//!
//! Where the cores of a virtual machine run is the host's choice, and may change within seconds. If
//! they do not share a cache, a training step on two threads takes up to a third longer.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gradclip_judge::statistics::median;

/// Round trips per try.
const TRIPS: u32 = 20_000;

/// When a try is given up: the threads share a core.
const PATIENCE: Duration = Duration::from_millis(100);

/// The nanoseconds that a cache line takes to another core and back, the median of a few tries: for
/// moments, a host runs both cores on one. Infinite if the threads seldom had a core each.
pub(super) fn round_trip() -> f64 {
    median((0..5).map(|_| one_try())).unwrap_or(f64::INFINITY)
}

fn one_try() -> f64 {
    let line = AtomicU32::new(0);
    let end = Instant::now() + PATIENCE;
    // Waits for a value, and says whether it came.
    let wait = |value| {
        while line.load(Ordering::Acquire) != value {
            spin_loop();
            if Instant::now() > end {
                return false;
            }
        }
        true
    };
    let started = Instant::now();
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 0..TRIPS {
                if !wait(2 * trip + 1) {
                    return;
                }
                line.store(2 * trip + 2, Ordering::Release);
            }
        });
        (0..TRIPS).all(|trip| {
            line.store(2 * trip + 1, Ordering::Release);
            wait(2 * trip + 2)
        })
    });
    match finished {
        true => started.elapsed().as_secs_f64() * 1e9 / f64::from(TRIPS),
        false => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_round_trip_takes_time() {
        assert!(super::round_trip() > 1.0);
    }
}
