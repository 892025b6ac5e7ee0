//! The processes that a launcher has started to train one run.

mod cores;

use std::cell::Cell;
use std::hash::Hasher;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shears_parallel::{Heartbeat, Launcher, Patience, Phase, Ranks, first_does, keeps_bits, start};
use shears_run::RanksEvent;

use crate::exit::{self, ElsewhereError, Misuse, misuse};
use crate::leave;
use crate::output::{self, complain};

/// All of them, seen from this one: a single process without a launcher.
pub(crate) struct World {
    ranks: Arc<dyn Ranks>,
    /// The machines that the ranks run on, in the order of the ranks.
    hosts: Vec<String>,
    heartbeat: Option<Heartbeat>,
    /// Whether all of them know that it has failed.
    is_settled: Cell<bool>,
}

/// Seconds without progress after which a rank ends the job, for tests.
const PATIENCE: &str = "SHEARS_PATIENCE";

/// Who has started this process beside others.
fn launcher() -> Option<Launcher> {
    Launcher::here().filter(|launcher| launcher.size > 1)
}

/// Whether a launcher has started this process beside others, the first of which speaks for all.
pub(crate) fn is_spoken_for() -> bool {
    launcher().is_some_and(|launcher| launcher.rank > 0)
}

/// For a process whose command line is wrong: tells the others, before they wait for it, and
/// `tell`s what is wrong if it is the first that has something to tell.
pub(crate) fn refuse_together(tell: impl FnOnce()) {
    let Some(launcher) = launcher() else {
        return tell();
    };
    let _heartbeat = watched(&launcher, &cores::host());
    match start() {
        Ok(ranks) => {
            let hosts = ranks.gather(&[]);
            if hosts.iter().position(Vec::is_empty) == Some(ranks.rank()) {
                tell();
            }
        }
        Err(_) if launcher.rank == 0 => tell(),
        Err(_) => drop(silently_refused()),
    }
}

/// Starts the watchdog of one of several processes, which says from now on which one it is.
fn watched(launcher: &Launcher, host: &str) -> Heartbeat {
    output::speak_as(launcher.rank, host);
    let patience = std::env::var(PATIENCE).ok();
    let patience = patience.and_then(|seconds| Patience::of_text(&seconds));
    // The others say who they are in each line.
    let who = match launcher.rank {
        0 => format!("rank 0 on {host}: "),
        _ => String::new(),
    };
    Heartbeat::start(patience.unwrap_or_default(), move |problem| {
        complain!("shears: {who}{problem}");
        leave::at_once(1);
    })
}

/// For commands that are of one process: under a launcher, each would do the same.
pub(crate) fn refuse_launcher(command: &str) -> anyhow::Result<()> {
    let Some(Launcher { name, size, rank }) = launcher() else {
        return Ok(());
    };
    if rank > 0 {
        return Err(silently_refused());
    }
    misuse!(
        "{name} has started {size} processes, and each would do the same `shears {command}`; start \
         it without the launcher"
    )
}

/// For processes that do not speak, and do not know of each other.
fn silently_refused() -> anyhow::Error {
    // The launcher ends all when the first one ends, and one of them has something to say before.
    std::thread::sleep(Duration::from_secs(1));
    ElsewhereError(exit::MISUSE).into()
}

/// Tells the watchdog that a run goes on before its first step, or after its last.
fn beat(heartbeat: Option<&Heartbeat>, phase: Phase) {
    if let Some(heartbeat) = heartbeat {
        heartbeat.beat(0, phase);
    }
}

