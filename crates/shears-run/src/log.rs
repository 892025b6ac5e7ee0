//! Reads a log incrementally, while a trainer writes to it.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::RunError;
use crate::columns::Columns;
use crate::event::Event;
use crate::line::{self, Line, LineProblem};
use crate::regular::open_regular;

/// How many of the last bytes read are compared, to see whether the file is still the same.
const MEMORY: usize = 96;
/// The size of a read.
const BUFFER: usize = 1 << 18;
/// A longer line is not an event, and is not kept in memory: a full disk may have left a gigabyte
/// of zeros.
const LONGEST: u64 = 1 << 26;

/// Opens a log for reading; `None` if the file does not exist.
pub(crate) fn open(path: &Path) -> Result<Option<File>, RunError> {
    match open_regular(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RunError::io("read", path)(error)),
    }
}

/// Whole lines of a file from a given position.
pub(crate) struct Lines<R> {
    reader: R,
    position: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// `reader` must be at `position`.
    pub(crate) fn new(reader: R, position: u64) -> Self {
        Lines {
            reader,
            position,
            line: Vec::new(),
        }
    }

    /// The end of the last line.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next line and the offset of its start; `None` if only a half-written line is left.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let offset = self.position;
        let mut length = 0;
        loop {
            self.line.clear();
            let mut part = (&mut self.reader).take(LONGEST);
            let read = part.read_until(b'\n', &mut self.line)? as u64;
            length += read;
            if self.line.last() == Some(&b'\n') {
                self.position += length;
                return Ok(Some((offset, &self.line)));
            }
            if read < LONGEST {
                return Ok(None);
            }
        }
    }
}

/// Lines of a log that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The first broken line, counted from 1; `None` if the damage is not a broken line.
    pub line: Option<u64>,
    /// What is wrong with it.
    pub reason: String,
    /// The number of broken lines.
    pub lines: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, lines) = (&self.reason, self.lines);
        match (self.line, lines) {
            (Some(line), 1) => write!(
                formatter,
                "line {line} is not an event and was skipped: {reason}"
            ),
            (Some(line), _) => write!(
                formatter,
                "{lines} lines are not events and were skipped, the first is line {line}: {reason}"
            ),
            (None, _) => formatter.write_str(reason),
        }
    }
}

/// A log, as far as it has been read.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// The end of the last whole line that was read.
    position: u64,
    /// The bytes before `position`, which change if a resumed run truncates its log and writes on.
    memory: Vec<u8>,
    lines: u64,
    /// Incremented whenever the log is read from its start again.
    pub generation: u64,
    /// The content read so far.
    pub columns: Columns,
    /// The lines that could not be read.
    pub damage: Option<Damage>,
}

/// How far a log has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReadProgress {
    /// Bytes read.
    pub read: u64,
    /// The length of the log in bytes.
    pub length: u64,
    /// Whether no whole line is left.
    pub complete: bool,
}

impl Log {
    /// The log at a path, unread.
    pub fn new(path: PathBuf) -> Self {
        Log {
            path,
            position: 0,
            memory: Vec::new(),
            lines: 0,
            generation: 0,
            columns: Columns::default(),
            damage: None,
        }
    }

    /// Reads a whole log. A run without a log has an empty one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has a newer format.
    pub fn read(path: PathBuf) -> Result<Self, RunError> {
        let mut log = Log::new(path);
        while !log.advance(u64::MAX)?.complete {}
        Ok(log)
    }

    /// Discards everything that was read.
    pub fn reset(&mut self) {
        let path = std::mem::take(&mut self.path);
        let generation = self.generation + 1;
        *self = Log {
            generation,
            ..Log::new(path)
        };
    }

    /// Like [`Log::reset`] for a log that a resumed run has truncated: most of it comes again, into
    /// the same memory. Whoever reads runs that are resumed often would otherwise hold a copy for
    /// each thread that ever read one.
    fn start_over(&mut self) {
        let mut columns = std::mem::take(&mut self.columns);
        self.reset();
        // The header tells whether the columns are those of the same model.
        if columns.header.is_some() {
            columns.truncate(0);
            columns.end = None;
            self.columns = columns;
        }
    }

