//! Ranks as threads of one process, for tests without a launcher.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::ranks::Ranks;
use crate::tree::tree_sum;

/// One of several threads that act as ranks. They sum like [`tree_sum`].
///
/// If a rank panics or aborts, the others panic in their current or next exchange: nothing hangs.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

impl Threads {
    /// Runs `work` on each of `size` ranks, and returns their results in the order of the ranks.
    ///
    /// # Panics
    ///
    /// If one of them does.
    pub fn run<T: Send>(size: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
        let meeting = Arc::new(Meeting::of(size));
        std::thread::scope(|scope| {
            let start = |rank| {
                let meeting = Arc::clone(&meeting);
                let work = &work;
                scope.spawn(move || work(Threads { rank, meeting }))
            };
            let ranks: Vec<_> = (0..size).map(start).collect();
            let ended = ranks.into_iter().map(|rank| rank.join());
            let results: Result<Vec<T>, _> = ended.collect();
            results.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A rank that panics releases those that wait for it.
impl Drop for Threads {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.meeting.leave();
        }
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn sum(&self, values: &mut [f32]) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();
        let terms = self.gather(&bytes).into_iter().map(|bytes| {
            let (words, _) = bytes.as_chunks();
            words.iter().map(|word| f32::from_ne_bytes(*word)).collect()
        });
        if let Some(sum) = tree_sum(terms) {
            values.copy_from_slice(&sum);
        }
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.meeting.gather(self.rank, bytes)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) {
        let given = match self.rank {
            0 => std::mem::take(bytes),
            _ => Vec::new(),
        };
        *bytes = self.gather(&given).swap_remove(0);
    }

    fn barrier(&self) {
        self.gather(&[]);
    }

    fn abort(&self, code: u8) -> ! {
        panic!("rank {} ends all of them with exit code {code}", self.rank)
    }
}

/// Where the ranks exchange their bytes.
#[derive(Debug)]
struct Meeting {
    size: usize,
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// The bytes of the current exchange, by rank.
    given: Vec<Option<Vec<u8>>>,
    /// How many ranks have yet to take the bytes of all; nobody starts the next exchange before.
    taking: usize,
    /// Whether a rank is gone.
    broken: bool,
}

impl Meeting {
    fn of(size: usize) -> Meeting {
        let table = Table {
            given: vec![None; size],
            ..Table::default()
        };
        Meeting {
            size,
            table: Mutex::new(table),
            changed: Condvar::new(),
        }
    }

    fn gather(&self, rank: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut table = self.wait(|table| table.taking == 0);
        table.given[rank] = Some(bytes.to_vec());
        if table.given.iter().all(Option::is_some) {
            table.taking = self.size;
            self.changed.notify_all();
        }
        drop(table);
        let mut table = self.wait(|table| table.taking > 0);
        let all = table.given.iter().flatten().cloned().collect();
        table.taking -= 1;
        if table.taking == 0 {
            table.given.fill(None);
            self.changed.notify_all();
        }
        all
    }

    fn wait(&self, until: impl Fn(&Table) -> bool) -> MutexGuard<'_, Table> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_while(table, |table| !table.broken && !until(table));
        let table = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!table.broken, "another rank is gone");
        table
    }

    fn leave(&self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.broken = true;
        self.changed.notify_all();
    }
}
