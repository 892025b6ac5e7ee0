//! One step of a run: all that its line says, beside what is ordinary.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::columns::{Action, Columns};
use crate::log::line_at;
use crate::runs::Run;

/// How many steps before a step say what is ordinary at it.
const ORDINARY: usize = 200;

/// What the page shows of a step.
#[derive(Debug, Serialize)]
pub(crate) struct StepView {
    /// The line of the log as it was written.
    event: Box<RawValue>,
    /// Each tensor's norm, with the median of the steps before; longest first.
    tensors: Vec<TensorNorm>,
    /// The median of all norms of the steps before.
    median_norm: Option<f64>,
    /// How many steps these medians are of.
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
    median: Option<f32>,
    /// Its part of the sum of squares.
    share: f64,
}

struct Place {
    line: u64,
    view: StepView,
}

impl StepView {
    /// The view of a step; none if the log has no such step.
    pub(crate) fn of(run: &Run, step: u64) -> std::io::Result<Option<StepView>> {
        let found = run.with_log(|log| {
            let row = log.columns.row(step)?;
            Some(Place::of(&log.columns, row))
        });
        let Some(Place { line, mut view }) = found else {
            return Ok(None);
        };
        let line = line_at(&run.log_path(), line)?;
        // If the log was cut in this moment, the line is another one or none.
        let event = String::from_utf8(line).map_err(std::io::Error::other)?;
        view.event = RawValue::from_string(event.trim_end().to_string())?;
        Ok(Some(view))
    }
}

impl Place {
    fn of(columns: &Columns, row: usize) -> Place {
        let before = row.saturating_sub(ORDINARY)..row;
        let acted = |row: &usize| columns.action[*row] != Action::Keep;
        let step = |row: usize| columns.step.get(row).copied();
        let norms = before.clone().map(|row| columns.norm_before[row]);
        let view = StepView {
            event: RawValue::NULL.to_owned(),
            tensors: tensor_norms(columns, row),
            median_norm: median(norms.filter(|norm| norm.is_finite()).collect()),
            ordinary: before.len(),
            previous: row.checked_sub(1).and_then(step),
            next: step(row + 1),
            previous_acted: (0..row).rev().find(acted).and_then(step),
            next_acted: (row + 1..columns.rows()).find(acted).and_then(step),
        };
        let line = columns.place[row];
        Place { line, view }
    }
}

fn tensor_norms(columns: &Columns, row: usize) -> Vec<TensorNorm> {
    let before = row.saturating_sub(ORDINARY)..row;
    let tensors = &columns.tensors;
    let norms = tensors.values.iter().map(|values| values[row]);
    let square = |norm: f32| f64::from(norm).powi(2);
    let total: f64 = norms.filter(|norm| norm.is_finite()).map(square).sum();
    let named = tensors.names.iter().zip(&tensors.values);
    let mut found: Vec<TensorNorm> = named
        .filter(|(_, values)| values[row].is_finite())
        .map(|(name, values)| {
            let earlier = values[before.clone()].iter().copied();
            let earlier = earlier.filter(|norm| norm.is_finite()).map(f64::from);
            TensorNorm {
                name: name.clone(),
                norm: values[row],
                median: median(earlier.collect()).map(|median| median as f32),
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

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let upper = numbers.get(middle)?;
    let lower = if numbers.len().is_multiple_of(2) {
        &numbers[middle - 1]
    } else {
        upper
    };
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
    }
}
