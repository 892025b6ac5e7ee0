//! A glance at a run: its last lines, which are read at once however long its log is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use shears_events::Event;

use crate::columns::End;
use crate::line::Line;

/// How many bytes of the end are read.
const TAIL: u64 = 1 << 16;

/// What the last lines of a log say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Glance {
    pub(crate) step: Option<u64>,
    pub(crate) loss: Option<f64>,
    pub(crate) norm: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    /// The last validation loss, if it is among these lines.
    pub(crate) val_loss: Option<f64>,
    pub(crate) end: Option<End>,
    /// Bytes of the whole log.
    pub(crate) length: u64,
    /// When it was last written to.
    pub(crate) modified: Option<SystemTime>,
}

/// The last glance at a run, kept until its log changes.
#[derive(Debug, Default)]
pub(crate) struct GlanceCache(Mutex<Option<Arc<Glance>>>);

impl GlanceCache {
    /// What the end of the log at `path` says.
    pub(crate) fn look(&self, path: &Path) -> Arc<Glance> {
        let (length, modified) = match fs::metadata(path) {
            Ok(metadata) => (metadata.len(), metadata.modified().ok()),
            Err(_) => (0, None),
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(glance) = kept.as_ref()
            && (glance.length, glance.modified) == (length, modified)
        {
            return glance.clone();
        }
        let mut glance = read(path, length).unwrap_or_default();
        (glance.length, glance.modified) = (length, modified);
        let glance = Arc::new(glance);
        *kept = Some(glance.clone());
        glance
    }
}

fn read(path: &Path, length: u64) -> io::Result<Glance> {
    let mut file = File::open(path)?;
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    // The first line is cut, unless it is the first of all; what follows the last line break is half-written.
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    lines.pop();
    let whole = lines.into_iter().skip(usize::from(start > 0));
    Ok(of_lines(whole.rev()))
}

/// From the last line backwards, until a step and an evaluation are found.
fn of_lines<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Glance {
    let mut glance = Glance::default();
    for (place, line) in lines.enumerate() {
        match Line::parse(line) {
            Ok(Line::Step(step)) if glance.step.is_none() => {
                glance.step = Some(step.step);
                glance.loss = step.loss;
                glance.norm = step.clip.norm_before;
                glance.tokens_per_second = step.tokens_per_second;
            }
            Ok(Line::Other(Event::Evaluation { val_loss, .. })) if glance.val_loss.is_none() => {
                glance.val_loss = Some(val_loss);
            }
            // Only as the last line it is an end: the run may have gone on after it.
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
    fn the_end_of_a_long_log_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let end = "{\"event\":\"end\",\"step\":9,\"how\":\"stopped\"}\n";
        let long: String = (0..200).map(sample).collect();
        let cache = GlanceCache::default();
        fs::write(&path, format!("{long}{end}")).unwrap();
        assert!(cache.look(&path).end.is_some());
        fs::write(&path, format!("{long}{end}{}", sample(201))).unwrap();
        assert!(cache.look(&path).end.is_none());
        fs::write(&path, format!("{long}{end}{{\"event\":\"sam")).unwrap();
        assert!(
            cache.look(&path).end.is_some(),
            "a half-written line is none"
        );
        assert!(cache.look(&folder.path().join("none")).step.is_none());
    }
}
