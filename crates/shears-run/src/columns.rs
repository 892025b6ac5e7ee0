//! A run's log as columns, from which charts, verdicts and reports are made.
//!
//! A step takes about 60 bytes and 4 more for each tensor, where the event itself would take some
//! kilobytes. The offset of each line is kept, so that everything else can be read again.

use std::collections::HashMap;

use gradclip::ClipAction;
use gradclip_judge::{StepRecord, TimeFlow};

use crate::event::{Change, EndReason, Evaluation, Event, Resume, Sample};
use crate::header::Header;
use crate::line::{Line, Named, StepLine};
use crate::ranks::{ExchangeEvent, ExchangeSummary, RanksEvent};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub how: EndReason,
    /// In words, if there is more to say.
    pub message: Option<String>,
}

/// One value per row, by the name of a parameter. A missing value is NaN.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    /// In the order of the forward pass; in a log without a header, alphabetically.
    pub names: Vec<String>,
    /// A column for each name.
    pub values: Vec<Vec<f32>>,
    /// The column of each entry of the last line: names come in the same order at every step.
    order: Vec<usize>,
    /// The column of each name.
    places: HashMap<String, usize>,
    /// The position of each name in the forward pass.
    ranks: HashMap<String, usize>,
    /// The number of values that were present in a line; the others are gaps.
    filled: usize,
}

/// Gaps that columns may have in addition to as many as their values: tensors come at every step,
/// and a log with new names in every line must not fill the memory with gaps.
const MOST_GAPS: usize = 1 << 14;

/// The most columns that a header creates in advance; others are created by their first value.
const MOST_OF_A_HEADER: usize = 1 << 12;

impl Tensors {
    /// Appends row number `rows`.
    fn push(&mut self, rows: usize, named: &Named<'_>) {
        self.order.resize(named.0.len(), usize::MAX);
        let columns = self.names.len();
        for (place, (name, value)) in named.0.iter().enumerate() {
            let expected = self.order[place];
            let known = match self.names.get(expected) {
                Some(known) if known == name => Some(expected),
                _ => self.places.get(name.as_ref()).copied(),
            };
            if known.is_none() && (self.names.len() + 1) * (rows + 1) > 2 * self.filled + MOST_GAPS
            {
                continue;
            }
            let column = known.unwrap_or_else(|| self.add(name.to_string(), rows));
            self.order[place] = column;
            self.filled += 1;
            let values = &mut self.values[column];
            values.resize(rows, f32::NAN);
            values.push(*value as f32);
        }
        for values in &mut self.values {
            values.resize(rows + 1, f32::NAN);
        }
        if self.names.len() > columns && !self.ranks.is_empty() {
            self.sort();
        }
    }

    /// Adds a column for a name that was absent from the first `rows` rows.
    fn add(&mut self, name: String, rows: usize) -> usize {
        self.places.insert(name.clone(), self.names.len());
        self.names.push(name);
        self.values.push(vec![f32::NAN; rows]);
        self.values.len() - 1
    }

