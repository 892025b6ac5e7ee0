//! The event log of a run, `events.jsonl`: one line a step, and one for all else that happens. It is
//! the run's memory: the terminal, `shears inspect`, the live page and every report are computed
//! from it alone, so that they cannot disagree.
//!
//! This crate knows no tensors. A log can be read while a program writes to it: [`read_events`]
//! leaves a half-written last line out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use gradclip::{ClipAction, ClipReport};
use gradclip_judge::{StepRecord, Verdict};
use serde::{Deserialize, Serialize};

/// Why a log cannot be read or written. Each message is one line: what, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// Reading or writing failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "write", "read".
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A whole line is not as this program writes it.
    #[error("{}: line {line} is not an event of this program", path.display())]
    NotAnEvent {
        /// The log.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl EventError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EventError {
        let path = path.to_path_buf();
        move |source| EventError::Io {
            action,
            path,
            source,
        }
    }
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A training step.
    Step(StepEvent),
    /// A full pass over the validation text.
    Evaluation {
        /// Steps taken so far.
        step: u64,
        /// Nats a token.
        #[serde(with = "null_if_not_finite")]
        val_loss: f64,
        /// Bits a character.
        #[serde(with = "null_if_not_finite")]
        bits_per_char: f64,
        /// `exp(val_loss)`.
        #[serde(with = "null_if_not_finite")]
        perplexity: f64,
    },
    /// The model wrote something, to show what it has learned.
    Sample {
        /// Steps taken so far.
        step: u64,
        /// What it wrote.
        text: String,
    },
    /// How far gradients reach back in time in a recurrent model, at the first step and beside each
    /// evaluation.
    StateGradients {
        /// Steps taken so far.
        step: u64,
        /// For each layer, the norm of the gradient of the loss at the last token of a window, before
        /// clipping, by what the layer carried one token before that prediction, two tokens
        /// before, and so on; null where it is not finite.
        layers: BTreeMap<String, Vec<Option<f64>>>,
    },
    /// The run ended; always the last line. A log without it is of a run that goes on or was killed.
    End {
        /// Steps taken so far.
        step: u64,
        /// Why.
        how: EndReason,
        /// In words, where there is more to say.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        message: Option<String>,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// All steps of the plan were taken.
    Finished,
    /// The validation loss no longer improved.
    OutOfPatience,
    /// Somebody asked for it; the run can be resumed.
    Stopped,
    /// Gradients were not finite.
    Diverged,
    /// Something else went wrong, such as a full disk.
    Failed,
}

impl Event {
    /// Steps taken when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Event::Step(event) => event.step,
            Event::Evaluation { step, .. }
            | Event::Sample { step, .. }
            | Event::StateGradients { step, .. }
            | Event::End { step, .. } => *step,
        }
    }
}

/// What a training step found and did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps taken, this one included.
    pub step: u64,
    /// Mean loss of the step's tokens, in nats a token; null if it is not finite.
    pub loss: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// Speed of this step.
    pub tokens_per_second: f64,
    /// What clipping found and did.
    pub clip: ClipEvent,
    /// At some steps: for each parameter, the norm of its update as a share of its own norm. About
    /// 0.001 is healthy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub update_ratios: BTreeMap<String, f64>,
}

/// The line's form of a [`ClipReport`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipEvent {
    /// `keep`, `clip` or `skip`.
    pub action: String,
    /// Norm of the gradient before clipping; null if the step was skipped because it is not finite.
    #[serde(with = "null_if_not_finite")]
    pub norm_before: f64,
    /// Norm of what the optimizer got.
    pub norm_after: f64,
    /// `norm_after / norm_before`.
    pub coefficient: f64,
    /// The threshold in force.
    pub threshold: Option<f64>,
    /// Why a step was skipped, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skip_reason: Option<String>,
    /// Elements that were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor that had one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_non_finite: Option<String>,
    /// Share of elements that clipping by value changed.
    pub clipped_share: f64,
    /// Cosine between the gradient before and after: below 1, direction was lost.
    pub cosine: f64,
    /// Norm before clipping of each tensor, with six digits; without those that are not finite.
    pub tensors: BTreeMap<String, f64>,
}

impl From<&ClipReport> for ClipEvent {
    fn from(report: &ClipReport) -> Self {
        let norms = report
            .tensors
            .iter()
            .filter(|t| t.norm_before.is_finite())
            .map(|t| (t.name.clone(), six_digits(t.norm_before)));
        ClipEvent {
            action: match report.action {
                ClipAction::Keep => "keep",
                ClipAction::Clip => "clip",
                ClipAction::Skip => "skip",
            }
            .to_string(),
            norm_before: report.norm_before,
            norm_after: report.norm_after,
            coefficient: report.coefficient,
            threshold: report.threshold.filter(|threshold| threshold.is_finite()),
            skip_reason: report.skip_reason.map(|reason| reason.to_string()),
            non_finite: report.non_finite,
            first_non_finite: report.first_non_finite.clone(),
            clipped_share: report.clipped_share,
            cosine: report.cosine,
            tensors: norms.collect(),
        }
    }
}