    /// What is wrong with what was read: lines that are not events, or steps without a line, which
    /// a log lacks that lost its end before the run was resumed.
    pub fn problem(&self) -> Option<Damage> {
        let gap = || {
            let (first, steps) = self.columns.missing_steps()?;
            let reason = match steps {
                1 => format!("step {first} has no line"),
                _ => format!("{steps} steps have no line, the first is step {first}"),
            };
            Some(Damage {
                line: None,
                reason,
                lines: 0,
            })
        };
        self.damage.clone().or_else(gap)
    }

    /// The number of bytes read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads about `budget` more bytes, in whole lines.
    ///
    /// # Errors
    ///
    /// As [`Log::read`]; what was read before the error is kept.
    pub fn advance(&mut self, budget: u64) -> Result<ReadProgress, RunError> {
        let failed = RunError::io("read", &self.path);
        let Some(mut file) = open(&self.path)? else {
            if self.position > 0 {
                self.reset();
            }
            return Ok(ReadProgress {
                read: 0,
                length: 0,
                complete: true,
            });
        };
        match self.seek(&mut file) {
            Ok(length) => {
                let complete = self.read_lines(file, budget)?;
                Ok(ReadProgress {
                    read: self.position,
                    length: length.max(self.position),
                    complete,
                })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Seeks to where reading stopped, or to the start if the file was replaced. Returns its
    /// length.
    fn seek(&mut self, file: &mut File) -> io::Result<u64> {
        let length = file.metadata()?.len();
        if self.position > 0 && !self.continues(file, length)? {
            self.start_over();
        }
        file.seek(SeekFrom::Start(self.position))?;
        Ok(length)
    }

    /// Whether the file still starts with what was read of it.
    fn continues(&self, file: &mut File, length: u64) -> io::Result<bool> {
        if length < self.position {
            return Ok(false);
        }
        let mut bytes = vec![0; self.memory.len()];
        file.seek(SeekFrom::Start(self.position - bytes.len() as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes == self.memory)
    }

    fn read_lines(&mut self, file: File, budget: u64) -> Result<bool, RunError> {
        let stop = self.position.saturating_add(budget);
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file), self.position);
        while lines.position() < stop {
            match lines.next() {
                Ok(Some((offset, line))) => self.take(line, offset)?,
                Ok(None) => return Ok(true),
                Err(error) => return Err(RunError::io("read", &self.path)(error)),
            }
            self.position = lines.position();
        }
        Ok(false)
    }

    fn take(&mut self, line: &[u8], offset: u64) -> Result<(), RunError> {
        match Line::parse(line) {
            Ok(event) => self.columns.push(event, offset),
            Err(LineProblem::Newer(format)) => {
                let path = self.path.clone();
                return Err(RunError::NewerFormat { path, format });
            }
            Err(LineProblem::Broken(reason)) => {
                let damage = self.damage.get_or_insert(Damage {
                    line: Some(self.lines + 1),
                    reason,
                    lines: 0,
                });
                damage.lines += 1;
            }
        }
        self.lines += 1;
        let tail = &line[line.len().saturating_sub(MEMORY)..];
        self.memory.clear();
        self.memory.extend_from_slice(tail);
        Ok(())
    }

    /// Reads the log again, as far as it was read, one event at a time; without lines that are not
    /// events, and without steps that were repeated later.
    pub fn events(&self) -> Result<Events<'_>, RunError> {
        let file: Box<dyn Read> = match open(&self.path)? {
            Some(file) => Box::new(file),
            None => Box::new(io::empty()),
        };
        let reader = BufReader::with_capacity(BUFFER, file.take(self.position));
        Ok(Events {
            log: self,
            lines: Lines::new(reader, 0),
            rows: 0,
        })
    }
}

/// The events of a log, see [`Log::events`].
pub struct Events<'a> {
    log: &'a Log,
    lines: Lines<BufReader<io::Take<Box<dyn Read>>>>,
    /// How many steps were returned.
    rows: usize,
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.log.path();
        formatter.debug_tuple("Events").field(&path).finish()
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (offset, line) = match self.lines.next() {
                Ok(line) => line?,
                Err(error) => return Some(Err(RunError::io("read", &self.log.path)(error))),
            };
            let Ok(event) = line::event(line) else {
                continue;
            };
            if matches!(event, Event::Step(_)) {
                // Skip a step whose line is valid as columns but not as an event.
                let offsets = &self.log.columns.offset;
                self.rows += offsets[self.rows..].partition_point(|known| *known < offset);
                if offsets.get(self.rows) != Some(&offset) {
                    continue;
                }
                self.rows += 1;
            }
            return Some(Ok(event));
        }
    }
}

