//! A glance at a run: the last lines of its log, which are read quickly however long it is.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use crate::columns::End;
use crate::event::Event;
use crate::line::Line;
use crate::regular::open_regular;

/// How many bytes of the end are read at first, and eight times as many until there is a step.
const TAIL: u64 = 1 << 16;
/// The search for a step goes no farther back than this.
const LONGEST_TAIL: u64 = 1 << 25;

/// What the last lines of a log say.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    /// The last step.
    pub step: Option<u64>,
    /// Its loss.
    pub loss: Option<f64>,
    /// The norm of its gradient.
    pub norm: Option<f64>,
    /// Its speed.
    pub tokens_per_second: Option<f64>,
    /// The last validation loss, if it is among these lines.
    pub val_loss: Option<f64>,
    /// How the run ended, if this is the end of the log.
    pub end: Option<End>,
    /// The length of the log in bytes.
    pub length: u64,
    /// When it was last written to.
    pub modified: Option<SystemTime>,
}

impl Glance {
    /// Reads the end of the log at `path`; everything is `None` if it cannot be read.
    pub fn at(path: &Path) -> Glance {
        let (length, modified) = stamp(path);
        let mut tail = TAIL;
        let mut glance = read(path, length, tail).unwrap_or_default();
        while glance.step.is_none() && tail < length.min(LONGEST_TAIL) {
            tail *= 8;
            glance = read(path, length, tail).unwrap_or_default();
        }
        (glance.length, glance.modified) = (length, modified);
        glance
    }

    /// Whether the log at `path` is unchanged since.
    pub fn is_of(&self, path: &Path) -> bool {
        (self.length, self.modified) == stamp(path)
    }
}

fn stamp(path: &Path) -> (u64, Option<SystemTime>) {
    match fs::metadata(path) {
        Ok(metadata) => (metadata.len(), metadata.modified().ok()),
        Err(_) => (0, None),
    }
}

fn read(path: &Path, length: u64, tail: u64) -> io::Result<Glance> {
    let mut file = open_regular(path)?;
    let start = length.saturating_sub(tail);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(tail).read_to_end(&mut bytes)?;
    // The first line is cut off, unless it is the first of the log; after the last line break there
    // is at most a half-written line.
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    lines.pop();
    let whole = lines.into_iter().skip(usize::from(start > 0));
    Ok(of_lines(whole.rev()))
}

/// Takes lines from last to first, until a step and an evaluation are found.
fn of_lines<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Glance {
    let mut glance = Glance::default();
    for (place, line) in lines.enumerate() {
        match Line::parse(line) {
            Ok(Line::Step(step)) if glance.step.is_none() => {
                glance.step = Some(step.step);
                glance.loss = step.loss;
                glance.norm = step.clip.norm_before;
                glance.tokens_per_second = Some(step.tokens_per_second);
            }
            Ok(Line::Other(Event::Evaluation(last))) if glance.val_loss.is_none() => {
                glance.val_loss = Some(last.val_loss);
            }
            // Only the last line can be an end: otherwise the run continued after it.
            Ok(Line::Other(Event::End { how, message, .. })) if place == 0 => {
                glance.end = Some(End { how, message });
            }
            _ => {}
        }
        if glance.step.is_some() && glance.val_loss.is_some() {
            break;
        }
    }
    glance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(step: u64) -> String {
        format!(
            "{{\"event\":\"sample\",\"step\":{step},\"text\":\"{}\"}}\n",
            "x".repeat(1000)
        )
    }

    #[test]
    fn a_step_is_found_after_long_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let tensors: Vec<String> = (0..9_000)
            .map(|tensor| format!("\"layers.{tensor}.weight\":1.0"))
            .collect();
        let step = format!(
            "{{\"event\":\"step\",\"step\":7,\"loss\":2.0,\"lr\":0.1,\"tokens_per_second\":9.0,\
             \"clip\":{{\"action\":\"keep\",\"norm_before\":4.0,\"norm_after\":4.0,\"coefficient\":1.0,\
             \"threshold\":null,\"non_finite\":0,\"clipped_share\":0.0,\"cosine\":1.0,\
             \"tensors\":{{{}}}}}}}\n",
            tensors.join(",")
        );
        assert!(step.len() as u64 > 3 * TAIL);
        let samples: String = (0..100).map(sample).collect();
        fs::write(&path, format!("{step}{samples}")).unwrap();
        assert_eq!(Glance::at(&path).step, Some(7));
    }

    #[test]
    fn the_end_of_a_long_log_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let end = "{\"event\":\"end\",\"step\":9,\"how\":\"stopped\"}\n";
        let long: String = (0..200).map(sample).collect();
        fs::write(&path, format!("{long}{end}")).unwrap();
        assert!(Glance::at(&path).end.is_some());
        fs::write(&path, format!("{long}{end}{}", sample(201))).unwrap();
        assert!(Glance::at(&path).end.is_none());
        fs::write(&path, format!("{long}{end}{{\"event\":\"sam")).unwrap();
        assert!(
            Glance::at(&path).end.is_some(),
            "a half-written line does not count"
        );
        assert!(Glance::at(&folder.path().join("none")).step.is_none());
    }
}
