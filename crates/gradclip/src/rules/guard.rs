//! `skip`: the guard, which judges the unmodified gradients, so that a skipped step changes
//! nothing.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::prefixed;
use super::running::Window;
use crate::measure::{Measure, norm_of_all};
use crate::significant::significant;
use crate::state::{Lists, StateError, is_norm};
use crate::threshold::{NormOrder, Positive, Steps};

/// Why a step is skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SkipReason {
    /// A gradient has non-finite elements, under [`NonFinite::Skip`](crate::NonFinite::Skip).
    NonFinite,
    /// The norm of all gradients is an outlier.
    Norm {
        /// The norm.
        norm: f64,
        /// The largest value that is not an outlier.
        limit: f64,
    },
    /// The loss is an outlier.
    Loss {
        /// The loss.
        loss: f64,
        /// The largest value that is not an outlier.
        limit: f64,
    },
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, value, limit) = match self {
            SkipReason::NonFinite => return formatter.write_str("non-finite gradients"),
            SkipReason::Norm { norm, limit } => ("norm", norm, limit),
            SkipReason::Loss { loss, limit } => ("loss", loss, limit),
        };
        let [value, limit] = [*value, *limit].map(significant);
        write!(formatter, "{what} {value} is an outlier, above {limit}")
    }
}

/// The rule `skip`, with what it has learned.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// The prefix of its list names in a [`ClipperState`](crate::ClipperState).
    prefix: String,
    sigma: Positive,
    limit: Steps<1>,
    norms: Window,
    losses: Window,
    /// The number of steps skipped in a row, the only state that a skipped step changes.
    skipped: u32,
}

/// The guard's judgement of a step, which is also what it learns from.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// Why to skip the step, if it should be skipped.
    pub(crate) skip: Option<SkipReason>,
    /// The norm above which a step is skipped, once enough steps are known.
    pub(crate) threshold: Option<f64>,
    norm: f64,
    loss: Option<f64>,
    /// Whether the step is an outlier, applied only because too many in a row were skipped.
    start_over: bool,
}

impl Guard {
    pub(super) fn new(prefix: String, sigma: Positive, empty: Window, limit: Steps<1>) -> Guard {
        Guard {
            prefix,
            sigma,
            limit,
            norms: empty.clone(),
            losses: empty,
            skipped: 0,
        }
    }

    /// Judges a step by its norm, and by its loss if known and finite.
    pub(crate) fn judge(&self, measures: &[Measure], loss: Option<f64>) -> Judgement {
        let norm = norm_of_all(measures, NormOrder::TWO).value();
        let loss = loss.filter(|loss| loss.is_finite());
        let norm_limit = self.norms.limit(self.sigma.get());
        let loss_limit = self.losses.limit(self.sigma.get());
        let norm_outlier = norm_limit.filter(|limit| norm > *limit);
        let loss_outlier = loss.zip(loss_limit).filter(|(loss, limit)| loss > limit);
        let reason = norm_outlier
            .map(|limit| SkipReason::Norm { norm, limit })
            .or(loss_outlier.map(|(loss, limit)| SkipReason::Loss { loss, limit }));
        let enough = self.skipped >= self.limit.get();
        Judgement {
            skip: reason.filter(|_| !enough),
            threshold: norm_limit,
            norm,
            loss,
            start_over: enough && reason.is_some(),
        }
    }

    /// Counts a skipped step.
    pub(crate) fn count_skip(&mut self) {
        // Learning the same decision twice must not exceed the range that `restore` accepts.
        self.skipped = (self.skipped + 1).min(self.limit.get());
    }

    /// Learns from an applied step. A zero norm says nothing about the size of ordinary norms.
    pub(crate) fn learn(&mut self, step: &Judgement) {
        self.skipped = 0;
        if step.start_over {
            // So many outliers in a row are a new level, which the old values do not describe.
            self.norms.clear();
            self.losses.clear();
        }
        if step.norm <= 0.0 {
            return;
        }
        self.norms.push(step.norm);
        if let Some(loss) = step.loss {
            self.losses.push(loss);
        }
    }

    pub(crate) fn state(&self) -> Vec<(String, Vec<f64>)> {
        let lists = [
            ("norms".into(), self.norms.to_vec()),
            ("losses".into(), self.losses.to_vec()),
            ("skipped".into(), [f64::from(self.skipped)].into()),
        ];
        prefixed(&self.prefix, lists.into())
    }

    pub(crate) fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        lists.prefix.clone_from(&self.prefix);
        self.norms.restore(lists, "norms", is_norm)?;
        let is_finite = |loss: &f64| loss.is_finite();
        self.losses.restore(lists, "losses", is_finite)?;
        let skipped = lists.count("skipped")?;
        if skipped > u64::from(self.limit.get()) {
            return Err(lists.wrong("skipped", "must be a number up to the limit of skips"));
        }
        self.skipped = skipped as u32;
        Ok(())
    }
}
