//! `events.jsonl`: one line a step, and one for each evaluation. The run's whole history.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use gradclip::{ClipAction, ClipReport, StepRecord};
use serde::{Deserialize, Serialize};

use crate::TrainError;

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
}

impl Event {
    /// Steps taken when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Event::Step(event) => event.step,
            Event::Evaluation { step, .. } => *step,
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

/// Per-tensor norms make up most of a line, and nobody reads them to seventeen digits.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Appends events to a file.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventLog {
    /// Opens the log of a run that has taken `step` steps: later lines are of steps that a
    /// resumed run takes again, and a half-written last line is of a run that was killed; both
    /// are cut off, and what is before them keeps its bytes.
    pub fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let lines = if path.exists() {
            read_lines(path)?
        } else {
            Vec::new()
        };
        let kept = lines
            .into_iter()
            .take_while(|(event, _)| event.step() <= step);
        let length = kept.last().map_or(0, |(_, end)| end);
        let file = OpenOptions::new().append(true).create(true).open(path);
        let cut = file.and_then(|file| file.set_len(length).map(|()| file));
        let file = cut.map_err(TrainError::io("write", path))?;
        Ok(EventLog {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
        })
    }

    /// Appends one line.
    pub fn append(&mut self, event: &Event) -> Result<(), TrainError> {
        self.write_line(event)?;
        // A reader sees whole lines only, and at once.
        self.flush()
    }

    fn write_line(&mut self, event: &Event) -> Result<(), TrainError> {
        let line = serde_json::to_string(event).map_err(std::io::Error::from);
        let written = line.and_then(|line| writeln!(self.file, "{line}"));
        written.map_err(TrainError::io("write", &self.path))
    }

    fn flush(&mut self) -> Result<(), TrainError> {
        self.file
            .flush()
            .map_err(TrainError::io("write", &self.path))
    }
}

/// All whole lines of an event file; a half-written last line is left out.
pub fn read_events(path: &Path) -> Result<Vec<Event>, TrainError> {
    Ok(read_lines(path)?
        .into_iter()
        .map(|(event, _)| event)
        .collect())
}

/// The events, each with the place in the file where its line ends.
fn read_lines(path: &Path) -> Result<Vec<(Event, u64)>, TrainError> {
    let file = File::open(path).map_err(TrainError::io("read", path))?;
    let mut reader = BufReader::new(file);
    let mut events = Vec::new();
    let mut end = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        end += read.map_err(TrainError::io("read", path))? as u64;
        if line.last() != Some(&b'\n') {
            return Ok(events);
        }
        let event = serde_json::from_slice(&line).map_err(|_| TrainError::Folder {
            path: path.to_path_buf(),
            problem: format!("line {} is not an event of this program", events.len() + 1),
        })?;
        events.push((event, end));
    }
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
