//! The host of a rank, and its share of the cores.

use std::fs;
use std::num::NonZero;

/// The name of this machine.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.map(|name| name.trim().to_string());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this machine".to_string())
}

/// The share of a machine that a rank may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) threads: usize,
    /// The cores that the launcher could use.
    pub(super) cores: usize,
    /// Whether the launcher has bound the rank to fewer cores than its share.
    pub(super) is_bound: bool,
}

/// The share of each of `local` ranks on this machine.
pub(super) fn share(local: usize) -> Share {
    let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
    let own = fs::read_to_string("/proc/self/status").ok();
    let own = own.as_deref().and_then(allowed).unwrap_or(usable);
    let launcher = of_parent().unwrap_or(own);
    share_of(usable, own, launcher, local)
}

/// The cores of the launcher, which is the parent process and is not bound itself.
fn of_parent() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    let status = fs::read_to_string(format!("/proc/{}/status", parent.trim())).ok()?;
    allowed(&status)
}

/// `usable` is the parallelism that the system grants, cgroup limits included; `own` and `launcher`
/// are the cores that the process and its launcher may run on.
fn share_of(usable: usize, own: usize, launcher: usize, local: usize) -> Share {
    let cores = launcher.max(own);
    let fair = (cores / local).max(1);
    match own < cores {
        true => Share {
            threads: own.min(fair),
            cores,
            is_bound: own < fair,
        },
        false => Share {
            threads: (usable / local).max(1),
            cores,
            is_bound: false,
        },
    }
}

/// The number of cores that a process may run on, from Linux's `/proc/PID/status`.
fn allowed(status: &str) -> Option<usize> {
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let count = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last] = [first, last].map(|number| number.trim().parse::<usize>());
        (last.ok()? + 1).checked_sub(first.ok()?)
    };
    list.split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted() {
        let status = "Name:\tshears\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8,10-11\n";
        assert_eq!(allowed(status), Some(7));
        assert_eq!(allowed("Cpus_allowed_list:\t5\n"), Some(1));
        assert_eq!(allowed("Name:\tshears\n"), None);
    }

    #[test]
    fn ranks_share_the_cores_of_their_machine() {
        let share = |usable, own, launcher, local| {
            let share = share_of(usable, own, launcher, local);
            (share.threads, share.is_bound)
        };
        // Not bound.
        assert_eq!(share(64, 64, 64, 4), (16, false));
        assert_eq!(share(2, 2, 2, 4), (1, false));
        // A group of processes that may use four of 64 cores.
        assert_eq!(share(4, 64, 64, 2), (2, false));
        // Open MPI binds one or two ranks to a core each, and more of them to a socket.
        assert_eq!(share(1, 1, 64, 2), (1, true));
        assert_eq!(share(32, 32, 64, 4), (16, false));
        // As many ranks as cores.
        assert_eq!(share(1, 1, 2, 2), (1, false));
    }
}