    /// Sorts the columns by these names, and creates missing ones; columns with other names come
    /// last.
    fn arrange<'a>(&mut self, names: impl Iterator<Item = &'a str>, rows: usize) {
        self.ranks.clear();
        for (rank, name) in names.enumerate() {
            self.ranks.insert(name.to_string(), rank);
            if rank < MOST_OF_A_HEADER && !self.places.contains_key(name) {
                self.add(name.to_string(), rows);
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        let names = std::mem::take(&mut self.names).into_iter();
        let mut columns: Vec<_> = names.zip(std::mem::take(&mut self.values)).collect();
        columns.sort_by_key(|(name, _)| self.ranks.get(name).copied().unwrap_or(usize::MAX));
        (self.names, self.values) = columns.into_iter().unzip();
        let names = self.names.iter().cloned().enumerate();
        self.places = names.map(|(place, name)| (name, place)).collect();
        self.order.clear();
    }

    fn truncate(&mut self, rows: usize) {
        for values in &mut self.values {
            values.truncate(rows);
        }
        self.filled = self.filled.min(self.values.len() * rows);
    }

    fn forget(&mut self, rows: usize) {
        for values in &mut self.values {
            values.drain(..rows);
        }
        self.filled = self
            .filled
            .min(self.values.len() * self.values.first().map_or(0, Vec::len));
    }

    fn bytes(&self) -> usize {
        self.values.iter().map(|values| values.capacity() * 4).sum()
    }
}

/// Bytes of a step in [`Columns::estimate`]: 62 in columns, the rest in the judgement, which copies
/// and sorts.
const OF_STEP: u64 = 180;

/// The content of a log. The vectors of a step have one element per step; missing and non-finite
/// values are NaN.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// The header; `None` for a log of format 1.
    pub header: Option<Header>,
    /// Steps taken, this one included.
    pub step: Vec<u64>,
    /// The offset of the step's line in the file.
    pub offset: Vec<u64>,
    /// What clipping did.
    pub action: Vec<ClipAction>,
    /// Whether an element of the gradients was not finite.
    pub non_finite: Vec<bool>,
    /// The first tensor with such an element.
    pub first_non_finite: Option<String>,
    /// Mean loss of the step's tokens, in nats per token.
    pub loss: Vec<f32>,
    /// The learning rate.
    pub lr: Vec<f32>,
    /// The speed of the step.
    pub tokens_per_second: Vec<f32>,
    /// In double precision, as are the next two, so that the verdict equals the trainer's own.
    pub norm_before: Vec<f64>,
    /// The threshold in force.
    pub threshold: Vec<f64>,
    /// `norm_after / norm_before`.
    pub coefficient: Vec<f64>,
    /// Norm of the gradient that the optimizer applied.
    pub norm_after: Vec<f32>,
    /// Cosine between the gradient before and after.
    pub cosine: Vec<f32>,
    /// Norm of each tensor's gradient, before clipping.
    pub tensors: Tensors,
    /// The rows that have update ratios.
    pub ratio_rows: Vec<usize>,
    /// Norm of the update over that of the weights, for each of `ratio_rows`.
    pub ratios: Tensors,
    /// All evaluations, in order.
    pub evaluations: Vec<Evaluation>,
    /// All texts that the model generated.
    pub samples: Vec<Sample>,
    /// How far gradients reached back in time, whenever that was measured.
    pub time_flows: Vec<TimeFlow>,
    /// Where the run was resumed, in order.
    pub resumes: Vec<Resume>,
    /// The settings that were changed on resuming.
    pub changes: Vec<Change>,
    /// The processes that trained the run, and from which step on.
    pub ranks: Vec<RanksEvent>,
    /// The steps at which ranks exchanged their gradients, and how.
    pub exchanges: Vec<(u64, ExchangeEvent)>,
    /// How the run ended; `None` if it is still training or was killed.
    pub end: Option<End>,
}

impl Columns {
    /// An estimate of the memory in bytes for reading and judging a log of `steps` steps with the
    /// norms of `tensors` tensors.
    pub fn estimate(steps: u64, tensors: usize) -> u64 {
        let row = OF_STEP.saturating_add(4 * tensors as u64);
        steps.saturating_mul(row)
    }

    /// The first step without a line before a later one with it, and the number of all of them.
    pub fn missing_steps(&self) -> Option<(u64, u64)> {
        let before = std::iter::once(&0).chain(&self.step);
        let gaps = before
            .zip(&self.step)
            .filter(|(before, step)| **before + 1 < **step);
        let gaps = gaps.map(|(before, step)| (before + 1, step - before - 1));
        gaps.reduce(|(first, sum), (_, steps)| (first, sum + steps))
    }

    /// The number of steps.
    pub fn rows(&self) -> usize {
        self.step.len()
    }

    /// Adds an event of a run that trains in this process, as if it had been read from the log.
    pub fn take(&mut self, event: Event) {
        let line = match event {
            Event::Step(step) => Line::Step(step.into()),
            other => Line::Other(other),
        };
        self.push(line, 0);
    }

    /// Adds a line that starts at `offset`.
    pub(crate) fn push(&mut self, line: Line<'_>, offset: u64) {
        // A run that continues after its end has not ended.
        self.end = None;
        match line {
            Line::Step(step) => self.push_step(&step, offset),
            Line::Other(event) => self.push_event(event),
        }
    }

    fn push_event(&mut self, event: Event) {
        // An event replaces earlier ones at the same or a later step: a resumed run records them
        // again.
        let at = event.step();
        match &event {
            Event::Evaluation(_) => drop_from(&mut self.evaluations, |known| known.step >= at),
            Event::Sample(_) => drop_from(&mut self.samples, |known| known.step >= at),
            Event::StateGradients { .. } => {
                drop_from(&mut self.time_flows, |known| known.step >= at);
            }
            // Each resume counts, even two from the same step.
            Event::Resume(_) | Event::Change(_) | Event::Ranks(_) => {}
            Event::Header(_) | Event::Step(_) | Event::End { .. } => {}
        }
        match event {
            Event::Evaluation(evaluation) => self.evaluations.push(evaluation),
            Event::Sample(sample) => self.samples.push(sample),
            Event::StateGradients { step, layers } => {
                let layers: Vec<&[_]> = layers.values().map(Vec::as_slice).collect();
                self.time_flows.extend(TimeFlow::of(step, &layers));
            }
            Event::Resume(resume) => self.resumes.push(resume),
            Event::Change(change) => self.changes.push(change),
            Event::Ranks(ranks) => self.ranks.push(ranks),
            Event::End { how, message, .. } => self.end = Some(End { how, message }),
            Event::Header(header) => {
                let known = self.header.take();
                if known.is_some_and(|known| known.parameters != header.parameters) {
                    (self.tensors, self.ratios) = Default::default();
                }
                let names = || header.parameters.iter().map(|p| p.name.as_str());
                self.tensors.arrange(names(), self.step.len());
                self.ratios.arrange(names(), self.ratio_rows.len());
                self.header = Some(header);
            }
            // `Line::parse` returns steps as `Line::Step`.
            Event::Step(_) => {}
        }
    }

