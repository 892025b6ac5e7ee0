//! An event file: records of TensorFlow's `Event`, each with its length and its checksums.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::message::Message;
use crate::new_file::NewFile;

/// TensorBoard reads every file whose name contains `tfevents`.
const NAME: &str = "events.out.tfevents";

/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;

/// An event file being written.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    /// Before it has its name.
    unnamed: Option<NewFile>,
}

/// The number of event files in a folder.
pub(super) fn earlier_files(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        count += usize::from(name.to_string_lossy().starts_with(NAME));
    }
    Ok(count)
}

impl EventFile {
    /// Creates a file that will sort after all others in the folder, the order in which TensorBoard
    /// reads them. It has a temporary name until [`EventFile::appear`].
    pub(super) fn create(folder: &Path) -> anyhow::Result<EventFile> {
        let number = earlier_files(folder)?;
        let seconds = now() as u64;
        let path = folder.join(format!("{NAME}.{seconds:010}.shears.{number:06}"));
        let unnamed = NewFile::beside(&path)?;
        let mut file = EventFile {
            file: unnamed.writer().try_clone()?,
            path,
            unnamed: Some(unnamed),
        };
        // Event.file_version, and Event.source_metadata with its writer.
        let version = Message::new().double(1, now()).bytes(3, "brain.Event:2");
        let source = Message::new().bytes(1, "shears");
        file.record(version.message(10, source))?;
        Ok(file)
    }

    /// Gives the file its name, once it has the history of the run: a program that is killed before
    /// leaves none that a later one would take for whole.
    pub(super) fn appear(&mut self) -> anyhow::Result<()> {
        match self.unnamed.take() {
            Some(unnamed) => unnamed.put_in_place(&self.path, false),
            None => Ok(()),
        }
    }

    /// Waits until everything written is on disk: a resumed run does not write steps before its
    /// checkpoint again.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells TensorBoard to forget the steps from this one on, because they are repeated.
    pub(super) fn start_again_at(&mut self, step: u64) -> io::Result<()> {
        let session = Message::new().integer(1, START);
        // Event.session_log
        self.record(event(step).message(7, session))
    }

    /// Writes values (`Summary.Value`) of a step.
    pub(super) fn summary(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = Message>,
    ) -> io::Result<()> {
        let summary = Message::new().messages(1, values);
        // Event.summary
        self.record(event(step).message(5, summary))
    }

    /// Writes a record with one call, so that a killed program leaves only complete records.
    fn record(&mut self, event: Message) -> io::Result<()> {
        let data = event.into_bytes();
        let length = (data.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] = [
            &length,
            &checksum(&length).to_le_bytes(),
            &data,
            &checksum(&data).to_le_bytes(),
        ];
        self.file.write_all(&parts.concat())
    }
}

/// `Event.wall_time` and `Event.step`.
fn event(step: u64) -> Message {
    Message::new().double(1, now()).integer(2, step)
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.unwrap_or_default().as_secs_f64()
}

/// CRC-32C, rotated and with a constant added, because the CRC of data that contains CRCs is weak.
fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}