impl World {
    /// Finds the other processes, if a launcher has started some.
    ///
    /// # Errors
    ///
    /// If they do not find each other, run different programs, or were asked for different things.
    pub(crate) fn find() -> anyhow::Result<World> {
        let host = cores::host();
        // Before MPI is initialised, in which each waits for the others.
        let heartbeat = launcher().map(|launcher| watched(&launcher, &host));
        let ranks = start().map_err(|error| match is_spoken_for() {
            true => silently_refused(),
            false => Misuse(error.to_string()).into(),
        })?;
        let mut world = World {
            hosts: Vec::new(),
            heartbeat,
            is_settled: Cell::new(false),
            ranks,
        };
        if world.is_alone() {
            return Ok(world);
        }
        world.hosts = world.told(host.as_bytes());
        if world.hosts.iter().any(String::is_empty) {
            // The command line of that one is wrong, and it says so.
            return Err(ElsewhereError(exit::MISUSE).into());
        }
        match world.check_alike() {
            Ok(()) => Ok(world),
            Err(error) => Err(world.told_by_one(error)),
        }
    }

    /// Whether there is no other process.
    pub(crate) fn is_alone(&self) -> bool {
        self.ranks.size() == 1
    }

    /// Whether this is the one that reads, writes and speaks.
    pub(crate) fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// Ends the watchdog of this process.
    pub(crate) fn watch_no_longer(&mut self) {
        self.heartbeat = None;
    }

