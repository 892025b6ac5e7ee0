//! One step of a run: everything in its line, compared with what is usual.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::runs::Run;
use gradclip::ClipAction;
use gradclip_judge::statistics::median;
use gradclip_judge::{Spikes, UsualNorm};
use shears_run::{Columns, ReadProgress};

/// What the page shows of a step.
#[derive(Debug, Serialize)]
pub(crate) struct StepView {
    /// The line of the log as it was written.
    event: Box<RawValue>,
    /// Each tensor's norm and its median over the steps before; largest first.
    tensors: Vec<TensorNorm>,
    /// The global norm relative to its median over the steps before.
    times: Option<f64>,
    /// The number of steps that medians are computed over.
    ordinary: usize,
    previous: Option<u64>,
    next: Option<u64>,
    /// The nearest steps at which clipping did something.
    previous_acted: Option<u64>,
    next_acted: Option<u64>,
}

/// The gradient of one parameter.
#[derive(Debug, Serialize)]
struct TensorNorm {
    name: String,
    norm: f32,
    median: Option<f64>,
    /// The norm relative to the median.
    times: Option<f64>,
    /// Whether that makes a spike.
    far: bool,
    /// Its share of the sum of squares.
    share: f64,
}

struct Found {
    offset: u64,
    view: StepView,
}

impl StepView {
    /// The view of a step; `None` if the log has no such step.
    pub(crate) fn of(
        run: &Run,
        step: u64,
        reach: ReadProgress,
    ) -> std::io::Result<Option<StepView>> {
        let of = |columns: &Columns| Some(Found::of(columns, columns.row(step)?));
        let read = run.with_log(|log| of(&log.columns));
        let found = read.or_else(|| run.with_columns(reach, of));
        let Some(Found { offset, mut view }) = found else {
            return Ok(None);
        };
        let line = run.line(offset)?;
        // If the log was truncated just now, this is another line, or none.
        let event = String::from_utf8(line).map_err(std::io::Error::other)?;
        view.event = RawValue::from_string(event.trim_end().to_string())?;
        Ok(Some(view))
    }
}

impl Found {
    fn of(columns: &Columns, row: usize) -> Found {
        let acted = |row: &usize| columns.action[*row] != ClipAction::Keep;
        let step = |row: usize| columns.step.get(row).copied();
        let usual = usual(row, |row| columns.norm_before[row]);
        let view = StepView {
            event: RawValue::NULL.to_owned(),
            tensors: tensor_norms(columns, row),
            times: times(columns.norm_before[row], usual),
            ordinary: row.min(UsualNorm::WINDOW),
            previous: row.checked_sub(1).and_then(step),
            next: step(row + 1),
            previous_acted: (0..row).rev().find(acted).and_then(step),
            next_acted: (row + 1..columns.rows()).find(acted).and_then(step),
        };
        let offset = columns.offset[row];
        Found { offset, view }
    }
}

/// The median of the last finite norms before a row.
fn usual(row: usize, norm: impl Fn(usize) -> f64) -> Option<f64> {
    let before = (0..row).rev().map(norm).filter(|norm| norm.is_finite());
    median(before.take(UsualNorm::WINDOW))
}

fn times(norm: f64, usual: Option<f64>) -> Option<f64> {
    let times = norm / usual.filter(|usual| *usual > 0.0)?;
    Some(times).filter(|times| times.is_finite())
}

fn tensor_norms(columns: &Columns, row: usize) -> Vec<TensorNorm> {
    let tensors = &columns.tensors;
    let norms = tensors.values.iter().map(|values| values[row]);
    let square = |norm: f32| f64::from(norm).powi(2);
    let total: f64 = norms.filter(|norm| norm.is_finite()).map(square).sum();
    let named = tensors.names.iter().zip(&tensors.values);
    let mut found: Vec<TensorNorm> = named
        .filter(|(_, values)| values[row].is_finite())
        .map(|(name, values)| {
            let median = usual(row, |row| f64::from(values[row]));
            let times = times(f64::from(values[row]), median);
            TensorNorm {
                name: name.clone(),
                norm: values[row],
                median,
                times,
                far: times.is_some_and(|times| times > Spikes::TIMES_USUAL),
                share: if total > 0.0 {
                    square(values[row]) / total
                } else {
                    0.0
                },
            }
        })
        .collect();
    found.sort_by(|left, right| right.norm.total_cmp(&left.norm));
    found
}
