//! Reading a log piece by piece, while a trainer writes to it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::columns::Columns;
use crate::line::Line;

/// How many of the last bytes that were read are compared, to see that the file is still the same.
const MEMORY: usize = 96;

/// Why a log cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Damage {
    /// The first broken line, counted from 1; none if it is not a line that is broken.
    pub(crate) line: Option<u64>,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// Broken lines in all.
    pub(crate) lines: u64,
}

/// A log as far as it was read.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// Where the last whole line that was read ends.
    position: u64,
    /// The bytes before `position`: a resumed run cuts its log, and writes other lines.
    memory: Vec<u8>,
    lines: u64,
    /// Goes up whenever the log is read from its start.
    pub(crate) generation: u64,
    pub(crate) columns: Columns,
    pub(crate) damage: Option<Damage>,
}

/// How far a reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reach {
    /// Bytes read.
    pub(crate) read: u64,
    /// Bytes there are.
    pub(crate) length: u64,
    /// No whole line is left.
    pub(crate) complete: bool,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
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

    /// Forgets all that was read.
    pub(crate) fn reset(&mut self) {
        let path = std::mem::take(&mut self.path);
        let generation = self.generation + 1;
        *self = Log {
            generation,
            ..Log::new(path)
        };
    }

    /// Bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Reads about `budget` bytes more, in whole lines. A run without a log has an empty one.
    pub(crate) fn advance(&mut self, budget: u64) -> io::Result<Reach> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.position > 0 {
                    self.reset();
                }
                return Ok(Reach {
                    read: 0,
                    length: 0,
                    complete: true,
                });
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if self.position > 0 && !self.continues(&mut file, length)? {
            self.reset();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let complete = self.read_lines(BufReader::with_capacity(1 << 18, file), budget)?;
        Ok(Reach {
            read: self.position,
            length: length.max(self.position),
            complete,
        })
    }

    /// Whether the file still begins with what was read of it.
    fn continues(&self, file: &mut File, length: u64) -> io::Result<bool> {
        if length < self.position {
            return Ok(false);
        }
        let mut bytes = vec![0; self.memory.len()];
        file.seek(SeekFrom::Start(self.position - bytes.len() as u64))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes == self.memory)
    }

    fn read_lines(&mut self, mut reader: BufReader<File>, budget: u64) -> io::Result<bool> {
        let stop = self.position + budget;
        let mut line = Vec::new();
        while self.position < stop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(true);
            }
            self.take(&line);
        }
        Ok(false)
    }

    fn take(&mut self, line: &[u8]) {
        self.lines += 1;
        match Line::parse(line) {
            Ok(event) => self.columns.push(event, self.position),
            Err(reason) => {
                let (first, lines) = (self.lines, 0);
                let damage = self.damage.get_or_insert(Damage {
                    line: Some(first),
                    reason,
                    lines,
                });
                damage.lines += 1;
            }
        }
        self.position += line.len() as u64;
        let tail = &line[line.len().saturating_sub(MEMORY)..];
        self.memory.clear();
        self.memory.extend_from_slice(tail);
    }
}

/// The line that begins at a place of a log.
pub(crate) fn line_at(path: &Path, place: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(place))?;
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line)?;
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
    fn a_growing_log_is_read_once_and_a_cut_one_again() {
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

        // A resumed run has cut the log, and has written more than was there.
        let other = sample(1) + &sample(7) + &sample(8) + &sample(9);
        fs::write(&path, other).unwrap();
        log.advance(1 << 20).unwrap();
        assert_eq!(texts(&log), ["after 1", "after 7", "after 8", "after 9"]);
        assert_eq!(log.generation, 1);
    }

    #[test]
    fn pieces_end_between_lines() {
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
    fn a_broken_line_is_counted_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let text = sample(1) + "{\"event\":\"sample\",\"st\n" + "nonsense\n" + &sample(4);
        fs::write(&path, text).unwrap();
        let mut log = Log::new(path);
        log.advance(1 << 20).unwrap();
        assert_eq!(texts(&log), ["after 1", "after 4"]);
        let damage = log.damage.unwrap();
        assert_eq!((damage.line, damage.lines), (Some(2), 2));
        assert!(damage.reason.contains("EOF"), "{}", damage.reason);
    }
}
