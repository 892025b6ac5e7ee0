//! The processes that a launcher started to train one run.

mod cores;

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shears_data::sha256_of;
use shears_parallel::{
    Heartbeat, Launcher, Phase, Ranks, Timeouts, on_first_rank, start, sums_like_tree,
};
use shears_run::RanksEvent;

use crate::exit::{self, ElsewhereError, Misuse, misuse};
use crate::leave;
use crate::output::{self, complain};

/// All processes of the job, seen from this one. Without a launcher there is only this one.
pub(crate) struct World {
    ranks: Arc<dyn Ranks>,
    /// The host of each rank.
    hosts: Vec<String>,
    heartbeat: Option<Heartbeat>,
    /// Whether all ranks know that the job failed.
    is_settled: Cell<bool>,
}

/// Environment variable, for tests: seconds without progress after which a rank ends the job.
const PATIENCE: &str = "SHEARS_PATIENCE";

/// The launcher that started this process together with others, if one did.
fn launcher() -> Option<Launcher> {
    Launcher::detect().filter(|launcher| launcher.size > 1)
}

/// Whether this is one of several processes, and not the first, which prints for all.
pub(crate) fn is_later_rank() -> bool {
    launcher().is_some_and(|launcher| launcher.rank > 0)
}

/// For a process whose command line is wrong: informs the others before they wait for it. The first
/// process with a wrong command line calls `report`.
pub(crate) fn refuse_on_all_ranks(report: impl FnOnce()) {
    let Some(launcher) = launcher() else {
        return report();
    };
    let _heartbeat = watched(&launcher, &cores::host()).ok();
    match start() {
        Ok(ranks) => {
            let hosts = ranks.gather(&[]);
            if hosts.iter().position(Vec::is_empty) == Some(ranks.rank()) {
                report();
            }
        }
        Err(_) if launcher.rank == 0 => report(),
        Err(_) => drop(silently_refused()),
    }
}

/// Starts the watchdog of one of several processes. From now on, its messages begin with its rank.
fn watched(launcher: &Launcher, host: &str) -> anyhow::Result<Heartbeat> {
    output::begin_messages_with(launcher.rank, host);
    let patience = std::env::var(PATIENCE).ok();
    let patience = patience.and_then(|seconds| Timeouts::parse(&seconds));
    // The other ranks have a prefix on every line.
    let who = match launcher.rank {
        0 => format!("rank 0 on {host}: "),
        _ => String::new(),
    };
    let heartbeat = Heartbeat::start(patience.unwrap_or_default(), move |problem| {
        complain!("shears: {who}{problem}");
        leave::at_once(1);
    });
    heartbeat.map_err(exit::no_thread)
}

fn hash_of(value: &impl Hash) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish().to_string()
}

/// Refuses to run a single-process command under a launcher, where every process would repeat it.
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

/// The error of a process that prints nothing and has no connection to the others.
fn silently_refused() -> anyhow::Error {
    // The launcher kills all processes when the first exits; the one with a message needs time to
    // print it.
    std::thread::sleep(Duration::from_secs(1));
    ElsewhereError(exit::MISUSE).into()
}

/// Resets the watchdog before the first step or after the last.
fn beat(heartbeat: Option<&Heartbeat>, phase: Phase) {
    if let Some(heartbeat) = heartbeat {
        heartbeat.beat(0, phase);
    }
}

