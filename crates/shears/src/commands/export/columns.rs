//! The columns of the table: their names, and where their values are in the event of a step.

use shears_run::{Evaluation, Event, Events, Log, RunError, StepEvent, action_name};

/// A step, and the evaluation that followed it.
pub(super) struct Row {
    step: StepEvent,
    evaluation: Option<Evaluation>,
}

/// One column.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) read: Read,
}

type ReadReal = dyn Fn(&Row) -> Option<f64>;

/// How to read the value of a column. `None` is a missing value; values that are not finite are
/// NaN.
pub(super) enum Read {
    Whole(fn(&Row) -> u64),
    Real(Box<ReadReal>),
    Text(fn(&Row) -> Option<&str>),
}

fn real(read: impl Fn(&Row) -> Option<f64> + 'static) -> Read {
    Read::Real(Box::new(read))
}

impl Column {
    /// The value as a field of a CSV file.
    pub(super) fn text(&self, row: &Row) -> String {
        match &self.read {
            Read::Whole(read) => read(row).to_string(),
            Read::Real(read) => number(read(row)),
            Read::Text(read) => read(row).unwrap_or_default().to_string(),
        }
    }
}

/// As many digits as it takes to read the same bits back, with an exponent if that is shorter.
fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:?}"))
}

/// The steps of a log, each with its evaluation, one at a time.
pub(super) struct Rows<'a> {
    events: Events<'a>,
    /// A step that an evaluation may still follow.
    waiting: Option<Row>,
}

impl Rows<'_> {
    pub(super) fn of(log: &Log) -> Result<Rows<'_>, RunError> {
        Ok(Rows {
            events: log.events()?,
            waiting: None,
        })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        for event in self.events.by_ref() {
            match event {
                Err(error) => return Some(Err(error)),
                Ok(Event::Step(step)) => {
                    let evaluation = None;
                    let before = self.waiting.replace(Row { step, evaluation });
                    if let Some(row) = before {
                        return Some(Ok(row));
                    }
                }
                Ok(Event::Evaluation(found)) => {
                    let row = self.waiting.as_mut();
                    if let Some(row) = row.filter(|row| row.step.step == found.step) {
                        row.evaluation = Some(found);
                    }
                }
                Ok(_) => {}
            }
        }
        self.waiting.take().map(Ok)
    }
}

/// The columns in their order, tensors last.
pub(super) fn columns(log: &Log, tensors: bool) -> Vec<Column> {
    let named = |(name, read): (&str, Read)| Column {
        name: name.to_string(),
        read,
    };
    let mut columns: Vec<Column> = of_each_step().into_iter().map(named).collect();
    if tensors {
        let known = log.columns.tensors.names.iter();
        columns.extend(known.cloned().map(|tensor| Column {
            name: format!("norm:{tensor}"),
            // Norms that are not finite are not in the log.
            read: real(move |row| row.step.clip.tensors.get(&tensor).copied()),
        }));
    }
    columns
}

fn of_each_step() -> [(&'static str, Read); 17] {
    use Read::{Text, Whole};
    [
        ("step", Whole(|row| row.step.step)),
        // A loss that is not finite is missing in the log.
        ("loss", real(|row| row.step.loss.or(Some(f64::NAN)))),
        ("lr", real(|row| Some(row.step.lr))),
        (
            "tokens_per_second",
            real(|row| Some(row.step.tokens_per_second)),
        ),
        (
            "action",
            Text(|row| Some(action_name(row.step.clip.action))),
        ),
        ("norm_before", real(|row| Some(row.step.clip.norm_before))),
        ("norm_after", real(|row| Some(row.step.clip.norm_after))),
        ("coefficient", real(|row| Some(row.step.clip.coefficient))),
        ("threshold", real(|row| row.step.clip.threshold)),
        (
            "clipped_share",
            real(|row| Some(row.step.clip.clipped_share)),
        ),
        ("cosine", real(|row| row.step.clip.cosine)),
        ("non_finite", Whole(|row| row.step.clip.non_finite)),
        (
            "skip_reason",
            Text(|row| row.step.clip.skip_reason.as_deref()),
        ),
        (
            "first_non_finite",
            Text(|row| row.step.clip.first_non_finite.as_deref()),
        ),
        (
            "val_loss",
            real(|row| row.evaluation.as_ref().map(|found| found.val_loss)),
        ),
        (
            "bits_per_char",
            real(|row| row.evaluation.as_ref().map(|found| found.bits_per_char)),
        ),
        (
            "perplexity",
            real(|row| row.evaluation.as_ref().map(|found| found.perplexity)),
        ),
    ]
}
