//! A run's log as columns of numbers: what the charts are drawn from.
//!
//! A million steps take about 60 bytes a step and 4 more for each tensor, where the events themselves would
//! take some kilobytes. What is not kept can be read again: the place of each line is.

use gradclip_judge::StepRecord;
use shears_events::{EndReason, Event};

use crate::line::{Line, Named, StepLine};

/// What clipping did at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Keep,
    Clip,
    Skip,
}

/// A full pass over the validation text.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Evaluation {
    pub(crate) step: u64,
    pub(crate) val_loss: f64,
    pub(crate) bits_per_char: f64,
    pub(crate) perplexity: f64,
}

/// What the model wrote as it learned.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Sample {
    pub(crate) step: u64,
    pub(crate) text: String,
}

/// How the run ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) how: EndReason,
    pub(crate) message: Option<String>,
}

/// One number for each kept row, by the name of a parameter. NaN is none.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    pub(crate) names: Vec<String>,
    pub(crate) values: Vec<Vec<f32>>,
}

impl Tensors {
    /// Appends a row, the `rows + 1`th.
    fn push(&mut self, rows: usize, named: &Named<'_>) {
        for (place, (name, value)) in named.0.iter().enumerate() {
            // Names come in the same order at every step.
            let known = match self.names.get(place) {
                Some(known) if known == name => Some(place),
                _ => self.names.iter().position(|known| known == name),
            };
            let column = known.unwrap_or_else(|| {
                self.names.push(name.to_string());
                self.values.push(vec![f32::NAN; rows]);
                self.values.len() - 1
            });
            let values = &mut self.values[column];
            values.resize(rows, f32::NAN);
            values.push(*value as f32);
        }
        for values in &mut self.values {
            values.resize(rows + 1, f32::NAN);
        }
    }

    fn truncate(&mut self, rows: usize) {
        for values in &mut self.values {
            values.truncate(rows);
        }
    }

    fn bytes(&self) -> usize {
        self.values.iter().map(|values| values.capacity() * 4).sum()
    }
}

/// All that is kept of a log. The vectors of a step have one element for each step.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) step: Vec<u64>,
    /// Where the step's line begins in the file.
    pub(crate) place: Vec<u64>,
    pub(crate) action: Vec<Action>,
    pub(crate) loss: Vec<f32>,
    pub(crate) lr: Vec<f32>,
    pub(crate) tokens_per_second: Vec<f32>,
    /// In double precision, as are the next two, so that the verdict is the trainer's own.
    pub(crate) norm_before: Vec<f64>,
    pub(crate) threshold: Vec<f64>,
    pub(crate) coefficient: Vec<f64>,
    pub(crate) norm_after: Vec<f32>,
    pub(crate) cosine: Vec<f32>,
    /// Norms of the gradients of each tensor, before clipping.
    pub(crate) tensors: Tensors,
    /// The steps that have sizes of updates, as rows of the other columns.
    pub(crate) ratio_rows: Vec<usize>,
    /// Norm of the update over that of the weights, for each of `ratio_rows`.
    pub(crate) ratios: Tensors,
    pub(crate) evaluations: Vec<Evaluation>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) end: Option<End>,
}

impl Columns {
    /// Steps.
    pub(crate) fn rows(&self) -> usize {
        self.step.len()
    }

    /// Takes a line that begins at `place`.
    pub(crate) fn push(&mut self, line: Line<'_>, place: u64) {
        // A run that goes on after its end has none.
        self.end = None;
        match line {
            Line::Step(step) => self.push_step(&step, place),
            Line::Other(Event::Evaluation {
                step,
                val_loss,
                bits_per_char,
                perplexity,
            }) => self.evaluations.push(Evaluation {
                step,
                val_loss,
                bits_per_char,
                perplexity,
            }),
            Line::Other(Event::Sample { step, text }) => self.samples.push(Sample { step, text }),
            Line::Other(Event::End { how, message, .. }) => {
                self.end = Some(End { how, message });
            }
            // `Line::parse` gives steps as `Line::Step`; the page does not draw gradients through time.
            Line::Other(Event::Step(_) | Event::StateGradients { .. }) => {}
        }
    }

