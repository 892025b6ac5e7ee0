//! Exit codes: 0 done, 1 failed, 2 misuse, 3 diverged, 130 interrupted.

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shears_data::DataError;
use shears_exchange::ExchangeError;
use shears_generate::GenerateError;
use shears_train::TrainError;

use crate::output::{complain, complain_without_memory, one_line};

/// The exit code for a request that cannot be carried out.
pub(crate) const MISUSE: u8 = 2;

/// Gradients, a loss or weights that were not finite ended the run.
const DIVERGED: u8 = 3;

/// A signal ended the run after it was saved.
pub(crate) const INTERRUPTED: u8 = 130;

/// A request that cannot be carried out; nothing was started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Returns a [`Misuse`] with this message.
macro_rules! misuse {
    ($($message:tt)*) => { return Err($crate::exit::Misuse(format!($($message)*)).into()) };
}
pub(crate) use misuse;

/// The error where the system refuses a thread: its own words are no help.
pub(crate) fn no_thread(_: std::io::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "the system refuses this process another thread; end other programs, or raise the limit \
         (ulimit -u)"
    )
}

/// Another process of the job failed with this exit code, and printed why.
#[derive(Debug, thiserror::Error)]
#[error("another process of the job has failed")]
pub(crate) struct ElsewhereError(pub(crate) u8);

/// Prints an error on one line and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        // The reader of our output stopped reading.
        return ExitCode::SUCCESS;
    }
    if error.is::<ElsewhereError>() {
        // The process that failed printed it.
        return ExitCode::from(code(error));
    }
    let message = one_line(&format!("{error:#}"));
    complain!("shears: {message}");
    ExitCode::from(code(error))
}

/// Whether the command trains, so that smaller settings help where memory is short.
pub(crate) static TRAINS: AtomicBool = AtomicBool::new(false);

/// Exits because an allocation failed, with one line and the exit code of any failure. What a run
/// has saved stays intact.
pub(crate) fn out_of_memory(bytes: usize) {
    static SAID: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static SAYING: Cell<bool> = const { Cell::new(false) };
    }
    if SAYING.get() {
        // The terminal cannot be restored without more memory.
        return;
    }
    if SAID.swap(true, Ordering::SeqCst) {
        // Another thread is already ending the program.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    SAYING.set(true);
    crate::screen::leave();
    let megabytes = bytes.div_ceil(1 << 20);
    let remedy = match TRAINS.load(Ordering::SeqCst) {
        true => {
            "training takes less with a smaller --batch, --window or --hidden, and a run that was \
             saved continues with --resume"
        }
        false => "free some, or raise the limit of this process",
    };
    complain_without_memory(format_args!(
        "shears: out of memory: cannot allocate another {megabytes} MB; {remedy}"
    ));
    std::process::exit(1);
}

/// Whether an error about a text is one of the request: anything but a full disk.
fn is_misuse(error: &DataError) -> bool {
    !matches!(error, DataError::Unwritable { .. })
}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(ElsewhereError(code)) = error.downcast_ref() {
        return *code;
    }
    let misuse = error.is::<Misuse>()
        || matches!(error.downcast_ref(), Some(error) if is_misuse(error))
        || error.is::<shears_train::PlanError>()
        || matches!(
            error.downcast_ref(),
            Some(
                ExchangeError::Unsupported { .. }
                    | ExchangeError::Refused { .. }
                    | ExchangeError::Tokenizer(_)
            )
        )
        // The other variants are failures of a model, a tokenizer or a device.
        || matches!(
            error.downcast_ref(),
            Some(GenerateError::Setting { .. } | GenerateError::EmptyStop)
        );
    let of_training = match error.downcast_ref() {
        Some(ExchangeError::Run(error)) => Some(error),
        _ => error.downcast_ref::<TrainError>(),
    };
    match of_training {
        _ if misuse => MISUSE,
        Some(TrainError::Plan(_) | TrainError::Folder { .. } | TrainError::Changed { .. }) => {
            MISUSE
        }
        Some(TrainError::Data(error)) if is_misuse(error) => MISUSE,
        Some(error) if error.is_divergence() => DIVERGED,
        _ => 1,
    }
}
