//! Appends to a log, and truncates it when its run is resumed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::RunError;
use crate::event::{Change, Event};
use crate::folder::{create_anew, folder_of, sync_folder};
use crate::header::Header;
use crate::line::{Line, LineProblem};
use crate::log::{self, Lines};
use crate::regular::open_own;

/// Where lines that are not events are moved when the run is resumed.
pub const DAMAGED: &str = "events.damaged.jsonl";
/// The log without them, until it is complete. Only the one trainer of a run writes it, so the next
/// one removes what a killed one has left.
const UNFINISHED: &str = "events.jsonl.tmp";
/// The beginning of its name in earlier versions.
const OLD_UNFINISHED: &str = ".events-";

/// Appends events to a log.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
    warning: Option<String>,
    changes: Vec<Change>,
}

impl EventLog {
    /// Opens the log of a run that has taken `step` steps. Later lines are cut off, since a resumed
    /// run repeats those steps, and so are an end and a half-written last line of a killed run.
    /// What precedes them keeps its bytes. A log without a header, new or of format 1, gets this
    /// one.
    ///
    /// Lines that are not events are moved to a separate file ([`DAMAGED`]);
    /// [`EventLog::warning`] reports them, and missing steps.
    ///
    /// # Errors
    ///
    /// If the log cannot be read or written, or has a newer format.
    pub fn open(path: &Path, step: u64, header: &Header) -> Result<Self, RunError> {
        Self::open_after(path, step, false, header)
    }

    /// As [`EventLog::open`]. If what follows the last step, such as its evaluation, is still
    /// `pending`, only the step itself and earlier resumes are kept of what was recorded
    /// at that step.
    ///
    /// # Errors
    ///
    /// As [`EventLog::open`].
    pub fn open_after(
        path: &Path,
        step: u64,
        pending: bool,
        header: &Header,
    ) -> Result<Self, RunError> {
        let kept = Kept::of(path, step, pending)?;
        remove_unfinished(folder_of(path));
        let mut warnings = Vec::new();
        if kept.damaged.is_empty() {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false);
            let cut = open_own(path, options).and_then(|file| file.set_len(kept.length));
            cut.map_err(RunError::io("write", path))?;
        } else {
            set_aside(path, &kept)?;
            let first = kept.first_damaged;
            let place = match kept.damaged_lines {
                1 => format!("line {first} was"),
                lines => format!("{lines} lines, the first is line {first}, were"),
            };
            warnings.push(format!("{place} damaged and moved to {DAMAGED}"));
        }
        if kept.last_step < step {
            let lost = kept.last_step + 1;
            warnings.push(format!(
                "it has lost the steps from {lost} on, and the checkpoint is of step {step}"
            ));
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(RunError::io("write", path))?;
        sync_folder(folder_of(path)).map_err(RunError::io("sync", path))?;
        let warning = format!("{}: {}", path.display(), warnings.join("; "));
        let mut log = EventLog {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            warning: (!warnings.is_empty()).then_some(warning),
            changes: kept.changes,
        };
        if !kept.has_header {
            log.append(&Event::Header(header.clone()))?;
        }
        Ok(log)
    }

    /// What was wrong with the log when it was opened, in one sentence.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Records these changes of settings, except those at the start of the list that the log has.
    ///
    /// # Errors
    ///
    /// As [`EventLog::append`].
    pub fn append_changes(&mut self, step: u64, changes: &[Change]) -> Result<(), RunError> {
        let mut known = std::mem::take(&mut self.changes).into_iter().peekable();
        for change in changes {
            if known.next_if(|known| known.is_same(change)).is_none() {
                self.append(&Event::Change(Change {
                    step,
                    ..change.clone()
                }))?;
            }
        }
        Ok(())
    }

    /// Appends one line.
    pub fn append(&mut self, event: &Event) -> Result<(), RunError> {
        let line = serde_json::to_string(event).map_err(std::io::Error::from);
        let written = line.and_then(|line| {
            writeln!(self.file, "{line}")?;
            // So that readers see whole lines, and without delay.
            self.file.flush()
        });
        written.map_err(RunError::io("write", &self.path))
    }

