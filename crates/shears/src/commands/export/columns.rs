//! The rows of the table, and the names and values of its columns.

use shears_run::{Evaluation, Event, Events, Log, RunError, StepEvent, action_name};

use Cell::{Real, Text, Whole};

/// A step, and the evaluation that followed it.
pub(super) struct Row {
    step: StepEvent,
    evaluation: Option<Evaluation>,
}

/// A value. `None` is a missing one; one that is not finite is NaN.
pub(super) enum Cell<'a> {
    Whole(u64),
    Real(Option<f64>),
    Text(Option<&'a str>),
}

impl Cell<'_> {
    /// As a field of a CSV file: with as many digits as it takes to read the same bits back, and
    /// with an exponent if that is shorter.
    pub(super) fn text(&self) -> String {
        match self {
            Whole(number) => number.to_string(),
            Real(number) => number.map_or(String::new(), |number| format!("{number:?}")),
            Text(text) => text.unwrap_or_default().to_string(),
        }
    }
}

impl Row {
    /// The names of the columns, tensors last.
    pub(super) fn names(&self, tensors: &[String]) -> Vec<String> {
        let names = self.columns().into_iter().map(|(name, _)| name.to_string());
        let of_tensors = tensors.iter().map(|tensor| format!("norm:{tensor}"));
        names.chain(of_tensors).collect()
    }

    /// The values of the columns.
    pub(super) fn cells(&self, tensors: &[String]) -> Vec<Cell<'_>> {
        let cells = self.columns().into_iter().map(|(_, cell)| cell);
        // Norms that are not finite are not in the log.
        let norm = |tensor: &String| Real(self.step.clip.tensors.get(tensor).copied());
        cells.chain(tensors.iter().map(norm)).collect()
    }

    fn columns(&self) -> [(&'static str, Cell<'_>); 17] {
        let (step, clip, found) = (&self.step, &self.step.clip, self.evaluation.as_ref());
        [
            ("step", Whole(step.step)),
            // A loss that is not finite is missing in the log.
            ("loss", Real(step.loss.or(Some(f64::NAN)))),
            ("lr", Real(Some(step.lr))),
            ("tokens_per_second", Real(Some(step.tokens_per_second))),
            ("action", Text(Some(action_name(clip.action)))),
            ("norm_before", Real(Some(clip.norm_before))),
            ("norm_after", Real(Some(clip.norm_after))),
            ("coefficient", Real(Some(clip.coefficient))),
            ("threshold", Real(clip.threshold)),
            ("clipped_share", Real(Some(clip.clipped_share))),
            ("cosine", Real(clip.cosine)),
            ("non_finite", Whole(clip.non_finite)),
            ("skip_reason", Text(clip.skip_reason.as_deref())),
            ("first_non_finite", Text(clip.first_non_finite.as_deref())),
            ("val_loss", Real(found.map(|found| found.val_loss))),
            (
                "bits_per_char",
                Real(found.map(|found| found.bits_per_char)),
            ),
            ("perplexity", Real(found.map(|found| found.perplexity))),
        ]
    }
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