    pub(crate) fn ranks(&self) -> Arc<dyn Ranks> {
        Arc::clone(&self.ranks)
    }

    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        self.heartbeat.clone()
    }

    /// What each rank says, as text.
    fn told(&self, own: &[u8]) -> Vec<String> {
        let all = self.ranks.gather(own).into_iter();
        all.map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect()
    }

    /// How many ranks run on this machine.
    fn local(&self) -> usize {
        let own = self.hosts.get(self.ranks.rank());
        self.hosts
            .iter()
            .filter(|host| Some(*host) == own)
            .count()
            .max(1)
    }

    /// The threads of this process: those that were asked for, or its share of the cores.
    pub(crate) fn threads(&self, asked: Option<usize>) -> Option<usize> {
        match asked {
            None if !self.is_alone() => Some(cores::share(self.local()).threads),
            asked => asked,
        }
    }

    /// All processes have to be copies of one program that were asked for the same.
    fn check_alike(&self) -> anyhow::Result<()> {
        let mut asked = std::hash::DefaultHasher::new();
        for argument in std::env::args_os().skip(1) {
            asked.write(argument.as_encoded_bytes());
            asked.write_u8(0);
        }
        let program = std::env::current_exe().and_then(std::fs::read);
        let mut hash = std::hash::DefaultHasher::new();
        hash.write(&program.unwrap_or_default());
        let own = [
            hash.finish().to_string(),
            asked.finish().to_string(),
            shears_kernels::instructions().to_string(),
        ];
        let all = self.told(own.join("\n").as_bytes());
        let parts = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        let first = parts(&all[0]);
        let what = [
            "another program",
            "other arguments",
            "other vector instructions",
        ];
        for (rank, other) in all.iter().enumerate() {
            let other = parts(other);
            let differing = other
                .iter()
                .zip(&first)
                .position(|(other, first)| other != first);
            let Some(differing) = differing else { continue };
            let host = &self.hosts[rank];
            let message = match differing {
                2 => format!(
                    "rank {rank} on {host} computes with {}, and rank 0 with {}: their bits would \
                     differ; use machines of one kind",
                    other[2], first[2]
                ),
                _ => format!(
                    "rank {rank} on {host} was started with {} than rank 0 on {}",
                    what[differing], self.hosts[0]
                ),
            };
            self.is_settled.set(true);
            return Err(self.of_all(Misuse(message).into()));
        }
        Ok(())
    }

    /// An error that all ranks have: the first of them tells it.
    fn of_all(&self, error: anyhow::Error) -> anyhow::Error {
        match self.is_first() {
            true => error,
            false => ElsewhereError(exit::code(&error)).into(),
        }
    }

    /// Has the first process do something, however long that takes; the others wait for it, and get
    /// nothing. One that comes to a stop meanwhile is missed.
    pub(crate) fn first_does<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let heartbeat = self.heartbeat.as_ref();
        first_does(&*self.ranks, &|| beat(heartbeat, Phase::Start), work)
    }

    /// Lets the ranks go on only if all of them can; where one cannot, that one says why, and all
    /// end with its exit code.
    pub(crate) fn settle<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if self.is_alone() {
            return result;
        }
        beat(self.heartbeat.as_ref(), Phase::Start);
        let own = result.as_ref().map_or_else(exit::code, |_| 0);
        let codes = self.ranks.gather(&[own]).concat();
        let failed = codes.iter().position(|code| *code != 0);
        let Some(first) = failed else {
            return result;
        };
        self.is_settled.set(true);
        // Where several cannot, one is enough to say why.
        Err(match result {
            Err(error) if first == self.ranks.rank() => error,
            _ => ElsewhereError(codes[first]).into(),
        })
    }

    /// What the first rank has, given to all others, unless it failed.
    pub(crate) fn broadcast(&self, bytes: anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
        let mut bytes = self.settle(bytes)?;
        beat(self.heartbeat.as_ref(), Phase::Start);
        self.ranks.broadcast(&mut bytes);
        Ok(bytes)
    }

    /// Ends the part of this process. An error that the others do not know of ends them as well.
    pub(crate) fn end(self, result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        if self.is_alone() {
            return result;
        }
        beat(self.heartbeat.as_ref(), Phase::End);
        let is_shared = |error: &anyhow::Error| {
            let error = error.downcast_ref::<shears_train::TrainError>();
            error.is_some_and(shears_train::TrainError::is_shared)
        };
        match result {
            Err(error) if self.is_settled.get() => Err(self.told_by_one(error)),
            Err(error) if is_shared(&error) => Err(self.told_by_one(self.of_all(error))),
            Err(error) => {
                exit::report(&error);
                self.ranks.abort(exit::code(&error))
            }
            Ok(code) => Ok(code),
        }
    }

    /// Tells an error, in the process that has one of its own, before any of them ends: the
    /// launcher then ends the others.
    fn told_by_one(&self, error: anyhow::Error) -> anyhow::Error {
        exit::report(&error);
        ElsewhereError(exit::code(&error)).into()
    }

    /// The ranks, for the log of the run; nothing of a single process. An exchange.
    pub(crate) fn team(&self, shards: usize, threads: usize) -> Option<RanksEvent> {
        if self.is_alone() {
            return None;
        }
        // All of them try it.
        let adds_as_tree = keeps_bits(&*self.ranks);
        Some(RanksEvent {
            step: 0,
            hosts: self.hosts.clone(),
            threads,
            same_bits: adds_as_tree && shards > 1 && shards.is_multiple_of(self.ranks.size()),
        })
    }

    /// Who trains, for the first lines of a run.
    pub(crate) fn describe(&self, team: &RanksEvent, batch: usize, shards: usize) -> String {
        let size = self.ranks.size();
        let rows = match batch.is_multiple_of(size) {
            true => format!("{}", batch / size),
            false => format!("{} or {}", batch / size, batch / size + 1),
        };
        let rounded = "with other numbers of ranks it is the same run up to rounding";
        let bits = match team.same_bits {
            true => format!("every number of ranks that divides {shards} gives the same bits"),
            false if !size.is_power_of_two() => {
                format!("{rounded} (1, 2, 4, 8 ... ranks can have the same bits)")
            }
            false if shards == 1 || !shards.is_multiple_of(size) => {
                format!("{rounded} (a run begun with --shards {size} has the same bits)")
            }
            false => format!("{rounded}, because this MPI does not add as a tree"),
        };
        format!("{}, {rows} of {batch} rows each; {bits}", team.words())
    }

    /// What is wrong with the cores of this machine, if the launcher has bound its ranks to fewer
    /// than there are.
    pub(crate) fn binding(&self) -> Option<String> {
        // A single process, too.
        Launcher::here()?;
        let share = cores::share(self.local());
        share.is_bound.then(|| {
            let cores::Share { threads, cores, .. } = share;
            let who = match self.local() {
                1 => format!("this rank is bound to {threads} of {cores} cores"),
                local => format!(
                    "each rank is bound to {threads} of {cores} cores, and {local} of them run here"
                ),
            };
            format!("{who}; `mpirun --bind-to none` gives all cores")
        })
    }
}
