//! Work of requests that blocks, a few at a time.

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// The answers that are computed at the same time, and the threads for them. Each may need memory in
/// proportion to a log, and each thread's part of the heap keeps what was freed there: two hundred
/// readers of a log of 200 MB took 600 MB.
pub(crate) const AT_ONCE: usize = 4;

/// Runs `work`, which reads files, on a thread that may block, once it is its turn. A reader who
/// has gone loses its place.
///
/// # Errors
///
/// If the work panics.
pub(crate) async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);
    let turn = TURNS.acquire().await;
    // The work keeps its turn if the reader goes meanwhile, because it goes on.
    spawn_blocking(move || {
        let _turn = turn;
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::sleep;
    use std::time::Duration;

    use super::{AT_ONCE, in_turn};

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_who_go_do_not_let_others_start_early() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..4 * AT_ONCE {
            let (running, most) = (running.clone(), most.clone());
            let answer = in_turn(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(100));
                running.fetch_sub(1, Ordering::SeqCst);
            });
            // The reader goes while the answer is computed.
            let _ = tokio::time::timeout(Duration::from_millis(5), answer).await;
        }
        in_turn(|| ()).await.unwrap();
        let most = most.load(Ordering::SeqCst);
        assert!((1..=AT_ONCE).contains(&most), "{most} at once");
    }
}