    /// Waits until everything appended is on disk.
    ///
    /// # Errors
    ///
    /// If the disk cannot be written.
    pub fn sync(&self) -> Result<(), RunError> {
        let synced = self.file.get_ref().sync_data();
        synced.map_err(RunError::io("sync", &self.path))
    }
}

/// Removes what a trainer has left that was killed while it set damaged lines aside.
fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == UNFINISHED || name.to_string_lossy().starts_with(OLD_UNFINISHED) {
            // If that fails, a later trainer does it.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Moves the damaged lines out of a log and truncates it; the file is replaced atomically. If the
/// program is killed on the way, the next one does it again.
fn set_aside(path: &Path, kept: &Kept) -> Result<(), RunError> {
    let aside = path.with_file_name(DAMAGED);
    let mut log = File::open(path).map_err(RunError::io("read", path))?;
    let copied = append_ranges(&mut log, &aside, &kept.damaged);
    copied.map_err(RunError::io("write", &aside))?;
    let unfinished = path.with_file_name(UNFINISHED);
    let written = (|| {
        let mut whole = create_anew(&unfinished)?;
        whole.set_permissions(log.metadata()?.permissions())?;
        let mut start = 0;
        for damaged in &kept.damaged {
            copy(&mut log, start..damaged.start.min(kept.length), &mut whole)?;
            start = damaged.end;
        }
        copy(&mut log, start..kept.length, &mut whole)?;
        whole.sync_all()?;
        fs::rename(&unfinished, path)
    })();
    written.map_err(RunError::io("write", path))
}

fn append_ranges(log: &mut File, path: &Path, ranges: &[Range<u64>]) -> io::Result<()> {
    let mut file = open_own(path, OpenOptions::new().append(true).create(true))?;
    for range in ranges {
        copy(log, range.clone(), &mut file)?;
    }
    file.sync_all()?;
    // The log without these lines must not outlive their own file.
    sync_folder(folder_of(path))
}

fn copy(from: &mut File, range: Range<u64>, to: &mut File) -> io::Result<()> {
    if range.start < range.end {
        from.seek(SeekFrom::Start(range.start))?;
        io::copy(&mut from.take(range.end - range.start), to)?;
    }
    Ok(())
}

/// What is kept of a log when its run is resumed.
#[derive(Default)]
struct Kept {
    /// The end of the last line that is kept.
    length: u64,
    has_header: bool,
    last_step: u64,
    /// The byte ranges of lines that are not events, in order; adjacent ones are merged.
    damaged: Vec<Range<u64>>,
    damaged_lines: u64,
    /// The number of the first damaged line, counted from 1.
    first_damaged: u64,
    changes: Vec<Change>,
}

impl Kept {
    fn of(path: &Path, step: u64, pending: bool) -> Result<Kept, RunError> {
        let mut kept = Kept::default();
        let Some(file) = log::open(path)? else {
            return Ok(kept);
        };
        let mut lines = Lines::new(BufReader::with_capacity(1 << 18, file), 0);
        let mut number = 0;
        while let Some((offset, line)) = lines.next().map_err(RunError::io("read", path))? {
            number += 1;
            let line = match Line::parse(line) {
                Ok(line) => line,
                Err(LineProblem::Newer(format)) => {
                    let path = path.to_path_buf();
                    return Err(RunError::NewerFormat { path, format });
                }
                Err(LineProblem::Broken(_)) => {
                    kept.note_damage(number, offset..lines.position());
                    continue;
                }
            };
            match line {
                Line::Other(Event::End { .. }) => break,
                Line::Other(Event::Header(_)) => kept.has_header = true,
                Line::Other(event) if event.step() > step => break,
                Line::Other(Event::Resume(_) | Event::Ranks(_)) => {}
                Line::Other(Event::Change(change)) => kept.changes.push(change),
                Line::Other(event) if pending && event.step() == step => break,
                Line::Step(taken) if taken.step > step => break,
                Line::Step(taken) => kept.last_step = taken.step,
                Line::Other(_) => {}
            }
            kept.length = lines.position();
        }
        Ok(kept)
    }

    fn note_damage(&mut self, number: u64, range: Range<u64>) {
        if self.damaged_lines == 0 {
            self.first_damaged = number;
        }
        self.damaged_lines += 1;
        match self.damaged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.damaged.push(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EndReason, Sample};
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
        Event::Sample(Sample { step, text })
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
    fn a_resumed_run_has_one_header_and_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let first = Event::Header(header(&["b", "a"]));
        write(&path, 0, &[sample(1), end(1)]);
        assert_eq!(read(&path), [first.clone(), sample(1), end(1)]);
        write(&path, 1, &[sample(2), end(2)]);
        assert_eq!(read(&path), [first, sample(1), sample(2), end(2)]);
    }

    /// They may lead to a file of whoever opens a foreign run.
    #[cfg(unix)]
    #[test]
    fn links_in_place_of_a_log_are_not_written_through() {
        use std::error::Error;
        use std::os::unix::fs::symlink;

        let scratch = tempfile::tempdir().unwrap();
        let [precious, nothing, path] =
            ["precious", "nothing", "events.jsonl"].map(|name| scratch.path().join(name));
        // Without a line break, as the half-written line of a killed run.
        fs::write(&precious, "mine").unwrap();
        for target in [&precious, &nothing] {
            symlink(target, &path).unwrap();
            let error = EventLog::open(&path, 0, &header(&["a"])).unwrap_err();
            let said = error.source().unwrap().to_string();
            assert!(said.starts_with("it is a link; put a copy"), "{said}");
            fs::remove_file(&path).unwrap();
            fs::write(&path, "a line that is no event\n").unwrap();
            let aside = path.with_file_name(DAMAGED);
            symlink(target, &aside).unwrap();
            let error = EventLog::open(&path, 0, &header(&["a"])).unwrap_err();
            assert!(error.to_string().contains(DAMAGED), "{error}");
            for file in [&path, &aside] {
                fs::remove_file(file).unwrap();
            }
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
        assert!(!nothing.exists());
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
    fn damaged_lines_are_set_aside_and_missing_steps_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        write(&path, 0, &[sample(1), sample(2)]);
        let before = fs::read_to_string(&path).unwrap();
        let [first, second, third] = before.lines().collect::<Vec<_>>()[..] else {
            panic!("{before}");
        };
        let torn = format!("{first}\n{second}\n{{\"event\n\0\0\n{third}\n?\n");
        fs::write(&path, torn).unwrap();
        // Left by programs that were killed while they did the same.
        for name in [UNFINISHED, ".events-AbC123"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        let log = EventLog::open(&path, 2, &header(&[])).unwrap();
        let warning = log.warning().unwrap().to_string();
        assert!(
            warning.contains("3 lines, the first is line 3"),
            "{warning}"
        );
        assert!(warning.contains(DAMAGED), "{warning}");
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        let aside = fs::read(folder.path().join(DAMAGED)).unwrap();
        assert_eq!(aside, b"{\"event\n\0\0\n?\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        fs::write(folder.path().join(UNFINISHED), "half").unwrap();
        let log = EventLog::open(&path, 7, &header(&[])).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let warning = log.warning().unwrap();
        assert!(warning.contains("lost the steps from 1 on"), "{warning}");
        drop(log);
        assert_eq!(
            EventLog::open(&path, 0, &header(&[])).unwrap().warning(),
            None
        );
    }

    #[test]
    fn a_pending_evaluation_is_recorded_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        write(&path, 0, &[sample(1), sample(2), sample(2), sample(3)]);
        drop(EventLog::open_after(&path, 2, true, &header(&[])).unwrap());
        assert_eq!(read(&path)[1..], [sample(1)]);
    }

    #[test]
    fn a_resumed_log_of_format_1_gets_a_header() {
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
        let norms = columns.layer_norms(0..columns.rows()).unwrap();
        assert_eq!(norms[0].0, "b");
    }

    #[test]
    fn a_newer_format_is_refused_without_writing() {
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