impl ClipEvent {
    /// What the verdict of a run needs of a step.
    pub fn record(&self) -> StepRecord {
        StepRecord {
            norm_before: self.norm_before,
            threshold: self.threshold,
            coefficient: self.coefficient,
            clipped: self.action == "clip",
            skipped: self.action == "skip",
            outlier: self.action == "skip" && self.norm_before.is_finite(),
        }
    }
}

/// A number with six digits: numbers for each tensor make up most of a line, and nobody reads them to
/// seventeen.
pub fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Appends events to a file.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventLog {
    /// Opens the log of a run that has taken `step` steps. Later lines are of steps that a resumed run
    /// takes again, an end is none if the run goes on, and a half-written last line is of a run
    /// that was killed; they are cut off, and what is before them keeps its bytes.
    pub fn open(path: &Path, step: u64) -> Result<Self, EventError> {
        let lines = if path.exists() {
            read_lines(path)?
        } else {
            Vec::new()
        };
        let kept = lines
            .into_iter()
            .take_while(|(event, _)| event.step() <= step && !matches!(event, Event::End { .. }));
        let length = kept.last().map_or(0, |(_, end)| end);
        let file = OpenOptions::new().append(true).create(true).open(path);
        let cut = file.and_then(|file| file.set_len(length).map(|()| file));
        let file = cut.map_err(EventError::io("write", path))?;
        Ok(EventLog {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
        })
    }

    /// Appends one line.
    pub fn append(&mut self, event: &Event) -> Result<(), EventError> {
        self.write_line(event)?;
        // A reader sees whole lines only, and at once.
        self.flush()
    }

    fn write_line(&mut self, event: &Event) -> Result<(), EventError> {
        let line = serde_json::to_string(event).map_err(std::io::Error::from);
        let written = line.and_then(|line| writeln!(self.file, "{line}"));
        written.map_err(EventError::io("write", &self.path))
    }

    fn flush(&mut self) -> Result<(), EventError> {
        self.file
            .flush()
            .map_err(EventError::io("write", &self.path))
    }
}

/// All whole lines of an event file; a half-written last line is left out.
pub fn read_events(path: &Path) -> Result<Vec<Event>, EventError> {
    Ok(read_lines(path)?
        .into_iter()
        .map(|(event, _)| event)
        .collect())
}

/// The events, each with the place in the file where its line ends.
fn read_lines(path: &Path) -> Result<Vec<(Event, u64)>, EventError> {
    let file = File::open(path).map_err(EventError::io("read", path))?;
    let mut reader = BufReader::new(file);
    let mut events = Vec::new();
    let mut end = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        end += read.map_err(EventError::io("read", path))? as u64;
        if line.last() != Some(&b'\n') {
            return Ok(events);
        }
        let event = serde_json::from_slice(&line).map_err(|_| EventError::NotAnEvent {
            path: path.to_path_buf(),
            line: events.len() + 1,
        })?;
        events.push((event, end));
    }
}

/// The verdict on the clipping of a run.
pub fn verdict(events: &[Event]) -> Option<Verdict> {
    Verdict::of(events.iter().filter_map(|event| match event {
        Event::Step(step) => Some(step.clip.record()),
        _ => None,
    }))
}

/// JSON has no NaN and no infinity: they are written as null, and null is read as NaN.
mod null_if_not_finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Some(value)
            .filter(|value| value.is_finite())
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut log = EventLog::open(path, step).unwrap();
        for event in events {
            log.append(event).unwrap();
        }
    }

    #[test]
    fn a_run_that_goes_on_has_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        write(&path, 0, &[sample(1), end(1)]);
        assert_eq!(read_events(&path).unwrap(), [sample(1), end(1)]);
        write(&path, 1, &[sample(2), end(2)]);
        assert_eq!(read_events(&path).unwrap(), [sample(1), sample(2), end(2)]);
    }

    #[test]
    fn an_evaluation_that_is_not_finite_survives_its_line() {
        let (step, val_loss, bits_per_char) = (7, 1e3, f64::NAN);
        let perplexity = f64::INFINITY;
        let event = Event::Evaluation {
            step,
            val_loss,
            bits_per_char,
            perplexity,
        };
        let line = serde_json::to_string(&event).unwrap();
        assert!(line.contains("\"perplexity\":null"), "{line}");
        let Event::Evaluation {
            val_loss,
            perplexity,
            ..
        } = serde_json::from_str(&line).unwrap()
        else {
            panic!("{line} is read as another event");
        };
        assert!(val_loss == 1e3 && perplexity.is_nan());
    }
}
