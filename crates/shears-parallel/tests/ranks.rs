//! The requirements on every kind of ranks: threads, and the processes of `mpirun` if it exists and
//! this is built with MPI.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use shears_parallel::{Alone, Ranks, Threads, agree, sums_like_tree, tree_sum};

fn term(rank: usize, length: usize) -> Vec<f32> {
    let element = |index| (index as f32 + 0.1) / (rank as f32 + 3.0);
    (0..length).map(element).collect()
}

/// Panics if an operation does not work as documented. At most `longest` elements are summed.
fn check(ranks: &dyn Ranks, longest: usize) {
    let (rank, size) = (ranks.rank(), ranks.size());
    assert!(rank < size);
    for length in [0, 1, 1000, longest] {
        let mut sum = term(rank, length);
        ranks.sum(&mut sum);
        let exact = |index| {
            (0..size)
                .map(|rank| f64::from(term(rank, length)[index]))
                .sum::<f64>()
        };
        for index in [0, length / 2, length.saturating_sub(1)] {
            if let Some(&found) = sum.get(index) {
                let error = (f64::from(found) - exact(index)).abs() / exact(index);
                assert!(error < 1e-6, "element {index} of {length}: {found}");
            }
        }
        // The same in all ranks.
        let bytes: Vec<u8> = sum.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let all = ranks.gather(&bytes);
        assert!(all.iter().all(|other| *other == bytes));
        if size.is_power_of_two() {
            let tree = tree_sum((0..size).map(|rank| term(rank, length)));
            assert_eq!(sum, tree.unwrap(), "{length} elements over {size} ranks");
        }
    }
    assert_eq!(sums_like_tree(ranks), size.is_power_of_two());
    // Different lengths, including none.
    let all = ranks.gather(&vec![rank as u8; 1000 * rank]);
    let expected: Vec<Vec<u8>> = (0..size)
        .map(|rank| vec![rank as u8; 1000 * rank])
        .collect();
    assert_eq!(all, expected);
    for length in [0, 5, 100_000] {
        let mut bytes = vec![rank as u8 + 1; if rank == 0 { length } else { 7 }];
        ranks.broadcast(&mut bytes);
        assert_eq!(bytes, vec![1; length]);
    }
    ranks.barrier();
    assert!(agree(ranks, true));
    assert!(!agree(ranks, rank > 0));
}

#[test]
fn one_process() {
    // A single rank agrees with itself.
    assert_eq!((Alone.rank(), Alone.size()), (0, 1));
    assert!(sums_like_tree(&Alone) && agree(&Alone, true) && !agree(&Alone, false));
    assert_eq!(Alone.gather(b"x"), [b"x"]);
}

#[test]
fn threads() {
    for size in [1, 2, 3, 4, 8] {
        let ranks = Threads::run(size, |ranks| {
            check(&ranks, 5000);
            ranks.rank()
        });
        assert_eq!(ranks, (0..size).collect::<Vec<_>>());
    }
}

#[test]
fn threads_do_not_wait_for_one_that_is_gone() {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        Threads::run(3, |ranks| {
            ranks.barrier();
            if ranks.rank() == 1 {
                ranks.abort(3);
            }
            ranks.barrier();
        })
    }));
    assert!(ended.is_err());
}

/// These tests start themselves under `mpirun`, and recognise that by this variable.
#[cfg(feature = "mpi")]
const AS_RANK: &str = "SHEARS_PARALLEL_TEST_RANK";

/// Runs a test of this file on `size` ranks, if there is an `mpirun`.
#[cfg(feature = "mpi")]
fn launched(test: &str, size: usize) -> Option<std::process::Output> {
    use std::process::Command;

    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: there is no mpirun");
        return None;
    }
    let size = size.to_string();
    let mut command = Command::new("timeout");
    command.args([
        "-s",
        "KILL",
        "60",
        "mpirun",
        "--map-by",
        ":OVERSUBSCRIBE",
        "-n",
        &size,
    ]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads", "1"]);
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    Some(command.env(AS_RANK, size).output().unwrap())
}

#[cfg(feature = "mpi")]
#[test]
fn processes() {
    if let Some(size) = std::env::var_os(AS_RANK) {
        let ranks = shears_parallel::start().unwrap();
        assert_eq!(
            Some(ranks.size()),
            size.to_str().and_then(|size| size.parse().ok())
        );
        assert!(!shears_parallel::Mpi::library().is_empty());
        // Unwinding would wait for the others in `MPI_Finalize`.
        if catch_unwind(AssertUnwindSafe(|| check(&*ranks, 600_000))).is_err() {
            ranks.abort(1);
        }
        return;
    }
    for size in [3, 4] {
        let Some(output) = launched("processes", size) else {
            return;
        };
        assert!(output.status.success(), "{size} ranks: {output:?}");
    }
}

/// A rank that exits with success, while others wait for it in a sum, ends them.
#[cfg(feature = "mpi")]
#[test]
fn processes_end_with_one_that_leaves() {
    if std::env::var_os(AS_RANK).is_some() {
        let ranks = shears_parallel::start().unwrap();
        ranks.barrier();
        if ranks.rank() == 1 {
            std::process::exit(0);
        }
        ranks.sum(&mut [1.0; 1000]);
        println!("continued");
        return;
    }
    let Some(output) = launched("processes_end_with_one_that_leaves", 2) else {
        return;
    };
    assert!(!output.status.success(), "{output:?}");
    // Not only because of the `timeout`.
    assert_ne!(output.status.code(), Some(137), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("continued"));
}
