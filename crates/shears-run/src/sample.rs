//! A sample of a log: lines from all over a file, which show the course of a run of a million steps
//! long before all of it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::RunError;
use crate::columns::Columns;
use crate::line::Line;
use crate::log::{Lines, open};

/// Bytes that are read at each position; more if they contain no whole line.
const CHUNK: u64 = 1 << 12;

/// Some of the lines of a log.
#[derive(Debug, Default)]
pub struct LogSample {
    /// The steps of these lines, and the events between them.
    pub columns: Columns,
    /// The number of bytes read.
    pub bytes: u64,
}

impl LogSample {
    /// Reads the header of the log at `path`, and lines at `places` positions that are evenly
    /// spread over the file, including its end. Lines that are not events are skipped.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn of(path: &Path, places: u64) -> Result<LogSample, RunError> {
        let failed = RunError::io("read", path);
        match open(path)? {
            Some(file) => read(file, places).map_err(failed),
            None => Ok(LogSample::default()),
        }
    }
}

fn read(file: File, places: u64) -> io::Result<LogSample> {
    let length = file.metadata()?.len();
    let mut columns = Columns::default();
    let counted = Counted { file, bytes: 0 };
    let mut reader = BufReader::with_capacity(CHUNK as usize, counted);
    let mut read_to = 0;
    for place in 0..=places {
        let last = length.saturating_sub(CHUNK);
        let start = (last as f64 * (place as f64 / places.max(1) as f64)) as u64;
        if place > 0 && start < read_to {
            continue;
        }
        reader.seek(SeekFrom::Start(start))?;
        let mut lines = Lines::new(&mut reader, start);
        read_to = take(&mut lines, &mut columns, start)?;
    }
    let bytes = reader.into_inner().bytes;
    Ok(LogSample { columns, bytes })
}

/// Adds the lines of one chunk, at least one. Returns where it ends.
fn take<R: BufRead>(lines: &mut Lines<R>, columns: &mut Columns, start: u64) -> io::Result<u64> {
    // The first one is cut off, except at the start of the file.
    if start > 0 && lines.next()?.is_none() {
        return Ok(lines.position());
    }
    loop {
        let Some((offset, line)) = lines.next()? else {
            return Ok(lines.position());
        };
        if let Ok(event) = Line::parse(line) {
            columns.push(event, offset);
        }
        if lines.position() >= start + CHUNK {
            return Ok(lines.position());
        }
    }
}

/// A file that counts the bytes read.
struct Counted {
    file: File,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use super::*;

    fn line(step: u64, pad: usize) -> String {
        format!(
            "{{\"event\":\"step\",\"step\":{step},\"loss\":1.0,\"lr\":0.1,\"tokens_per_second\":9.0,\
             \"clip\":{{\"action\":\"keep\",\"norm_before\":{step}.0,\"norm_after\":1.0,\
             \"coefficient\":1.0,\"threshold\":null,\"non_finite\":0,\"clipped_share\":0.0,\
             \"cosine\":1.0,\"tensors\":{{\"{}\":1.0}}}}}}\n",
            "a".repeat(pad)
        )
    }

    fn sample_of(text: &str, places: u64) -> LogSample {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        fs::write(&path, text).unwrap();
        LogSample::of(&path, places).unwrap()
    }

    #[test]
    fn a_few_bytes_show_the_course_of_a_long_log() {
        let header = "{\"event\":\"header\",\"format\":2,\"parameters\":[],\"device\":\"cpu\",\
                      \"precision\":\"f32\"}\n";
        let mut text = header.to_string();
        for step in 1..=20_000 {
            write!(text, "{}", line(step, 8)).unwrap();
        }
        let length = text.len() as u64;
        let sample = sample_of(&text, 64);
        assert!(sample.bytes < length / 8, "{} of {length}", sample.bytes);
        let steps = &sample.columns.step;
        assert!(sample.columns.header.is_some() && steps.len() > 500);
        assert_eq!((steps[0], steps[steps.len() - 1]), (1, 20_000));
        let widest = steps.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(400), "{widest:?}");
        for (row, step) in steps.iter().enumerate() {
            assert_eq!(sample.columns.norm_before[row], *step as f64);
        }
    }

    #[test]
    fn short_logs_and_long_lines_are_read_whole() {
        let text: String = (1..=9).map(|step| line(step, 8)).collect();
        let all = sample_of(&(text.clone() + "{\"event\":\"st"), 64);
        assert_eq!(all.columns.step, (1..=9).collect::<Vec<_>>());
        let long: String = (1..=9).map(|step| line(step, 10_000)).collect();
        let sample = sample_of(&long, 64);
        assert!(sample.columns.step.len() > 3, "{:?}", sample.columns.step);
        assert!(sample_of("nonsense\n", 64).columns.step.is_empty());
        assert!(sample_of("", 64).columns.step.is_empty());
    }
}
