//! The figure of gradients that vanish or explode through time.

use gradclip::ClipAction;
use gradclip_judge::TimeFlow;
use shears_figure::{Axis, Colour, Series};
use shears_run::Columns;

use super::picture::{Picture, chart};
use super::results::Outcome;

/// The norm of the gradient with respect to the state against the distance in time, at the first
/// step and at the end, before and after clipping; none for a model without state.
pub(super) fn through_time(
    index: usize,
    name: &str,
    outcome: &Outcome,
) -> anyhow::Result<Option<Picture>> {
    let [first, .., last] = outcome.columns.time_flows.as_slice() else {
        return Ok(None);
    };
    let mut series = Vec::new();
    for (colour, flow) in [(6, first), (1, last)] {
        let coefficient = coefficient(flow, &outcome.columns);
        let mut lines = vec![(1.0, "before clipping", false)];
        if let Some(coefficient) = coefficient {
            lines.push((coefficient, "after clipping", true));
        }
        for (factor, what, dashed) in lines {
            let name = format!("step {}, {what}", flow.step);
            series.push(Series {
                line: line(flow, factor),
                dashed,
                ..Series::named(name, Colour::Series(colour))
            });
        }
    }
    Ok(Some(Picture {
        name: format!("time-{}", index + 1),
        title: format!("Gradient through time: {name}"),
        reading: format!(
            "Norm of the gradient of one prediction's loss by what the layers carried, that many \
             tokens before: a line that falls steeply is a model that cannot learn what lies far \
             back, one that rises explodes. Clipping by norm (dashed, where that step was \
             clipped) shortens all distances alike, and does not fix a falling line. At step {}: \
             {last}.",
            last.step
        ),
        svg: chart(
            Axis::linear("tokens back"),
            Axis::log("norm, log scale"),
            series,
        )?,
    }))
}

/// The factor by which clipping scaled the gradient in the step with the same weights and batch.
/// That is the next step; the last one has none and uses its own. None if the step was not clipped,
/// was skipped, or changed direction, because then there is no single factor.
fn coefficient(flow: &TimeFlow, columns: &Columns) -> Option<f64> {
    const STRAIGHT: f32 = 1.0 - 1e-6;
    let next = usize::try_from(flow.step).unwrap_or(usize::MAX);
    let at = next.min(columns.rows().checked_sub(1)?);
    let coefficient = columns.coefficient[at];
    let is_one_factor = columns.action[at] == ClipAction::Clip && columns.cosine[at] >= STRAIGHT;
    (is_one_factor && coefficient > 0.0).then_some(coefficient)
}

fn line(flow: &TimeFlow, factor: f64) -> Vec<(f64, f64)> {
    let norms = flow.norms.iter().map(|norm| norm * factor);
    (1..).map(f64::from).zip(norms).collect()
}
