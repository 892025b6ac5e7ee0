//! Writing a log.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::RunError;
use crate::event::Event;
use crate::header::Header;
use crate::line::{Line, LineProblem};
use crate::log::{self, Lines};

/// Appends events to a log.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventLog {
    /// Opens the log of a run that has taken `step` steps. Later lines are of steps that a resumed
    /// run takes again, an end is none if the run goes on, and a half-written last line is of a run
    /// that was killed; they are cut off, and what is before them keeps its bytes. A log that has
    /// no header gets this one: it is new, or of format 1.
    ///
    /// # Errors
    ///
    /// If what stays has a line that is no event, or is of a format that this program does not
    /// know.
    pub fn open(path: &Path, step: u64, header: &Header) -> Result<Self, RunError> {
        let kept = Kept::of(path, step)?;
        let file = OpenOptions::new().append(true).create(true).open(path);
        let cut = file.and_then(|file| file.set_len(kept.length).map(|()| file));
        let file = cut.map_err(RunError::io("write", path))?;
        let mut log = EventLog {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
        };
        if !kept.has_header {
            log.append(&Event::Header(header.clone()))?;
        }
        Ok(log)
    }

    /// Appends one line.
    pub fn append(&mut self, event: &Event) -> Result<(), RunError> {
        let line = serde_json::to_string(event).map_err(std::io::Error::from);
        let written = line.and_then(|line| {
            writeln!(self.file, "{line}")?;
            // A reader sees whole lines only, and at once.
            self.file.flush()
        });
        written.map_err(RunError::io("write", &self.path))
    }

    /// Waits until the disk has all that was appended.
    ///
    /// # Errors
    ///
    /// If the disk does not take it.
    pub fn sync(&self) -> Result<(), RunError> {
        let synced = self.file.get_ref().sync_data();
        synced.map_err(RunError::io("sync", &self.path))
    }
}

/// What stays of a log when its run goes on.
#[derive(Default)]
struct Kept {
    length: u64,
    has_header: bool,
}

impl Kept {
    fn of(path: &Path, step: u64) -> Result<Kept, RunError> {
        let mut kept = Kept::default();
        let Some(file) = log::open(path)? else {
            return Ok(kept);
        };
        let mut lines = Lines::new(BufReader::with_capacity(1 << 18, file), 0);
        let mut number = 0;
        while let Some((_, line)) = lines.next().map_err(RunError::io("read", path))? {
            number += 1;
            let line = Line::parse(line).map_err(|problem| match problem {
                LineProblem::Newer(format) => RunError::NewerFormat {
                    path: path.to_path_buf(),
                    format,
                },
                LineProblem::Broken(_) => RunError::NotAnEvent {
                    path: path.to_path_buf(),
                    line: number,
                },
            })?;
            match line {
                Line::Other(Event::End { .. }) => break,
                Line::Other(event) if event.step() > step => break,
                Line::Step(taken) if taken.step > step => break,
                Line::Other(Event::Header(_)) => kept.has_header = true,
                _ => {}
            }
            kept.length = lines.position();
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::event::EndReason;
    use crate::header::{FORMAT, Parameter};
    use crate::log::Log;

    fn header(names: &[&str]) -> Header {
        let parameter = |name: &&str| Parameter {
            name: (*name).to_string(),
            layer: name.split('.').next().unwrap().to_string(),
            shape: vec![2, 3],
        };
        Header {
            format: FORMAT,
            parameters: names.iter().map(parameter).collect(),
            device: "cpu".to_string(),
            precision: "f32".to_string(),
        }
    }

    fn sample(step: u64) -> Event {
        let text = format!("after {step}");
        Event::Sample { step, text }
    }

    fn end(step: u64) -> Event {
        Event::End {
            step,
            how: EndReason::Stopped,
            message: None,
        }
    }

    fn write(path: &Path, step: u64, events: &[Event]) {
        let mut log = EventLog::open(path, step, &header(&["b", "a"])).unwrap();
        for event in events {
            log.append(event).unwrap();
        }
    }

    fn read(path: &Path) -> Vec<Event> {
        let log = Log::read(path.to_path_buf()).unwrap();
        log.events().unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_run_that_goes_on_has_no_end_and_one_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let first = Event::Header(header(&["b", "a"]));
        write(&path, 0, &[sample(1), end(1)]);
        assert_eq!(read(&path), [first.clone(), sample(1), end(1)]);
        write(&path, 1, &[sample(2), end(2)]);
        assert_eq!(read(&path), [first, sample(1), sample(2), end(2)]);
    }

    #[test]
    fn zeros_after_the_last_line_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        write(&path, 0, &[sample(1)]);
        let before = fs::read(&path).unwrap();
        let torn = [&before[..], &[0; 4096]].concat();
        fs::write(&path, torn).unwrap();
        assert_eq!(read(&path).len(), 2);
        write(&path, 1, &[]);
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_log_of_format_1_gets_its_header_where_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let step = |step: u64| {
            format!(
                "{{\"event\":\"step\",\"step\":{step},\"loss\":1.0,\"lr\":0.1,\"tokens_per_second\":9.0,\
                 \"clip\":{{\"action\":\"keep\",\"norm_before\":1.0,\"norm_after\":1.0,\"coefficient\":1.0,\
                 \"threshold\":null,\"non_finite\":0,\"clipped_share\":0.0,\"cosine\":1.0,\
                 \"tensors\":{{\"a\":0.6,\"b\":0.8}}}}}}\n"
            )
        };
        fs::write(&path, step(1) + &step(2)).unwrap();
        let log = Log::read(path.clone()).unwrap();
        assert_eq!(log.columns.header, None);
        assert_eq!(log.columns.gradient_flow(), None);
        assert_eq!(log.columns.tensors.names, ["a", "b"]);

        write(&path, 1, &[]);
        let written = fs::read_to_string(&path).unwrap();
        fs::write(&path, written + &step(2)).unwrap();
        let columns = Log::read(path).unwrap().columns;
        assert_eq!(columns.tensors.names, ["b", "a"]);
        assert_eq!(columns.tensors.values, [[0.8, 0.8], [0.6, 0.6]]);
        assert!(columns.gradient_flow().unwrap().first_to_last.is_some());
        let norms = columns.layer_norms().unwrap();
        assert_eq!(norms[0].0, "b");
    }

    #[test]
    fn a_later_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let later = format!("{{\"event\":\"header\",\"format\":{}}}\n", FORMAT + 1);
        fs::write(&path, &later).unwrap();
        for error in [
            EventLog::open(&path, 0, &header(&[])).unwrap_err(),
            Log::read(path.clone()).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(error.contains("its format is 3"), "{error}");
            assert!(error.contains("events.jsonl"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), later);
    }
}