    fn push_step(&mut self, line: &StepLine<'_>, offset: u64) {
        // A repeated step replaces everything from there on: a resumed run takes it again.
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
        self.offset.push(offset);
        self.action.push(line.clip.action);
        self.non_finite.push(line.clip.non_finite > 0);
        if self.first_non_finite.is_none() {
            let first = line.clip.first_non_finite.as_deref();
            self.first_non_finite = first.map(String::from);
        }
        self.loss.push(single(line.loss));
        self.lr.push(line.lr as f32);
        self.tokens_per_second.push(line.tokens_per_second as f32);
        self.norm_before
            .push(line.clip.norm_before.unwrap_or(f64::NAN));
        self.threshold.push(line.clip.threshold.unwrap_or(f64::NAN));
        self.coefficient.push(line.clip.coefficient);
        self.norm_after.push(line.clip.norm_after as f32);
        self.cosine.push(single(line.clip.cosine));
        let exchange = line.exchange.map(|exchange| (line.step, exchange));
        self.exchanges.extend(exchange);
    }

    /// Drops the steps from `step` on, and what was recorded at them.
    pub fn truncate(&mut self, step: u64) {
        let rows = self.step.partition_point(|known| *known < step);
        self.step.truncate(rows);
        self.offset.truncate(rows);
        self.action.truncate(rows);
        self.non_finite.truncate(rows);
        if !self.non_finite.contains(&true) {
            self.first_non_finite = None;
        }
        self.norm_before.truncate(rows);
        self.threshold.truncate(rows);
        self.coefficient.truncate(rows);
        for column in self.singles() {
            column.truncate(rows);
        }
        self.tensors.truncate(rows);
        let ratio_rows = self.ratio_rows.partition_point(|row| *row < rows);
        self.ratio_rows.truncate(ratio_rows);
        self.ratios.truncate(ratio_rows);
        self.evaluations.retain(|evaluation| evaluation.step < step);
        self.samples.retain(|sample| sample.step < step);
        self.time_flows.retain(|flow| flow.step < step);
        self.resumes.retain(|resume| resume.step < step);
        self.changes.retain(|change| change.step < step);
        self.ranks.retain(|ranks| ranks.step < step);
        self.exchanges.retain(|(taken, _)| *taken < step);
    }

    /// Forgets the first `rows` steps, and nothing else that was recorded.
    pub fn forget(&mut self, rows: usize) {
        self.step.drain(..rows);
        self.offset.drain(..rows);
        self.action.drain(..rows);
        self.non_finite.drain(..rows);
        for column in [
            &mut self.norm_before,
            &mut self.threshold,
            &mut self.coefficient,
        ] {
            column.drain(..rows);
        }
        for column in self.singles() {
            column.drain(..rows);
        }
        self.tensors.forget(rows);
        let ratio_rows = self.ratio_rows.partition_point(|row| *row < rows);
        self.ratio_rows.drain(..ratio_rows);
        self.ratio_rows.iter_mut().for_each(|row| *row -= rows);
        self.ratios.forget(ratio_rows);
    }

    /// The columns in single precision.
    fn singles(&mut self) -> [&mut Vec<f32>; 5] {
        [
            &mut self.loss,
            &mut self.lr,
            &mut self.tokens_per_second,
            &mut self.norm_after,
            &mut self.cosine,
        ]
    }

    /// A summary of the exchanges between processes; `None` for a run of one process.
    pub fn exchanged(&self) -> Option<ExchangeSummary> {
        ExchangeSummary::of(self.exchanges.iter().map(|(_, exchange)| exchange))
    }

    /// What the verdict needs to know of each step.
    pub fn records(&self) -> impl Iterator<Item = StepRecord> {
        (0..self.rows()).map(|row| StepRecord {
            step: self.step[row],
            loss: Some(f64::from(self.loss[row])),
            norm_before: self.norm_before[row],
            threshold: Some(self.threshold[row]).filter(|threshold| threshold.is_finite()),
            coefficient: self.coefficient[row],
            action: self.action[row],
            non_finite: self.non_finite[row],
        })
    }

