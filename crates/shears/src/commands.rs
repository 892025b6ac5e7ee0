//! One file a command.

pub(crate) mod bench;
pub(crate) mod clip;
pub(crate) mod dash;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod replay;
pub(crate) mod sweep;
pub(crate) mod train;

use crate::exit::Misuse;

/// For clap: the old name of a flag, which says the new one.
pub(crate) fn renamed(now: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |_| Err(format!("the flag is called {now} now"))
}

/// How many threads were asked for; as many as there are cores, if nothing was said.
pub(crate) fn thread_count(threads: Option<usize>) -> Result<usize, Misuse> {
    match threads {
        Some(0) => Err(Misuse("--threads is 0; it must be at least 1".into())),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Sets how many threads the CPU device computes on; before the first computation.
pub(crate) fn set_threads(threads: Option<usize>) -> anyhow::Result<usize> {
    let threads = thread_count(threads)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        // The thread that trains is one of them: handing work to the others costs less from inside.
        .use_current_thread()
        .build_global()?;
    Ok(threads)
}
