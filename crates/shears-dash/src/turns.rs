//! Work of requests that blocks, a few at a time.

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// The answers that are computed at the same time. Each may need memory in proportion to a log, and
/// a thread of its own keeps for itself what it has freed: two hundred readers of a log of 200 MB
/// took 600 MB.
const AT_ONCE: usize = 4;

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
    // An error would mean that somebody closed it, which nobody does.
    let _turn = TURNS.acquire().await;
    spawn_blocking(work).await
}