    /// The rows of the steps from `from` to `to`, inclusive.
    pub fn range(&self, from: Option<u64>, to: Option<u64>) -> std::ops::Range<usize> {
        let start = from.map_or(0, |from| self.step.partition_point(|step| *step < from));
        let end = to.map_or(self.rows(), |to| {
            self.step.partition_point(|step| *step <= to)
        });
        start..end.max(start)
    }

    /// The row of a step.
    pub fn row(&self, step: u64) -> Option<usize> {
        self.step.binary_search(&step).ok()
    }

    /// The approximate memory in bytes.
    pub fn bytes(&self) -> usize {
        let texts: usize = self
            .samples
            .iter()
            .map(|sample| sample.text.len() + 40)
            .sum();
        let flows: usize = self
            .time_flows
            .iter()
            .map(|flow| flow.norms.len() * 8 + 40)
            .sum();
        let words = self.step.capacity() * 5 + self.loss.capacity() * 5 / 2;
        let resumes: usize = self.resumes.iter().map(|r| r.version.len() + 100).sum();
        let changes = self.changes.iter();
        let changes: usize = changes.map(|c| c.before.len() + c.after.len() + 100).sum();
        words * 8
            + resumes
            + changes
            + self.exchanges.capacity() * size_of::<(u64, ExchangeEvent)>()
            + self.action.capacity() * 2
            + self.ratio_rows.capacity() * 8
            + self.tensors.bytes()
            + self.ratios.bytes()
            + self.evaluations.capacity() * 32
            + texts
            + flows
    }
}

/// Drops elements from the end while the predicate holds.
fn drop_from<T>(recorded: &mut Vec<T>, is_dropped: impl Fn(&T) -> bool) {
    while recorded.last().is_some_and(&is_dropped) {
        recorded.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::header::{FORMAT, Parameter};

    #[test]
    fn a_repeated_evaluation_counts_once() {
        let mut columns = Columns::default();
        for (step, val_loss) in [(10, 3.0), (20, 2.5), (20, 2.4), (30, 2.0)] {
            let (bits_per_char, perplexity) = (1.0, 1.0);
            let event = Event::Evaluation(Evaluation {
                step,
                val_loss,
                bits_per_char,
                perplexity,
            });
            columns.push(Line::Other(event), 0);
        }
        let losses = columns.evaluations.iter().map(|known| known.val_loss);
        assert_eq!(losses.collect::<Vec<_>>(), [3.0, 2.4, 2.0]);
    }

    /// Columns are in the order of the forward pass, including those that the header did not
    /// create.
    #[test]
    fn a_model_with_many_parameters_has_all_columns() {
        const MANY: usize = 5000;
        let name = |place: usize| format!("layers.{place}.weight");
        let parameter = |place| Parameter {
            name: name(place),
            layer: String::new(),
            shape: vec![1],
        };
        let mut columns = Columns::default();
        let header = Header {
            format: FORMAT,
            parameters: (0..MANY).map(parameter).collect(),
            device: String::new(),
            precision: String::new(),
        };
        columns.push(Line::Other(Event::Header(header)), 0);
        // Names come in alphabetical order, and some first at the second step.
        let mut named: Vec<(Cow<'_, str>, f64)> = (0..MANY)
            .map(|place| (Cow::Owned(name(place)), 1.0))
            .collect();
        named.sort_by(|left, right| left.0.cmp(&right.0));
        let first = Named(
            named
                .iter()
                .filter(|(name, _)| name != "layers.4507.weight")
                .cloned()
                .collect(),
        );
        columns.tensors.push(0, &first);
        columns.tensors.push(1, &Named(named));
        let expected: Vec<String> = (0..MANY).map(name).collect();
        assert_eq!(columns.tensors.names, expected);
        assert!(columns.tensors.values[4507][0].is_nan());
        assert!(columns.tensors.values.iter().all(|values| values[1] == 1.0));
    }

    #[test]
    fn new_names_in_every_row_do_not_fill_the_memory() {
        let mut tensors = Tensors::default();
        for row in 0..3000 {
            let new = (0..20).map(|place| (Cow::Owned(format!("{row}.{place}")), 1.0));
            let same = [(Cow::Borrowed("weight"), 1.0)];
            tensors.push(row, &Named(same.into_iter().chain(new).collect()));
        }
        assert!(tensors.bytes() < 16 << 20, "{}", tensors.bytes());
        assert_eq!(tensors.names[0], "weight");
        assert!(tensors.values[0].iter().all(|value| *value == 1.0));
    }
}