    fn push_step(&mut self, line: &StepLine<'_>, place: u64) {
        // A step that comes again replaces all from there on: a resumed run takes it anew.
        if self.step.last().is_some_and(|last| line.step <= *last) {
            self.truncate(line.step);
        }
        let rows = self.rows();
        self.tensors.push(rows, &line.clip.tensors);
        if !line.update_ratios.0.is_empty() {
            self.ratios.push(self.ratio_rows.len(), &line.update_ratios);
            self.ratio_rows.push(rows);
        }
        let single = |value: Option<f64>| value.map_or(f32::NAN, |value| value as f32);
        self.step.push(line.step);
        self.place.push(place);
        self.action.push(match &*line.clip.action {
            "clip" => Action::Clip,
            "skip" => Action::Skip,
            _ => Action::Keep,
        });
        self.loss.push(single(line.loss));
        self.lr.push(single(line.lr));
        self.tokens_per_second.push(single(line.tokens_per_second));
        self.norm_before
            .push(line.clip.norm_before.unwrap_or(f64::NAN));
        self.threshold.push(line.clip.threshold.unwrap_or(f64::NAN));
        self.coefficient
            .push(line.clip.coefficient.unwrap_or(f64::NAN));
        self.norm_after.push(single(line.clip.norm_after));
        self.cosine.push(single(line.clip.cosine));
    }

    /// Drops the steps from `step` on, and what was noted at them.
    fn truncate(&mut self, step: u64) {
        let rows = self.step.partition_point(|known| *known < step);
        self.step.truncate(rows);
        self.place.truncate(rows);
        self.action.truncate(rows);
        self.norm_before.truncate(rows);
        self.threshold.truncate(rows);
        self.coefficient.truncate(rows);
        for column in [
            &mut self.loss,
            &mut self.lr,
            &mut self.tokens_per_second,
            &mut self.norm_after,
            &mut self.cosine,
        ] {
            column.truncate(rows);
        }
        self.tensors.truncate(rows);
        let ratio_rows = self.ratio_rows.partition_point(|row| *row < rows);
        self.ratio_rows.truncate(ratio_rows);
        self.ratios.truncate(ratio_rows);
        self.evaluations.retain(|evaluation| evaluation.step < step);
        self.samples.retain(|sample| sample.step < step);
    }

    /// What the verdict needs of each step.
    pub(crate) fn records(&self) -> impl Iterator<Item = StepRecord> {
        (0..self.rows()).map(|row| {
            let (action, norm_before) = (self.action[row], self.norm_before[row]);
            StepRecord {
                norm_before,
                threshold: Some(self.threshold[row]).filter(|threshold| threshold.is_finite()),
                coefficient: self.coefficient[row],
                clipped: action == Action::Clip,
                skipped: action == Action::Skip,
                outlier: action == Action::Skip && norm_before.is_finite(),
            }
        })
    }

    /// The rows of the steps from `from` to `to`, both included.
    pub(crate) fn range(&self, from: Option<u64>, to: Option<u64>) -> std::ops::Range<usize> {
        let start = from.map_or(0, |from| self.step.partition_point(|step| *step < from));
        let end = to.map_or(self.rows(), |to| {
            self.step.partition_point(|step| *step <= to)
        });
        start..end.max(start)
    }

    /// The row of a step.
    pub(crate) fn row(&self, step: u64) -> Option<usize> {
        self.step.binary_search(&step).ok()
    }

    /// Memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let texts: usize = self
            .samples
            .iter()
            .map(|sample| sample.text.len() + 40)
            .sum();
        let words = self.step.capacity() * 5 + self.loss.capacity() * 5 / 2;
        words * 8
            + self.action.capacity()
            + self.ratio_rows.capacity() * 8
            + self.tensors.bytes()
            + self.ratios.bytes()
            + self.evaluations.capacity() * 32
            + texts
    }
}
