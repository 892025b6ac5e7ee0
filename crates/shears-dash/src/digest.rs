//! What the whole log of a run comes to, kept from one look to the next.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shears_run::{Columns, Damage, Evaluation, Judgement, Log, RunError, Subject};

use crate::series::Series;

/// Points of the small curve beside a run.
const CURVE: usize = 64;
/// What the whole log of a run comes to.
#[derive(Debug)]
pub(crate) struct Digest {
    /// Bytes of the log that it is of.
    length: u64,
    /// Bytes that the file had then: more, if its last line is half-written.
    pub(crate) file_length: u64,
    made: Instant,
    cost: Duration,
    /// What is said about the run.
    pub(crate) judgement: Option<Judgement>,
    pub(crate) val_loss: Option<f64>,
    /// The evaluation with the lowest loss.
    pub(crate) best: Option<Evaluation>,
    /// See [`rate`].
    pub(crate) lr: Option<f64>,
    /// The norm of the gradient over the run, and the threshold beside it.
    pub(crate) norms: Vec<f32>,
    pub(crate) thresholds: Vec<f32>,
    pub(crate) damage: Option<Damage>,
}

impl Digest {
    fn of(subject: &Subject, log: &Log, file_length: u64) -> Digest {
        let made = Instant::now();
        let columns = &log.columns;
        let (norms, thresholds) = Series::norm_curve(columns, CURVE);
        let evaluations = columns.evaluations.iter().copied();
        let finite = evaluations.filter(|evaluation| evaluation.val_loss.is_finite());
        Digest {
            length: log.position(),
            file_length,
            judgement: Some(columns.judge(subject)),
            val_loss: columns
                .evaluations
                .last()
                .map(|evaluation| evaluation.val_loss),
            best: finite.min_by(|left, right| left.val_loss.total_cmp(&right.val_loss)),
            lr: rate(columns),
            norms,
            thresholds,
            damage: log.damage.clone(),
            cost: made.elapsed(),
            made,
        }
    }

    /// Of a log that cannot be read.
    pub(crate) fn unreadable(error: &RunError, file_length: u64) -> Digest {
        Digest {
            length: 0,
            file_length,
            made: Instant::now(),
            cost: Duration::ZERO,
            judgement: None,
            val_loss: None,
            best: None,
            lr: None,
            norms: Vec::new(),
            thresholds: Vec::new(),
            damage: Some(Damage {
                line: None,
                reason: in_words(error),
                lines: 0,
            }),
        }
    }
}

/// The highest learning rate of the steps since it was changed: what was asked for, where a
/// schedule goes up and down. The plan may have been edited.
fn rate(columns: &Columns) -> Option<f64> {
    let mut changes = columns.changes.iter().rev();
    let changed = changes.find(|change| change.name == "lr");
    let rows = columns.range(changed.map(|change| change.step + 1), None);
    let highest = columns.lr[rows].iter().copied().reduce(f32::max)?;
    // As the log has it, and not with the digits of its binary number.
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

    /// A digest of what was read. While a run goes on, a costly one is kept for some time.
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

/// Why a log cannot be read.
pub(crate) fn in_words(error: &RunError) -> String {
    match error.source() {
        Some(source) => format!("the log cannot be read: {source}"),
        None => error.to_string(),
    }
}