/// Reads the line at an offset ([`Columns::offset`]) of a log again.
pub fn line_at(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut line = Vec::new();
    BufReader::new(file)
        .take(LONGEST)
        .read_until(b'\n', &mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use super::*;

    fn sample(step: u64) -> String {
        format!("{{\"event\":\"sample\",\"step\":{step},\"text\":\"after {step}\"}}\n")
    }

    fn texts(log: &Log) -> Vec<&str> {
        let samples = log.columns.samples.iter();
        samples.map(|sample| sample.text.as_str()).collect()
    }

    #[test]
    fn a_growing_log_is_read_once_and_a_truncated_one_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut log = Log::new(path.clone());
        assert!(log.advance(1 << 20).unwrap().complete);

        let mut text = sample(1) + &sample(2) + "{\"event\":\"sample\",\"step\":3,";
        fs::write(&path, &text).unwrap();
        assert!(log.advance(1 << 20).unwrap().complete);
        assert_eq!(texts(&log), ["after 1", "after 2"]);
        assert_eq!(log.damage, None);

        text.push_str("\"text\":\"after 3\"}\n");
        fs::write(&path, &text).unwrap();
        log.advance(1 << 20).unwrap();
        assert_eq!(texts(&log), ["after 1", "after 2", "after 3"]);
        assert_eq!(log.generation, 0);

        // A resumed run has truncated the log, and written more than was there.
        let other = sample(1) + &sample(7) + &sample(8) + &sample(9);
        fs::write(&path, other).unwrap();
        log.advance(1 << 20).unwrap();
        assert_eq!(texts(&log), ["after 1", "after 7", "after 8", "after 9"]);
        assert_eq!(log.generation, 1);
    }

    /// What comes again takes the same memory; the columns of another model do not stay.
    #[test]
    fn a_truncated_log_takes_the_memory_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let header = |name: &str| {
            format!(
                "{{\"event\":\"header\",\"format\":2,\"parameters\":[{{\"name\":\"{name}\",\
                 \"layer\":\"{name}\",\"shape\":[1]}}],\"device\":\"cpu\",\"precision\":\"f32\"}}\n"
            )
        };
        let write = |name: &str, steps: std::ops::Range<u64>, norm: f64| {
            let tensors = format!("\"tensors\":{{\"{name}\":{norm:?}}}");
            let step = |step| step_line(step, norm).replace("\"tensors\":{}", &tensors);
            let text: String = steps.map(step).collect();
            fs::write(&path, header(name) + &text).unwrap();
        };
        write("first", 1..1000, 1.0);
        let mut log = Log::read(path.clone()).unwrap();
        let addresses = |log: &Log| {
            let columns = &log.columns;
            (columns.loss.as_ptr(), columns.tensors.values[0].as_ptr())
        };
        let before = addresses(&log);
        for (last, norm) in [(500, 2.0), (900, 3.0)] {
            write("first", 1..last, norm);
            while !log.advance(u64::MAX).unwrap().complete {}
            assert_eq!(addresses(&log), before);
            let rows = last as usize - 1;
            assert_eq!(log.columns.norm_before, vec![norm; rows]);
            assert_eq!(log.columns.tensors.values, [vec![norm as f32; rows]]);
        }
        write("other", 1..3, 4.0);
        log.advance(u64::MAX).unwrap();
        assert_eq!(log.columns.tensors.names, ["other"]);
        assert_eq!(log.columns.tensors.values, [[4.0, 4.0]]);
    }

    #[test]
    fn reading_stops_between_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut text = String::new();
        for step in 0..100 {
            write!(text, "{}", sample(step)).unwrap();
        }
        fs::write(&path, &text).unwrap();
        let mut log = Log::new(path);
        let mut pieces = 0;
        while !log.advance(500).unwrap().complete {
            pieces += 1;
        }
        assert!(pieces > 5, "{pieces}");
        assert_eq!(log.columns.samples.len(), 100);
        assert_eq!(log.position(), text.len() as u64);
    }

    #[test]
    fn broken_lines_are_counted_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let text = sample(1) + "{\"event\":\"sample\",\"st\n" + "nonsense\n" + &sample(4);
        fs::write(&path, text).unwrap();
        let mut log = Log::new(path);
        log.advance(1 << 20).unwrap();
        assert_eq!(texts(&log), ["after 1", "after 4"]);
        let damage = log.damage.unwrap();
        assert_eq!((damage.line, damage.lines), (Some(2), 2));
        assert!(damage.reason.contains("is cut off"), "{}", damage.reason);
        assert!(damage.to_string().starts_with("2 lines are not events"));
    }

    fn step_line(step: u64, norm: f64) -> String {
        format!(
            "{{\"event\":\"step\",\"step\":{step},\"loss\":1.0,\"lr\":0.1,\"tokens_per_second\":9.0,\
             \"clip\":{{\"action\":\"keep\",\"norm_before\":{norm:?},\"norm_after\":{norm:?},\
             \"coefficient\":1.0,\"threshold\":null,\"non_finite\":0,\"clipped_share\":0.0,\
             \"cosine\":1.0,\"tensors\":{{}}}}}}\n"
        )
    }

    #[test]
    fn events_omit_repeated_steps_and_broken_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let text = [
            &step_line(1, 1.0),
            &step_line(2, 2.0),
            "\0\0\0\n",
            &sample(2),
            &step_line(2, 3.0),
            "{\"event\":\"step\"",
        ];
        fs::write(&path, text.concat()).unwrap();
        let log = Log::read(path).unwrap();
        assert_eq!(log.columns.norm_before, [1.0, 3.0]);
        let steps = log
            .events()
            .unwrap()
            .filter_map(|event| match event.unwrap() {
                Event::Step(step) => Some((step.step, step.clip.norm_before)),
                _ => None,
            });
        assert_eq!(steps.collect::<Vec<_>>(), [(1, 1.0), (2, 3.0)]);
        let damage = log.damage.unwrap().to_string();
        assert!(damage.starts_with("line 3 is not an event"), "{damage}");
    }

    #[test]
    fn an_unreadable_step_does_not_hide_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let without_rate = step_line(2, 2.0).replace("0.1", "null");
        // Columns do not look at this one's reason.
        let odd_reason = step_line(3, 3.0).replace("\"keep\"", "\"skip\",\"skip_reason\":7");
        let lines = [
            step_line(1, 1.0),
            without_rate,
            odd_reason,
            step_line(4, 4.0),
        ];
        fs::write(&path, lines.concat()).unwrap();
        let log = Log::read(path).unwrap();
        let steps: Vec<u64> = log
            .events()
            .unwrap()
            .map(|event| event.unwrap().step())
            .collect();
        assert_eq!(steps, [1, 4]);
        let damage = log.damage.unwrap().to_string();
        assert!(damage.starts_with("line 2 is not an event"), "{damage}");
    }

    /// Every new name would make a column as long as the log.
    #[test]
    fn new_names_in_every_line_take_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let lines = (1..=3000).map(|step| {
            let names = (0..20).map(|name| format!("\"n{step}-{name}\":1.0"));
            let names = names.collect::<Vec<_>>().join(",");
            let tensors = format!("\"tensors\":{{{names}}}");
            step_line(step, 1.0).replace("\"tensors\":{}", &tensors)
        });
        fs::write(&path, lines.collect::<String>()).unwrap();
        let columns = Log::read(path).unwrap().columns;
        assert_eq!(columns.rows(), 3000);
        assert!(columns.bytes() < 200 << 20, "{} bytes", columns.bytes());
    }

    #[test]
    fn a_run_without_a_log_has_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::read(folder.path().join("events.jsonl")).unwrap();
        assert_eq!(log.columns.rows(), 0);
        assert_eq!(log.events().unwrap().count(), 0);
    }
}
