//! Reads short texts that are named on the command line, a config file or a prompt, and prints a
//! message while it waits for a pipe.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use shears_data::{DataError, read_text};

use crate::exit::Misuse;
use crate::output::complain;

/// How long to wait for a pipe before printing a message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints a message if reading a pipe takes long, until it is dropped. Opening a FIFO blocks until
/// another program opens it for writing, and reading it until that program closes it; both may
/// never happen.
pub(crate) struct PipeWatch {
    /// Dropping it tells the thread that the pipe was read.
    _read: Option<Sender<()>>,
}

impl PipeWatch {
    /// A watch over files that are about to be read.
    pub(crate) fn over<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let Some(pipe) = paths.into_iter().find(|path| is_pipe(path)) else {
            return PipeWatch { _read: None };
        };
        let pipe = pipe.display().to_string();
        let (sender, read) = channel();
        // If the thread cannot start, only the message is missing.
        let _ = thread::Builder::new().spawn(move || {
            if read.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                complain!("shears: {pipe} is a pipe; waiting for whoever writes to it");
            }
        });
        PipeWatch {
            _read: Some(sender),
        }
    }
}

/// Whether a path leads to a FIFO, or to the pipe of another program.
fn is_pipe(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Reads a file or a pipe with at most `most` bytes of text; errors call it `name`.
pub(crate) fn read_file(path: &Path, name: &str, most: u64) -> Result<String, Misuse> {
    let _watch = PipeWatch::over([path]);
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Misuse(format!("{name} does not exist: check the path")),
        _ => Misuse(format!("{name} cannot be read: {error}")),
    })?;
    read(file, name, most)
}

/// Reads from an open source.
pub(crate) fn read(reader: impl Read, name: &str, most: u64) -> Result<String, Misuse> {
    read_text(reader, name, most).map_err(|error| match error {
        DataError::Unreadable { source, .. } => Misuse(format!("{name} cannot be read: {source}")),
        // Unlike a training text, this cannot have another encoding.
        DataError::NotUtf8 { offset, .. } => Misuse(format!(
            "{name} is not UTF-8 text: see the byte at offset {offset}"
        )),
        error => Misuse(error.to_string()),
    })
}