impl World {
    /// Connects to the other processes, if a launcher started any.
    ///
    /// # Errors
    ///
    /// If the processes cannot connect, run different programs, or have different arguments.
    pub(crate) fn find() -> anyhow::Result<World> {
        let host = cores::host();
        // Started before MPI is initialised, because that waits for all processes.
        let heartbeat = launcher().map(|launcher| watched(&launcher, &host));
        let heartbeat = heartbeat.transpose()?;
        let ranks = start().map_err(|error| match is_later_rank() {
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
        world.hosts = world.gather_texts(host.as_bytes());
        if world.hosts.iter().any(String::is_empty) {
            // That process has a wrong command line, and prints why.
            return Err(ElsewhereError(exit::MISUSE).into());
        }
        match world.check_alike() {
            Ok(()) => Ok(world),
            Err(error) => Err(world.reported_here(error)),
        }
    }

    /// Whether this is the only process.
    pub(crate) fn is_alone(&self) -> bool {
        self.ranks.size() == 1
    }

    /// Whether this is the process that reads, writes and prints.
    pub(crate) fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// Stops the watchdog of this process.
    pub(crate) fn stop_watchdog(&mut self) {
        self.heartbeat = None;
    }

    pub(crate) fn ranks(&self) -> Arc<dyn Ranks> {
        Arc::clone(&self.ranks)
    }

    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        self.heartbeat.clone()
    }

    /// Gathers a text from each rank.
    fn gather_texts(&self, own: &[u8]) -> Vec<String> {
        let all = self.ranks.gather(own).into_iter();
        all.map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect()
    }

    /// The number of ranks on this machine.
    pub(crate) fn local(&self) -> usize {
        let own = self.hosts.get(self.ranks.rank());
        self.hosts
            .iter()
            .filter(|host| Some(*host) == own)
            .count()
            .max(1)
    }

    /// The threads of this process: the requested number, or its share of the cores.
    pub(crate) fn threads(&self, asked: Option<usize>) -> Option<usize> {
        match asked {
            None if !self.is_alone() => Some(cores::share(self.local()).threads),
            asked => asked,
        }
    }

    /// Checks that all processes run the same program with the same arguments.
    fn check_alike(&self) -> anyhow::Result<()> {
        let program = std::env::current_exe().and_then(std::fs::File::open);
        let program = program.and_then(sha256_of);
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        self.check_same(&program.unwrap_or_default(), |host, _| {
            format!(
                "{host} was started with another program than rank 0 on {}",
                self.hosts[0]
            )
        })?;
        self.check_same(&hash_of(&arguments), |host, _| {
            format!(
                "{host} was started with other arguments than rank 0 on {}",
                self.hosts[0]
            )
        })?;
        self.check_same(shears_kernels::instructions(), |host, [other, first]| {
            format!(
                "{host} computes with {other}, and rank 0 with {first}: their bits would differ; \
                 use machines of one kind"
            )
        })
    }

    /// Checks that all ranks have the same text as rank 0. `problem` makes the message, from the
    /// name of the rank and the two texts.
    fn check_same(
        &self,
        own: &str,
        problem: impl Fn(&str, [&str; 2]) -> String,
    ) -> anyhow::Result<()> {
        let all = self.gather_texts(own.as_bytes());
        let Some(rank) = all.iter().position(|text| *text != all[0]) else {
            return Ok(());
        };
        self.is_settled.set(true);
        let name = format!("rank {rank} on {}", self.hosts[rank]);
        let problem = problem(&name, [&all[rank], &all[0]]);
        Err(self.of_all(Misuse(problem).into()))
    }

    /// Turns an error that all ranks have into one that only the first prints.
    fn of_all(&self, error: anyhow::Error) -> anyhow::Error {
        match self.is_first() {
            true => error,
            false => ElsewhereError(exit::code(&error)).into(),
        }
    }

    /// Runs `work` in the first process, however long it takes, while the others wait. They return
    /// `None`. The watchdog notices a rank that hangs meanwhile.
    pub(crate) fn on_first_rank<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let heartbeat = self.heartbeat.as_ref();
        on_first_rank(&*self.ranks, &|| beat(heartbeat, Phase::Start), work)
    }

    /// Continues only if all ranks succeeded. If one failed, it prints why, and all end with its
    /// exit code.
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
        // If several failed, only the first prints why.
        Err(match result {
            Err(error) if first == self.ranks.rank() => error,
            _ => ElsewhereError(codes[first]).into(),
        })
    }

    /// Sends bytes from the first rank to all others, unless it failed.
    pub(crate) fn broadcast(&self, bytes: anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
        let mut bytes = self.settle(bytes)?;
        beat(self.heartbeat.as_ref(), Phase::Start);
        self.ranks.broadcast(&mut bytes);
        Ok(bytes)
    }

    /// Ends the part of this process in the job. An error that the others do not share aborts them
    /// too.
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
            Err(error) if self.is_settled.get() => Err(self.reported_here(error)),
            Err(error) if is_shared(&error) => Err(self.reported_here(self.of_all(error))),
            Err(error) => {
                exit::report(&error);
                self.ranks.abort(exit::code(&error))
            }
            Ok(code) => Ok(code),
        }
    }

    /// Prints an error, before this process exits and the launcher kills the others.
    fn reported_here(&self, error: anyhow::Error) -> anyhow::Error {
        exit::report(&error);
        ElsewhereError(exit::code(&error)).into()
    }

    /// The ranks, for the log of the run; none for a single process. All ranks must call this.
    pub(crate) fn team(&self, shards: usize, threads: usize) -> Option<RanksEvent> {
        if self.is_alone() {
            return None;
        }
        // Collective, so every rank calls it.
        let adds_as_tree = sums_like_tree(&*self.ranks);
        Some(RanksEvent {
            step: 0,
            hosts: self.hosts.clone(),
            threads,
            same_bits: adds_as_tree && shards > 1 && shards.is_multiple_of(self.ranks.size()),
        })
    }

    /// Describes the ranks, for the first lines of a run.
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

    /// A warning if the launcher has bound the ranks of this machine to fewer cores than there are.
    pub(crate) fn binding(&self) -> Option<String> {
        // Also for a single process under a launcher.
        Launcher::detect()?;
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
