//! A run's whole log in brief, cached between requests.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shears_run::{Columns, Damage, Evaluation, Judgement, Log, RunError, Subject};

use crate::series::Series;

/// Points of the small curve in the list.
const CURVE: usize = 64;
/// A run's whole log in brief.
#[derive(Debug)]
pub(crate) struct Digest {
    /// The bytes of the log that it covers.
    length: u64,
    /// The length of the file: more, if its last line is half-written.
    pub(crate) file_length: u64,
    made: Instant,
    cost: Duration,
    pub(crate) judgement: Option<Judgement>,
    /// A summary of the exchanges between processes, if there are several.
    pub(crate) exchanged: Option<String>,
    pub(crate) val_loss: Option<f64>,
    /// The evaluation with the lowest loss.
    pub(crate) best: Option<Evaluation>,
    /// See [`rate`].
    pub(crate) lr: Option<f64>,
    /// The gradient norm over the run, and the threshold.
    pub(crate) norms: Vec<f32>,
    pub(crate) thresholds: Vec<f32>,
    pub(crate) damage: Option<Damage>,
}

impl Digest {
    fn of(subject: &Subject, log: &Log, file_length: u64) -> Digest {
        let made = Instant::now();
        let columns = &log.columns;
        let (norms, thresholds) = Series::norm_curve(columns, &subject.policy, CURVE);
        let evaluations = columns.evaluations.iter().copied();
        let finite = evaluations.filter(|evaluation| evaluation.val_loss.is_finite());
        Digest {
            length: log.position(),
            file_length,
            judgement: Some(columns.judge(subject)),
            exchanged: columns.exchanged().map(|summary| summary.to_string()),
            val_loss: columns
                .evaluations
                .last()
                .map(|evaluation| evaluation.val_loss),
            best: finite.min_by(|left, right| left.val_loss.total_cmp(&right.val_loss)),
            lr: rate(columns),
            norms,
            thresholds,
            damage: log.problem(),
            cost: made.elapsed(),
            made,
        }
    }

    /// The digest of a log that cannot be read.
    pub(crate) fn unreadable(error: &RunError, file_length: u64) -> Digest {
        Digest {
            length: 0,
            file_length,
            made: Instant::now(),
            cost: Duration::ZERO,
            judgement: None,
            exchanged: None,
            val_loss: None,
            best: None,
            lr: None,
            norms: Vec::new(),
            thresholds: Vec::new(),
            damage: Some(Damage {
                line: None,
                reason: log_problem(error),
                lines: 0,
            }),
        }
    }
}

/// The highest learning rate since it was last changed, which is the configured one even where a
/// schedule varies it. The plan may have been edited.
fn rate(columns: &Columns) -> Option<f64> {
    let mut changes = columns.changes.iter().rev();
    let changed = changes.find(|change| change.name == "lr");
    let rows = columns.range(changed.map(|change| change.step + 1), None);
    let highest = columns.lr[rows].iter().copied().reduce(f32::max)?;
    // Through text, for the digits of the log instead of those of the `f32`.
    highest.to_string().parse().ok()
}

/// The last digest of a run.
#[derive(Debug, Default)]
pub(crate) struct DigestCache(Mutex<Option<Arc<Digest>>>);

impl DigestCache {
    pub(crate) fn get(&self) -> Option<Arc<Digest>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Digests what was read. While a run is training, a costly digest is kept for some time.
    pub(crate) fn update(
        &self,
        subject: impl FnOnce() -> Subject,
        log: &Log,
        file_length: u64,
        ended: bool,
    ) {
        if let Some(kept) = self.get() {
            let recent = !ended && kept.made.elapsed() < kept.cost * 20;
            let same = kept.file_length == file_length && kept.length == log.position();
            if same || recent && kept.length < log.position() {
                return;
            }
        }
        self.set(Digest::of(&subject(), log, file_length));
    }

    pub(crate) fn set(&self, digest: Digest) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(digest));
    }
}

/// Why a log cannot be read, in plain words.
pub(crate) fn log_problem(error: &RunError) -> String {
    match error.source() {
        Some(source) => format!("the log cannot be read: {source}"),
        None => error.to_string(),
    }
}
